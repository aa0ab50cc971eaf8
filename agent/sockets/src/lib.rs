//! Ends the sockets whose backend is gone, so that their owners hear of it now and not when a timer of theirs runs out.
//!
//! [`SocketTerminator`] is a thread that goes through the network namespaces of a node, has the kernel list their connected sockets
//! (`sock_diag(7)`), and ends those that are asked for, as `ss -K` does. A TCP socket's owner sees `ECONNABORTED`. So does
//! the owner of a UDP socket who waits for a datagram; one who sends sees `EDESTADDRREQ`, for the socket is not connected
//! any more, and may connect again.
//!
//! Only sockets of ours are ended: what our programs keep in a socket's storage must name the backend by the id that is
//! gone, and the socket's peer must still be that backend. A socket that connected to a pod's address by itself has no such
//! storage. Where no socket hangs on a backend, which is the rule, no namespace is gone into.
//!
//! Architecture invariant: this crate decides nothing. Which backends are gone is told by whoever knows.

mod diag;
mod kernel;
mod namespace;
mod pace;
mod queue;
mod removed_backends;
mod scan;
mod terminator;

pub use namespace::Netns;
pub use queue::Target;
pub use removed_backends::RemovedBackends;
pub use terminator::{Counts, Ended, Reason, SocketTerminator};
