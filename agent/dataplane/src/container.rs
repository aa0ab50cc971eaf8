//! Whether the agent runs in a container.

use std::process;

/// Whether this process is the first of its process namespace, as a container's is. Everything in such a namespace is the
/// agent's: another process there was started by it, or by `kubectl exec`.
pub fn is_container() -> bool {
    process::id() == 1
}
