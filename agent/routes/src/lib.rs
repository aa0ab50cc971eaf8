//! The way to other clusters' pods: routes over their nodes, and packets that keep their address on it.
//!
//! Routes carry our own protocol number ([`PROTOCOL`]), so that ours are told from everybody else's; those we leave alone.

mod kernel;
mod kube_proxy;
mod masquerade;
mod table;

pub use kernel::{KernelRoutes, RouteError};
pub use kube_proxy::has_kube_proxy;
pub use masquerade::{Masquerade, MasqueradeError};
pub use table::{Op, RouteTable};

/// What marks a route as ours (`ip route show proto 201`). Not assigned to anybody in `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 201;
