//! The state of all clusters, for status and metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mesh_model::ClusterName;

/// How the ways to all clusters are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each cluster's.
    pub clusters: BTreeMap<ClusterName, ClusterHealth>,
    /// The counters.
    pub counts: Counts,
    /// No node answers any more, of several clusters: it may be the local uplink that is cut, and no node is taken for
    /// dead.
    pub isolated: bool,
    /// Addresses of nodes in use.
    pub in_use: u32,
    /// The longest time until the death of a node in use is detected.
    pub detection: Duration,
    /// And of one at whose port no agent listens.
    pub detection_without_agent: Duration,
    /// The clusters' state words in the kernel.
    pub words: Words,
    /// Why nodes cannot be asked, or cannot be answered.
    pub problems: Vec<String>,
}

/// How the way to a cluster's nodes is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterHealth {
    /// Nodes that answer.
    pub answering: usize,
    /// Those of them whose kernel answers, at all addresses that are probed.
    pub by_kernel: usize,
    /// Those of them at one of whose addresses no agent listens.
    pub without_agent: usize,
    /// Nodes that answered once and no longer do, at one address at least.
    pub dead: BTreeSet<Arc<str>>,
    /// Nodes that lost their last probes and are not known to be dead.
    pub missing: usize,
    /// Nodes whose first answer may still be on its way.
    pub awaited: usize,
    /// Nodes that never answered: a firewall may keep probes away.
    pub never_answered: usize,
    /// Nodes in use that never answered or have no address, while most of the cluster's nodes in use did answer.
    pub unverified: BTreeSet<Arc<str>>,
    /// None answers, nor does the cluster's etcd: its backends are out of use.
    pub cut: bool,
    /// Nodes that are dead again and again, and so must answer for longer than others before they are back.
    pub damped: usize,
}

/// The counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Probes sent.
    pub sent: u64,
    /// Probes answered.
    pub answered: u64,
    /// Probes that came back because no agent listens there.
    pub refused: u64,
    /// Addresses that died.
    pub deaths: u64,
    /// Addresses that came back.
    pub returns: u64,
    /// Deaths soon after a return, after which the next return takes longer.
    pub damped: u64,
    /// Clusters that were cut.
    pub cuts: u64,
    /// How often the prober itself was stalled: probes that were on their way then do not count as lost.
    pub stalls: u64,
}

/// Writes of the clusters' state words in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Audits.
    pub audits: u64,
    /// State words that an audit found to differ from what they should be.
    pub repairs: u64,
}

// === impl Report ===

impl Report {
    /// Clusters with nodes that are used only where there are no others, each with a sentence.
    pub fn unverified(&self) -> impl Iterator<Item = (&ClusterName, String)> {
        let unverified = self.clusters.iter().filter(|(_, health)| !health.unverified.is_empty());
        unverified.map(|(name, health)| {
            let nodes: Vec<&str> = health.unverified.iter().take(5).map(AsRef::as_ref).collect();
            let more = if health.unverified.len() > nodes.len() { ", …" } else { "" };
            let message = format!(
                "{} nodes of {name} have no address or have never answered a probe, while others of it do, so their pods \
                 are used only where there are no others: {}{more}",
                health.unverified.len(),
                nodes.join(", ")
            );
            (name, message)
        })
    }
}

// === impl ClusterHealth ===

impl ClusterHealth {
    /// All probed nodes.
    pub fn all(&self) -> usize {
        self.answering + self.dead.len() + self.missing + self.awaited + self.never_answered
    }
}
