//! The path to other clusters' pods: routes over their nodes, and packets that keep their address on it.
//!
//! [`RouteTable`] computes, without IO, which routes there should be. [`RouteTarget`] and [`MasqueradeTarget`] are the
//! targets of writers (`mesh_reconcile::Writer`) that bring the kernel to that, each with a task and sockets of its
//! own. Both use netlink; no other program is run.
//!
//! Routes carry our own protocol number ([`PROTOCOL`]), so that ours can be distinguished from those of other programs,
//! which we leave alone.

use std::net::IpAddr;

mod interfaces;
mod kube_proxy;
mod masquerade_target;
mod netlink;
mod nftables;
mod prefix_set;
mod route_table;
mod route_target;
mod route_writers;
mod sysctls;

pub use interfaces::{
    Attachments, Interface, InterfaceError, InterfaceKind, Interfaces, attachments,
};
pub use kube_proxy::{
    FoundKubeProxy, KubeProxyNeed, KubeProxyWatch, has_kube_proxy, has_kube_proxy_here,
};
pub use masquerade_target::{Exempt, MasqueradeError, MasqueradeTarget};
pub use nftables::ExemptSet;
pub use route_table::{RouteChange, RouteState, RouteSummary, RouteTable};
pub use route_target::{NextHop, OtherRoute, RouteError, RouteEvent, RouteTarget};
pub use route_writers::{RouteWriters, RouteWritersError, reason};
pub use sysctls::{SysctlEffect, SysctlProblem, sysctl_problems};

/// The number that marks a route as ours (`ip route show proto 201`). Not assigned to any program in
/// `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 201;
/// The least metric of our routes; at most 65,535 more. Higher than what routing daemons and network managers use, so
/// that their routes to the same range come first.
pub const METRIC: u32 = 1_000_000;

/// The metric of a route over a next hop. IPv4 looks for a next hop like a new route's in a hash table that
/// distinguishes them by metric and interface, and not by gateway (`fib_info_hashfn` in `net/ipv4/fib_semantics.c`):
/// with one metric for all, each of n routes is compared with all before it.
fn metric(via: IpAddr) -> u32 {
    let address = match via {
        IpAddr::V4(address) => address.to_bits(),
        // Each route of IPv6 is by itself.
        IpAddr::V6(_) => 0,
    };
    METRIC + ((address ^ (address >> 16)) & 0xffff)
}
