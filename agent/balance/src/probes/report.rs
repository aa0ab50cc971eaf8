//! What is told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mesh_model::ClusterName;

use super::{FAST, Probes, REFUSED, cluster::Cluster, failure_detector::ROW};

/// How the ways to all clusters are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each cluster's.
    pub clusters: BTreeMap<ClusterName, ClusterHealth>,
    /// What was counted.
    pub counts: ProbeCounts,
    /// Nobody answers any more, of several clusters: it may be our own way out that is cut, and nobody is taken for dead.
    pub alone: bool,
    /// Addresses of nodes in use, all of which are asked equally often.
    pub in_use: u32,
    /// A node in use that dies is noticed after so long at most.
    pub detection: Duration,
    /// And one whose agent is away, after so long.
    pub detection_without_agent: Duration,
}

/// How the way to a cluster's nodes is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterHealth {
    /// Nodes that answer.
    pub answering: usize,
    /// Those of them that say at an address that no agent is there.
    pub without_agent: usize,
    /// Nodes that answered once and do so no more, at an address at least.
    pub dead: BTreeSet<Arc<str>>,
    /// Nodes that are silent and not known to be dead.
    pub silent: usize,
    /// Nodes whose first answer may still be on its way.
    pub awaited: usize,
    /// Nodes that never answered: a firewall may keep probes away.
    pub unknown: usize,
    /// None answers, nor does the cluster's etcd: its backends are out of use.
    pub cut: bool,
    /// Nodes that are dead again and again, and so must be heard for longer than others before they are back.
    pub damped: usize,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// Probes sent.
    pub sent: u64,
    /// Probes answered.
    pub answered: u64,
    /// Probes that came back because no agent is there.
    pub refused: u64,
    /// Addresses that died.
    pub deaths: u64,
    /// Addresses that came back.
    pub returns: u64,
    /// Deaths soon after a return, after which the next return takes longer.
    pub damped: u64,
    /// Clusters that were cut.
    pub cuts: u64,
}

// === impl ClusterHealth ===

impl ClusterHealth {
    /// All probed nodes.
    pub fn all(&self) -> usize {
        self.answering + self.dead.len() + self.silent + self.awaited + self.unknown
    }

    fn new(cluster: &Cluster) -> Self {
        let mut health = Self { cut: cluster.cut, ..Self::default() };
        let mut paths = cluster.paths.iter().peekable();
        while let Some(((node, _), _)) = paths.peek() {
            let node = Arc::clone(node);
            let mut of_node = Vec::new();
            while let Some((_, path)) = paths.next_if(|((of, _), _)| *of == node) {
                of_node.push(&path.detector);
            }
            let any = |is: fn(&super::failure_detector::FailureDetector) -> bool| {
                of_node.iter().any(|s| is(s))
            };
            health.damped += usize::from(any(|s| s.is_dead() && !s.hold().is_zero()));
            if any(|s| s.is_dead()) {
                health.dead.insert(node);
            } else if any(|s| s.is_missing().is_some()) {
                health.silent += 1;
            } else if any(|s| s.is_known()) {
                health.answering += 1;
                health.without_agent += usize::from(any(|s| s.refuses()));
            } else if any(|s| s.is_awaited()) {
                health.awaited += 1;
            } else {
                health.unknown += 1;
            }
        }
        health
    }
}

impl Probes {
    /// How everything stands.
    pub fn report(&self) -> Report {
        let clusters: BTreeMap<ClusterName, ClusterHealth> = self
            .clusters
            .iter()
            .map(|(name, cluster)| (name.clone(), ClusterHealth::new(cluster)))
            .collect();
        let living = self.clusters.values().filter(|cluster| cluster.lives());
        let heard = self.clusters.values().flat_map(|cluster| cluster.paths.values()).any(|path| {
            path.detector.is_known()
                && !path.detector.is_dead()
                && path.detector.is_missing().is_none()
        });
        Report {
            clusters,
            counts: self.counts,
            alone: !heard && living.count() > 1,
            in_use: self.intervals.addresses,
            detection: self.intervals.in_use + FAST * ROW,
            detection_without_agent: self.intervals.refused + REFUSED * (ROW - 1) + FAST,
        }
    }
}
