//! From what single clusters look like to what is said of them.

use std::{net::IpAddr, sync::Arc, time::Instant};

use mesh_model::ClusterName;

use super::{
    FAST, HealthChange, PathKey, Probes,
    cluster::{Cluster, Etcd, Path},
};

/// How many others are asked at once when somebody is silent: of so many clusters, so many addresses each.
const WITNESSES: (usize, usize) = (4, 2);

impl Probes {
    /// Somebody is silent: others are asked now, and not when it is their turn. If they are silent too, it is us.
    pub(super) fn call_witnesses(&mut self, about: &PathKey, now: Instant) {
        let (clusters, each) = WITNESSES;
        let idle = |path: &Path| {
            path.standing.is_firm() && path.last_sent.is_none_or(|sent| sent + FAST <= now)
        };
        let others = self.clusters.iter_mut().filter(|(name, c)| **name != about.0 && c.lives());
        let mut called = Vec::new();
        for (name, cluster) in others.take(clusters) {
            let paths = cluster.paths.iter_mut().filter(|(_, path)| idle(path)).take(each);
            called.extend(paths.map(|(key, path)| (name.clone(), key.clone(), path)));
        }
        for (name, (node, address), path) in called {
            let key = (name, node, address);
            self.agenda.remove(&(path.due, key.clone()));
            (path.due, path.last_sent) = (now, None);
            self.agenda.insert((now, key));
        }
    }

    /// Says what follows for the clusters that are undecided.
    pub(super) fn judge(&mut self, now: Instant) {
        self.judged = now;
        for name in std::mem::take(&mut self.undecided) {
            let witness = self.witness(&name);
            let Some(cluster) = self.clusters.get_mut(&name) else { continue };
            let findings = cluster.judge(name == self.own, witness, now);
            self.counts.deaths += findings.deaths;
            self.counts.damped += findings.damped;
            self.counts.cuts += u64::from(findings.cut == Some(true));
            let cut = findings.cut.map(|cut| HealthChange::Cluster { cluster: name.clone(), cut });
            // Who is dead is said before a cluster is back.
            let (alive, dead) = findings.nodes.into_iter().partition(|(_, _, alive)| *alive);
            let node = |(node, address, alive): (Arc<str>, IpAddr, bool)| HealthChange::Node {
                cluster: name.clone(),
                node,
                address,
                alive,
            };
            let (alive, dead): (Vec<_>, Vec<_>) = (alive, dead);
            let dead: Vec<HealthChange> = dead.into_iter().map(node).collect();
            let alive: Vec<HealthChange> = alive.into_iter().map(node).collect();
            self.changes.extend(dead.into_iter().chain(cut).chain(alive));
            if findings.again {
                self.undecided.insert(name);
            }
        }
    }

    /// When somebody outside a cluster was last asked who answered, if there is somebody.
    fn witness(&self, about: &ClusterName) -> Option<Option<Instant>> {
        let others =
            self.clusters.iter().filter(|(name, cluster)| *name != about && cluster.lives());
        let etcd = |name: &ClusterName, cluster: &Cluster| match cluster.etcd {
            Etcd::Answered { at } if *name != self.own => Some(at),
            _ => None,
        };
        others.map(|(name, cluster)| cluster.witness.max(etcd(name, cluster))).max()
    }
}
