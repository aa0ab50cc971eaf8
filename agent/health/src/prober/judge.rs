//! From the state of single clusters to what is reported of them.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_model::ClusterName;

use super::{
    PathKey, Prober,
    cluster::{Cluster, TOGETHER},
};
use crate::verdict::Verdict;

/// How many others are probed immediately when an address does not answer: this many clusters, this many addresses
/// each.
const ASKED_AT_ONCE: (usize, usize) = (4, 2);

/// If all stop answering within this time of each other, they do so for one reason.
const ONE_AFTER_ANOTHER: Duration = Duration::from_secs(3);

impl Prober {
    /// An address does not answer: others are asked now, and not when it is their turn. If they do not answer either, it is
    /// the local uplink.
    pub(super) fn check_ourselves(&mut self, about: &PathKey, now: Instant) {
        let (clusters, each) = ASKED_AT_ONCE;
        let others = self.clusters.iter_mut().filter(|(name, c)| **name != about.0 && c.lives());
        for (name, cluster) in others.take(clusters) {
            let paths = cluster.paths.iter_mut().filter(|(_, path)| path.may_be_asked(now));
            for ((node, address), path) in paths.take(each) {
                let key = (name.clone(), Arc::clone(node), *address);
                self.agenda.remove(&(path.due, key.clone()));
                path.hasten(now);
                self.agenda.insert((now, key));
            }
        }
    }

    /// Reports what follows for the clusters that are undecided.
    pub(super) fn judge(&mut self, now: Instant) {
        self.judged = now;
        for name in std::mem::take(&mut self.undecided) {
            let has_others = self.has_others(&name, now);
            let Some(cluster) = self.clusters.get_mut(&name) else { continue };
            let self_check = has_others.then_some(&self.self_check);
            let findings = cluster.judge(name == self.local, self_check, now);
            let last_answer = cluster.last_answer();
            self.counts.deaths += findings.deaths;
            self.counts.damped += findings.damped;
            self.counts.cuts += u64::from(findings.cut == Some(true));
            let cut = findings.cut.map(|cut| Verdict::Cluster {
                cluster: name.clone(),
                cut,
                last_answer,
            });
            let node = |(node, address, alive, last_answer): Addressed| Verdict::Node {
                cluster: name.clone(),
                node,
                address,
                alive,
                last_answer,
            };
            // Which nodes are dead is reported before their cluster is back.
            let (alive, dead): (Vec<_>, Vec<_>) =
                findings.nodes.into_iter().partition(|(_, _, alive, _)| *alive);
            self.verdicts.extend(dead.into_iter().map(node));
            self.verdicts.extend(cut);
            self.verdicts.extend(alive.into_iter().map(node));
            let unverified = findings.unverified.into_iter().map(|(node, unverified)| {
                Verdict::Unverified { cluster: name.clone(), node, unverified }
            });
            self.verdicts.extend(unverified);
            if findings.again {
                self.undecided.insert(name);
            }
            if findings.held {
                self.take_back_deaths();
            }
        }
    }

    /// An address is missing, and nothing answers that could be evidence. Nodes that died just before did not die
    /// alone: the paths of an uplink fail one after another.
    fn take_back_deaths(&mut self) {
        let mut paths = self.clusters.values().flat_map(|cluster| cluster.paths.values());
        if paths.any(|path| path.detector.is_firm()) {
            return;
        }
        let Some(last) = self.self_check.last() else { return };
        let after = last.checked_sub(ONE_AFTER_ANOTHER).unwrap_or(last);
        for (name, cluster) in &mut self.clusters {
            for path in cluster.paths.values_mut() {
                if path.detector.take_back_death(after, last) {
                    self.undecided.insert(name.clone());
                }
            }
        }
    }

    /// Whether other clusters have nodes that answer, or had until a moment ago.
    fn has_others(&self, about: &ClusterName, now: Instant) -> bool {
        let lately = now.checked_sub(ONE_AFTER_ANOTHER + TOGETHER).unwrap_or(now);
        let lived = |cluster: &Cluster| {
            let since = cluster.paths.values().filter_map(|path| path.detector.dead_since());
            cluster.lives() || since.max().is_some_and(|since| since >= lately)
        };
        self.clusters.iter().any(|(name, cluster)| name != about && lived(cluster))
    }
}

/// A node's address, whether it answers, and when it did so last.
type Addressed = (Arc<str>, IpAddr, bool, Option<Instant>);
