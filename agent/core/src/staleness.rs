//! Peers that cannot be followed. What a peer reported stays in use until its staleness budget is spent, and is used
//! again as soon as the peer has been listed again. For the local cluster there is no other source, so its state never
//! expires.
//!
//! A peer is unreachable here when there is no connection to its etcd. If an etcd answers and its writer reports
//! nothing, the status shows that, and the peer is not unreachable: heartbeats come once a minute, and budgets may be
//! shorter.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh_model::ClusterName;

use crate::{
    input::Connection,
    problem::{Problem, ProblemKind},
};

/// Which peers cannot be followed, and since when.
#[derive(Debug)]
pub(crate) struct Staleness {
    budget: Duration,
    since: BTreeMap<ClusterName, Instant>,
    /// Their budget is spent.
    stale: BTreeMap<ClusterName, Instant>,
}

/// A peer that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// Since when.
    pub since: Instant,
    /// When what it reported is no longer used.
    pub stale_at: Instant,
    /// It is no longer used.
    pub stale: bool,
}

/// A change of a peer's staleness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StalenessChange {
    /// It is in use, or out of use, as before.
    None,
    /// It is no longer used.
    Stale,
    /// It is used again.
    Fresh,
}

impl Staleness {
    /// No peer is unreachable yet.
    pub(crate) fn new(budget: Duration) -> Self {
        Self { budget, since: BTreeMap::new(), stale: BTreeMap::new() }
    }

    /// How a peer's connection is now.
    pub(crate) fn look(
        &mut self,
        peer: &ClusterName,
        connection: Connection,
        now: Instant,
    ) -> StalenessChange {
        if !connection.connected {
            let since = *self.since.entry(peer.clone()).or_insert(now);
            let spent = now.saturating_duration_since(since) >= self.budget;
            return match spent && self.stale.insert(peer.clone(), since).is_none() {
                true => StalenessChange::Stale,
                false => StalenessChange::None,
            };
        }
        // Its former reports may be long outdated: it is used again after it was listed again.
        if self.stale.contains_key(peer) && !connection.synced {
            return StalenessChange::None;
        }
        self.since.remove(peer);
        match self.stale.remove(peer) {
            Some(_) => StalenessChange::Fresh,
            None => StalenessChange::None,
        }
    }

    /// A peer is no longer followed.
    pub(crate) fn forget(&mut self, peer: &ClusterName) {
        self.since.remove(peer);
        self.stale.remove(peer);
    }

    /// When the next peer's budget is spent.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let waiting = self.since.iter().filter(|(peer, _)| !self.stale.contains_key(*peer));
        waiting.map(|(_, since)| *since + self.budget).min()
    }

    /// The peers whose budget is spent now, and was not at the last call.
    pub(crate) fn due(&self, now: Instant) -> Vec<ClusterName> {
        let waiting = self.since.iter().filter(|(peer, _)| !self.stale.contains_key(*peer));
        let due =
            waiting.filter(|(_, since)| now.saturating_duration_since(**since) >= self.budget);
        due.map(|(peer, _)| peer.clone()).collect()
    }

    /// Whether a cluster's state is no longer used.
    pub(crate) fn is_stale(&self, peer: &ClusterName) -> bool {
        self.stale.contains_key(peer)
    }

    /// Since when a peer cannot be followed, and when its budget is spent.
    pub(crate) fn away(&self, peer: &ClusterName) -> Option<Away> {
        let since = *self.since.get(peer)?;
        Some(Away { since, stale_at: since + self.budget, stale: self.is_stale(peer) })
    }

    /// For how long the state of a peer that cannot be followed stays in use.
    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// Problems for an operator.
    pub(crate) fn problems(&self, now: Instant) -> impl Iterator<Item = Problem> {
        self.stale.iter().map(move |(peer, since)| {
            let away = now.saturating_duration_since(*since).as_secs();
            let budget = self.budget.as_secs();
            let message = format!(
                "{peer}: unreachable for {away} s, more than its staleness budget of {budget} s: its backends are no \
                 longer used"
            );
            Problem::of(ProblemKind::PeerStale, peer, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAY: Connection = Connection { connected: false, synced: false, beats: 0 };
    const CONNECTED: Connection = Connection { connected: true, synced: false, beats: 0 };
    const SYNCED: Connection = Connection { connected: true, synced: true, beats: 0 };

    #[test]
    fn a_peer_is_used_until_its_budget_is_spent_and_again_when_it_is_synced() {
        let (b, c) = (ClusterName::new("b").unwrap(), ClusterName::new("c").unwrap());
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let mut staleness = Staleness::new(Duration::from_secs(900));
        assert_eq!(staleness.look(&b, SYNCED, at(0)), StalenessChange::None);
        assert_eq!(staleness.next_timeout(), None);
        assert_eq!(staleness.look(&b, AWAY, at(10)), StalenessChange::None);
        assert_eq!(staleness.next_timeout(), Some(at(910)));
        assert_eq!(staleness.look(&c, AWAY, at(909)), StalenessChange::None, "each has its own");
        // Connected in between: the time starts again.
        assert_eq!(staleness.look(&b, CONNECTED, at(909)), StalenessChange::None);
        assert_eq!(staleness.look(&b, AWAY, at(910)), StalenessChange::None);
        assert_eq!(staleness.due(at(1_809)), std::slice::from_ref(&c));
        assert_eq!(staleness.due(at(1_810)), [b.clone(), c.clone()]);
        assert_eq!(staleness.look(&b, AWAY, at(1_810)), StalenessChange::Stale);
        assert!(staleness.is_stale(&b) && !staleness.is_stale(&c));
        assert_eq!(staleness.look(&b, AWAY, at(1_811)), StalenessChange::None, "once");
        let away = Away { since: at(910), stale_at: at(1_810), stale: true };
        assert_eq!(staleness.away(&b), Some(away));
        let problem = staleness.problems(at(1_900)).next().unwrap().message;
        assert!(
            problem.contains("b: unreachable for 990 s, more than its staleness budget of 900 s"),
            "{problem}"
        );

        assert_eq!(
            staleness.look(&b, CONNECTED, at(1_900)),
            StalenessChange::None,
            "first it is listed"
        );
        assert!(staleness.is_stale(&b));
        assert_eq!(staleness.look(&b, SYNCED, at(1_901)), StalenessChange::Fresh);
        assert!(!staleness.is_stale(&b));
        assert_eq!(staleness.look(&c, AWAY, at(1_901)), StalenessChange::Stale);
        staleness.forget(&c);
        assert!(!staleness.is_stale(&c));
    }
}
