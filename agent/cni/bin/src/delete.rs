//! DEL: a pod is detached.

use mesh_cni::{CniError, Delete};

use crate::{agent, registry};

/// Removes the attachment, if there is one, and reports it to the agent. An agent that is away notices later that the
/// file is gone.
pub(crate) fn run(delete: &Delete) -> Result<(), CniError> {
    let Delete { configuration, key } = delete;
    registry::remove(&configuration.pods_dir, key)?;
    if let Err(error) = agent::unbind(&configuration.agent_socket, key) {
        tracing::warn!(%key, %error, "detached; the agent will see it");
    }
    Ok(())
}
