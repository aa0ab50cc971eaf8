//! Connections are distributed over both clusters.

use crate::echo_service::{CLIENT, ECHO, PROTOCOLS, client_ips, two_clusters_with_echo};
use crate::{
    load::{Assert as _, fresh},
    mesh::{Mesh, frontends},
};

/// The number of requests of each kind.
const REQUESTS: u32 = 5_000;
const RATE: u32 = 1_500;

/// TCP and connected UDP, IPv4 and IPv6: every backend of both clusters gets its share, servers see the client's address,
/// and `getpeername` returns the service's address (else the load counts a failure).
pub fn connections_spread_over_both_clusters(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let clients = client_ips(mesh, &one);
    for (protocol, _) in PROTOCOLS {
        let addresses = frontends(mesh, &one, ECHO, protocol);
        assert_eq!(addresses.len(), 2, "v4 and v6");
        for address in addresses {
            println!("{protocol} to {address}");
            let flag = format!("--{}", protocol.to_lowercase());
            let report = fresh(mesh, &one, CLIENT, (&flag, address), REQUESTS, RATE);
            report.assert_unharmed();
            report.assert_spread(&[(&one, 2), (&other, 2)]);
            report.assert_clients(&clients);
        }
    }
}
