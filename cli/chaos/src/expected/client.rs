//! Which backends clients on a node may reach, where the service asks for backends near them.

use mesh_model::object::Service;

use super::Served;

/// Where clients are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'a> {
    /// The ID of their cluster.
    pub(super) cluster: u16,
    pub(super) node: &'a str,
    /// The node's zone, if it is in one.
    pub(super) zone: Option<&'a str>,
}

/// A backend, with the ID of its cluster.
type Backend<'a> = (u16, &'a Served);

/// For whom a backend is meant: nodes, or zones.
type Hints = fn(&Served) -> &[String];

// === impl Client ===

impl Client<'_> {
    /// Those backends that clients reach, of all that a service has at one of its addresses.
    pub(super) fn reached<'a>(
        &self,
        service: &Service,
        mut pool: Vec<Backend<'a>>,
    ) -> Vec<Backend<'a>> {
        if service.internal_traffic_local {
            pool.retain(|backend| self.shares_node_with(backend));
        } else if follows_hints(service) {
            pool = self.hinted(pool);
        }
        // Those that shut down are for when there is no other.
        if pool.iter().any(is_ready) {
            pool.retain(is_ready);
        }
        pool
    }

    /// Whether connections to a backend stay on the node. Of another cluster's it is assumed where that names no node.
    fn shares_node_with(&self, (cluster, served): &Backend<'_>) -> bool {
        let node = &served.location.node;
        if *cluster == self.cluster { node == self.node } else { node.is_empty() }
    }

    /// Those that are meant for clients here, and other clusters' as they are. All of them, unless each ready one of the local
    /// cluster is meant for some clients, and one of them for these: by node, or else by zone.
    fn hinted<'a>(&self, pool: Vec<Backend<'a>>) -> Vec<Backend<'a>> {
        let by_node: Hints = |served| &served.location.for_nodes;
        let by_zone: Hints = |served| &served.location.for_zones;
        let is_local = |(cluster, _): &Backend<'_>| *cluster == self.cluster;
        for (here, hints) in [(Some(self.node), by_node), (self.zone, by_zone)] {
            let Some(here) = here else { continue };
            let is_meant = |served: &Served| hints(served).iter().any(|name| name == here);
            let usable: Vec<&Served> = pool
                .iter()
                .filter(|backend| is_local(backend) && is_ready(backend))
                .map(|(_, served)| *served)
                .collect();
            let has_all = usable.iter().all(|served| !hints(served).is_empty());
            if has_all && usable.iter().any(|served| is_meant(served)) {
                let is_kept = |backend: &Backend<'_>| !is_local(backend) || is_meant(backend.1);
                return pool.into_iter().filter(is_kept).collect();
            }
        }
        pool
    }
}

/// Whether a backend does not shut down.
fn is_ready((_, served): &Backend<'_>) -> bool {
    !served.location.terminating
}

/// Whether a service asks for backends near its clients. The older annotation counts before the newer one.
fn follows_hints(service: &Service) -> bool {
    let mode = ["topology-aware-hints", "topology-mode"]
        .iter()
        .find_map(|name| service.annotations.get(&format!("service.kubernetes.io/{name}")));
    let is_auto = mode.is_some_and(|mode| mode == "Auto" || mode == "auto");
    is_auto || service.traffic_distribution.is_some()
}
