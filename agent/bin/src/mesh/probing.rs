//! Asking nodes whether they are there.

use std::time::Instant;

use mesh_decide::Probe;

use super::Mesh;
use crate::probe::ProbeSocket;

impl Mesh {
    /// Sends the probes that are due.
    pub(super) async fn probe(&mut self, socket: Option<&ProbeSocket>) {
        for name in self.peers.keys() {
            // By IPv4 where there is one.
            let address =
                |ips: &[std::net::IpAddr]| ips.iter().min_by_key(|ip| ip.is_ipv6()).copied();
            let nodes =
                self.merge.nodes(name).filter(|(node, _)| *name != self.own || *node != self.node);
            let nodes = nodes.filter_map(|(node, ips)| Some((node, address(ips)?)));
            self.probes.set_nodes(name, nodes);
        }
        if let Some(socket) = socket {
            for probe in self.probes.due(Instant::now(), rand_nonce) {
                socket.ask(probe).await;
            }
        }
    }
}

pub(super) async fn answer(socket: Option<&ProbeSocket>) -> Probe {
    if let Some(socket) = socket {
        match socket.answer().await {
            Ok(probe) => return probe,
            Err(error) => tracing::warn!(%error, "the probe echo"),
        }
    }
    std::future::pending().await
}

/// A number that nobody can guess well enough to answer in another's place.
fn rand_nonce() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
