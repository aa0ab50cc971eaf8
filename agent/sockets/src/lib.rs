//! Ends the sockets whose backend is gone, so that their owners notice now and not when a timer of theirs runs out.
//!
//! [`SocketTerminator`] is a thread that goes through the network namespaces of a node. In each, a program of ours
//! lists the sockets that our programs connected to backends (`docs/adr/0018`), and the kernel ends those that the
//! thread selects (`sock_diag(7)`, as `ss -K` does). The owner of a TCP socket gets `ECONNABORTED`. So does the owner
//! of a UDP socket that waits for a datagram; when it sends, it gets `EDESTADDRREQ`, because the socket is not
//! connected any more, and may connect again.
//!
//! Only sockets of ours are ended: what our programs keep in a socket's storage must name the backend by its removed
//! ID, and the socket's peer must still be that backend. A socket that connected to a pod's address directly has no
//! such storage.
//!
//! [`BackendSockets`] is an agent's interface to this. Architecture invariant: this crate decides nothing. The caller
//! knows which backends are gone, and since when.

mod backend_sockets;
mod diag;
mod kernel;
mod namespace;
mod pace;
mod queue;
mod removed_backends;
mod scan;
mod terminator;

pub use backend_sockets::BackendSockets;
pub use namespace::Netns;
pub use queue::{Reason, Target};
pub use removed_backends::RemovedBackends;
pub use terminator::{Counts, Ended, SocketTerminator};
