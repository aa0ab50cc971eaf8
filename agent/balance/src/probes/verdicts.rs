//! From what single clusters look like to what is said of them.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_model::ClusterName;

use super::{
    FAST, HealthChange, PathKey, Probes, REFUSALS,
    cluster::{Cluster, Etcd, Path, SelfCheck, TOGETHER},
};

/// How many others are asked at once when somebody is silent: of so many clusters, so many addresses each.
const WITNESSES: (usize, usize) = (4, 2);

/// What falls silent within so long of each other, with nobody left who answers, does so for one reason.
const ONE_AFTER_ANOTHER: Duration = Duration::from_secs(3);

impl Probes {
    /// Somebody is silent: others are asked now, and not when it is their turn. If they are silent too, it is us.
    pub(super) fn call_witnesses(&mut self, about: &PathKey, now: Instant) {
        let (clusters, each) = WITNESSES;
        let idle = |path: &Path| {
            let apart = if path.detector.refuses() { REFUSALS } else { FAST };
            path.detector.is_firm() && path.last_sent.is_none_or(|sent| sent + apart <= now)
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
            let self_checks = self.self_checks(&name, now);
            let Some(cluster) = self.clusters.get_mut(&name) else { continue };
            let findings = cluster.judge(name == self.own, self_checks.as_deref(), now);
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
            if findings.held {
                self.take_back_deaths();
            }
        }
    }

    /// Somebody is missing, and nobody answers who could be a self_check. Who died just before did not die alone: ways are cut
    /// one after another.
    fn take_back_deaths(&mut self) {
        let mut paths = self.clusters.values().flat_map(|cluster| cluster.paths.values());
        if paths.any(|path| path.detector.is_firm()) {
            return;
        }
        let last = self
            .clusters
            .values()
            .filter_map(|cluster| Some(cluster.self_checks.back()?.until))
            .max();
        let Some(last) = last else { return };
        let after = last.checked_sub(ONE_AFTER_ANOTHER).unwrap_or(last);
        for (name, cluster) in &mut self.clusters {
            for path in cluster.paths.values_mut() {
                if path.detector.take_back_death(after, last) {
                    self.undecided.insert(name.clone());
                }
            }
        }
    }

    /// When others than a cluster's answered, if there are others, or were until a moment ago.
    fn self_checks(&self, about: &ClusterName, now: Instant) -> Option<Vec<SelfCheck>> {
        let lately = now.checked_sub(ONE_AFTER_ANOTHER + TOGETHER).unwrap_or(now);
        let lived = |cluster: &Cluster| {
            let silent =
                cluster.paths.values().filter_map(|path| path.detector.died_silent_since());
            cluster.lives() || silent.max().is_some_and(|silent| silent >= lately)
        };
        let mut others = self
            .clusters
            .iter()
            .filter(|(name, cluster)| *name != about && lived(cluster))
            .peekable();
        others.peek()?;
        let self_checks = others.flat_map(|(name, cluster)| {
            let etcd = match cluster.etcd {
                Etcd::Answered { at } if *name != self.own => {
                    Some(SelfCheck { from: at, until: at })
                }
                _ => None,
            };
            cluster.self_checks.iter().copied().chain(etcd)
        });
        Some(self_checks.collect())
    }
}
