//! Whether nodes of other clusters answer. For the status; backends do not depend on it yet.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use mesh_model::ClusterName;

/// The nodes that are probed, and what came back.
#[derive(Debug, Default)]
pub struct Probes {
    nodes: BTreeMap<(ClusterName, String), NodeProbe>,
}

/// A probe to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The node's address.
    pub address: IpAddr,
    /// What to send; the node sends it back.
    pub nonce: u64,
}

/// How the way to a cluster's nodes is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathHealth {
    /// Nodes that answered lately.
    pub answering: usize,
    /// Nodes that answered once and do so no more.
    pub silent: usize,
    /// Nodes whose first answer may still be on its way.
    pub awaited: usize,
    /// Nodes that never answered: they may run no agent of ours.
    pub unknown: usize,
}

#[derive(Debug)]
struct NodeProbe {
    address: IpAddr,
    first: Option<Instant>,
    sent: Option<(u64, Instant)>,
    answered: Option<Instant>,
}

/// How many nodes of a cluster are probed.
const PROBED: usize = 3;
/// Pause between two probes of a node.
const INTERVAL: Duration = Duration::from_secs(2);
/// A node that has not answered for so long is silent: two probes lost.
const SILENT: Duration = Duration::from_secs(5);

impl Probes {
    /// The nodes of a cluster now. What is known of those that stay is kept.
    pub fn set_nodes<'a>(
        &mut self,
        cluster: &ClusterName,
        nodes: impl Iterator<Item = (&'a str, IpAddr)>,
    ) {
        let nodes: BTreeMap<&str, IpAddr> = nodes.take(PROBED).collect();
        self.nodes.retain(|(of, name), probe| {
            of != cluster || nodes.get(name.as_str()) == Some(&probe.address)
        });
        for (name, address) in nodes {
            let key = (cluster.clone(), name.to_owned());
            let new = NodeProbe { address, first: None, sent: None, answered: None };
            self.nodes.entry(key).or_insert(new);
        }
    }

    /// The probes that are due. `nonce` gives a new one each time.
    pub fn due(&mut self, now: Instant, mut nonce: impl FnMut() -> u64) -> Vec<Probe> {
        let is_due = |probe: &&mut NodeProbe| {
            probe.sent.is_none_or(|(_, sent)| now.saturating_duration_since(sent) >= INTERVAL)
        };
        let due = self.nodes.values_mut().filter(is_due);
        due.map(|probe| {
            let nonce = nonce();
            probe.first.get_or_insert(now);
            probe.sent = Some((nonce, now));
            Probe { address: probe.address, nonce }
        })
        .collect()
    }

    /// An answer. One that nobody asked for, or from elsewhere, is nothing.
    pub fn answered(&mut self, probe: Probe, now: Instant) {
        let asked = |node: &&mut NodeProbe| {
            node.address == probe.address
                && node.sent.is_some_and(|(nonce, _)| nonce == probe.nonce)
        };
        if let Some(node) = self.nodes.values_mut().find(asked) {
            node.answered = Some(now);
        }
    }

    /// How the way to a cluster is.
    pub fn health(&self, cluster: &ClusterName, now: Instant) -> PathHealth {
        let mut health = PathHealth::default();
        let lately = |at: Instant| now.saturating_duration_since(at) < SILENT;
        for (_, node) in self.nodes.iter().filter(|((of, _), _)| of == cluster) {
            match node.answered {
                None if node.first.is_none_or(lately) => health.awaited += 1,
                None => health.unknown += 1,
                Some(at) if lately(at) => health.answering += 1,
                Some(_) => health.silent += 1,
            }
        }
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_and_silence_tells() {
        let b = ClusterName::new("b").unwrap();
        let address = |last: u8| IpAddr::from([172, 31, 2, last]);
        let mut probes = Probes::default();
        let mut now = Instant::now();
        let mut next = 0;
        let mut nonce = || {
            next += 1;
            next
        };
        let nodes = ["n1", "n2", "n3", "n4"];
        probes.set_nodes(&b, nodes.iter().zip(1..).map(|(name, last)| (*name, address(last))));
        let due = probes.due(now, &mut nonce);
        assert_eq!(due.len(), 3, "not all of a large cluster");
        assert!(probes.due(now, &mut nonce).is_empty());
        assert_eq!(probes.health(&b, now), PathHealth { awaited: 3, ..PathHealth::default() });

        probes.answered(due[0], now);
        probes.answered(Probe { nonce: 99, ..due[1] }, now);
        probes.answered(Probe { address: address(9), ..due[2] }, now);
        assert_eq!(
            probes.health(&b, now),
            PathHealth { answering: 1, awaited: 2, ..PathHealth::default() }
        );
        now += SILENT;
        assert_eq!(
            probes.health(&b, now),
            PathHealth { silent: 1, unknown: 2, ..PathHealth::default() }
        );

        probes.set_nodes(&b, [("n1", address(1))].into_iter());
        assert_eq!(probes.health(&b, now), PathHealth { silent: 1, ..PathHealth::default() });
        let due = probes.due(now, &mut nonce);
        probes.answered(due[0], now);
        assert_eq!(probes.health(&b, now), PathHealth { answering: 1, ..PathHealth::default() });
        probes.set_nodes(&b, [("n1", address(7))].into_iter());
        assert_eq!(probes.health(&b, now), PathHealth { awaited: 1, ..PathHealth::default() });
    }
}
