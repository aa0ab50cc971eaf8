//! Clusters that are not heard. What a peer said is used until its budget is spent, and again as soon as it is heard: its
//! pods need nobody to speak for them, but nobody would say that they are gone either. For the own cluster there is nobody
//! else to ask, so what it said is used for ever.
//!
//! Silent is who there is no connection to. An etcd that answers and whose writer says nothing is shown in the status and
//! is not silent: heartbeats come once a minute, and budgets may be shorter.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh_model::ClusterName;

use super::Mesh;

/// Who is silent, and since when.
#[derive(Debug)]
pub(crate) struct Staleness {
    budget: Duration,
    since: BTreeMap<ClusterName, Instant>,
    /// Their budget is spent.
    stale: BTreeMap<ClusterName, Instant>,
}

impl Staleness {
    /// Nobody is silent yet.
    pub(crate) fn new(budget: Duration) -> Self {
        Self { budget, since: BTreeMap::new(), stale: BTreeMap::new() }
    }

    /// How a peer's connection stands now, and whether all it has is known over it. Returns whether what it says is used
    /// from now on, or no more.
    fn look(&mut self, peer: &ClusterName, connected: bool, synced: bool, now: Instant) -> bool {
        if !connected {
            let since = *self.since.entry(peer.clone()).or_insert(now);
            let spent = now.saturating_duration_since(since) >= self.budget;
            return spent && self.stale.insert(peer.clone(), since).is_none();
        }
        // What it said before may be long untrue: it is used again when it has said it again.
        if self.stale.contains_key(peer) && !synced {
            return false;
        }
        self.since.remove(peer);
        self.stale.remove(peer).is_some()
    }

    fn forget(&mut self, peer: &ClusterName) {
        self.since.remove(peer);
        self.stale.remove(peer);
    }

    /// Whether what a cluster said is no longer used.
    pub(crate) fn is_stale(&self, peer: &ClusterName) -> bool {
        self.stale.contains_key(peer)
    }

    /// What an operator should look at.
    pub(crate) fn problems(&self, now: Instant) -> impl Iterator<Item = String> {
        self.stale.iter().map(move |(peer, since)| {
            let silent = now.saturating_duration_since(*since).as_secs();
            let budget = self.budget.as_secs();
            format!("{peer}: not heard for {silent} s, more than its {budget} s: its backends are no longer used")
        })
    }
}

impl Mesh {
    /// Looks who is silent, and lets go of what is no longer believed.
    pub(super) fn look_for_silence(&mut self, now: Instant) {
        let names: Vec<ClusterName> =
            self.peers.keys().filter(|name| **name != self.own).cloned().collect();
        for name in names {
            let status = self.status(&name);
            // One in quarantine is heard, and nothing is taken of it.
            let taken = status.is_synced() || self.quarantined.contains_key(&name);
            if !self.staleness.look(&name, status.connected, taken, now) {
                continue;
            }
            if self.staleness.is_stale(&name) {
                tracing::warn!(peer = %name, "not heard for too long: its backends are no longer used");
            } else {
                tracing::info!(peer = %name, "heard again: its backends are used again");
            }
            self.cluster_is(&name, now);
        }
    }

    pub(super) fn forget_silence(&mut self, name: &ClusterName) {
        self.staleness.forget(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_believed_until_its_budget_is_spent_and_again_when_it_is_heard() {
        let (b, c) = (ClusterName::new("b").unwrap(), ClusterName::new("c").unwrap());
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let mut staleness = Staleness::new(Duration::from_secs(900));
        assert!(!staleness.look(&b, true, true, at(0)));
        assert!(!staleness.look(&b, false, false, at(10)));
        assert!(!staleness.look(&b, false, false, at(909)));
        assert!(!staleness.look(&c, false, false, at(909)), "each has its own");
        // Heard in between: it begins anew.
        assert!(!staleness.look(&b, true, false, at(909)));
        assert!(!staleness.look(&b, false, false, at(910)));
        assert!(!staleness.look(&b, false, false, at(1_809)));
        assert!(staleness.look(&b, false, false, at(1_810)));
        assert!(staleness.is_stale(&b) && !staleness.is_stale(&c));
        assert!(!staleness.look(&b, false, false, at(1_811)), "said once");
        let problem = staleness.problems(at(1_900)).next().unwrap();
        assert!(problem.contains("b: not heard for 990 s, more than its 900 s"), "{problem}");

        assert!(!staleness.look(&b, true, false, at(1_900)), "it has to say it again first");
        assert!(staleness.is_stale(&b));
        assert!(staleness.look(&b, true, true, at(1_901)));
        assert!(!staleness.is_stale(&b));
        assert!(staleness.look(&c, false, false, at(1_901)));
        staleness.forget(&c);
        assert!(!staleness.is_stale(&c));
    }
}
