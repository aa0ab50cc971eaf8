//! Which sockets are ended, and when: later than new connections leave (`docs/adr/0036`).
//!
//! New connections avoid immediately what does not answer, which costs nothing if it was only a pause. Ending a
//! connection costs its owner, so it waits, counted from the last answer, and any answer starts the time again,
//! whatever else is needed until a node counts as back. Time is an argument, and the consequences are returned.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh_model::Protocol;

use crate::verdict::{Ending, Scope};

/// How long nothing must have answered until sockets are ended; `None`: they never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndingPolicy {
    /// TCP connections to a cluster that is cut.
    pub tcp_of_cut_clusters: Option<Duration>,
    /// Connected UDP sockets to a cluster that is cut, or to a node that is dead.
    pub udp: Option<Duration>,
}

/// The nodes and clusters that do not answer, and the state of ending their sockets.
#[derive(Debug)]
pub struct Endings {
    policy: EndingPolicy,
    waiting: BTreeMap<Scope, Waiting>,
    /// To be returned next.
    spared: Vec<Ending>,
}

/// One that does not answer.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    last_answer: Instant,
    udp: State,
    tcp: State,
}

/// How far it is with the sockets of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// They stay, whatever happens.
    Stay,
    /// They are ended when nothing has answered for this long, and not checked before the given time.
    Wait(Duration, Option<Instant>),
    /// They were ended.
    Ended(Duration),
}

/// How soon an open decision is checked again.
const AGAIN: Duration = Duration::from_millis(250);

// === impl EndingPolicy ===

impl Default for EndingPolicy {
    fn default() -> Self {
        Self {
            tcp_of_cut_clusters: Some(Duration::from_secs(15)),
            udp: Some(Duration::from_secs(3)),
        }
    }
}

// === impl Endings ===

impl Endings {
    /// Everything answers.
    pub fn new(policy: EndingPolicy) -> Self {
        Self { policy, waiting: BTreeMap::new(), spared: Vec::new() }
    }

    /// A cluster is cut, or a node is dead. One that has not answered in this agent's run is no reason to end sockets.
    pub fn unreachable(&mut self, scope: Scope, last_answer: Option<Instant>) {
        let Some(last_answer) = last_answer else { return };
        let state =
            |after: Option<Duration>| after.map_or(State::Stay, |after| State::Wait(after, None));
        let tcp = match scope {
            Scope::Cluster(_) => self.policy.tcp_of_cut_clusters,
            // It may be busy, and TCP connections outlive that.
            Scope::Node { .. } => None,
        };
        let waiting = Waiting { last_answer, udp: state(self.policy.udp), tcp: state(tcp) };
        self.waiting.entry(scope).or_insert(waiting);
    }

    /// A node or etcd of it answered, although it is not back yet: the time starts again.
    pub fn answered(&mut self, scope: &Scope, at: Instant) {
        let Some(waiting) = self.waiting.get_mut(scope) else { return };
        waiting.last_answer = waiting.last_answer.max(at);
        let ended = [&mut waiting.udp, &mut waiting.tcp].map(State::begin_anew);
        if ended.contains(&true) {
            self.spared.push(Ending::Spare { scope: scope.clone() });
        }
    }

    /// It is back.
    pub fn reachable(&mut self, scope: &Scope, at: Instant) {
        self.answered(scope, at);
        self.waiting.remove(scope);
    }

    /// Whether nothing is waited for.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When to ask [`Endings::due`].
    pub fn next_timeout(&self) -> Option<Instant> {
        let dues = self.waiting.values().flat_map(|waiting| {
            [waiting.udp, waiting.tcp].map(|state| state.due(waiting.last_answer))
        });
        dues.flatten().min()
    }

    /// What is due now. TCP connections to a cluster are ended only if `may_end` returns true, which is called when
    /// they are due, and again soon if it does not.
    pub fn due(&mut self, now: Instant, mut may_end: impl FnMut(&Scope) -> bool) -> Vec<Ending> {
        let mut endings = std::mem::take(&mut self.spared);
        for (scope, waiting) in &mut self.waiting {
            let last_answer = waiting.last_answer;
            let is_due = |state: &State| state.due(last_answer).is_some_and(|due| due <= now);
            if is_due(&waiting.udp) {
                waiting.udp.end();
                endings.push(Ending::End { scope: scope.clone(), protocol: Protocol::Udp });
            }
            if is_due(&waiting.tcp) {
                if may_end(scope) {
                    waiting.tcp.end();
                    endings.push(Ending::End { scope: scope.clone(), protocol: Protocol::Tcp });
                } else {
                    waiting.tcp.put_off(now + AGAIN);
                }
            }
        }
        endings
    }
}

// === impl State ===

impl State {
    /// When they are ended, counted from the last answer.
    fn due(self, last_answer: Instant) -> Option<Instant> {
        match self {
            Self::Wait(after, put_off) => {
                let due = last_answer + after;
                Some(put_off.map_or(due, |put_off| due.max(put_off)))
            }
            Self::Stay | Self::Ended(_) => None,
        }
    }

    fn end(&mut self) {
        if let Self::Wait(after, _) = *self {
            *self = Self::Ended(after);
        }
    }

    fn put_off(&mut self, until: Instant) {
        if let Self::Wait(_, put_off) = self {
            *put_off = Some(until);
        }
    }

    /// Returns whether they had been ended.
    fn begin_anew(&mut self) -> bool {
        match *self {
            Self::Ended(after) => {
                *self = Self::Wait(after, None);
                true
            }
            Self::Wait(after, _) => {
                *self = Self::Wait(after, None);
                false
            }
            Self::Stay => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use mesh_model::ClusterName;
    use proptest::prelude::*;

    use super::*;

    fn cluster() -> Scope {
        Scope::Cluster(ClusterName::new("b").unwrap())
    }

    fn node() -> Scope {
        let (cluster, node): (_, Arc<str>) = (ClusterName::new("b").unwrap(), "n1".into());
        Scope::Node { cluster, node, address: IpAddr::from([172, 31, 2, 1]) }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// What was done, as `udp cluster`.
    fn words(endings: Vec<Ending>) -> Vec<String> {
        let of = |scope: &Scope| if *scope == cluster() { "cluster" } else { "node" };
        let word = |ending: Ending| match ending {
            Ending::End { scope, protocol: Protocol::Tcp } => format!("tcp {}", of(&scope)),
            Ending::End { scope, .. } => format!("udp {}", of(&scope)),
            Ending::Spare { scope } => format!("spare {}", of(&scope)),
        };
        endings.into_iter().map(word).collect()
    }

    #[test]
    fn ending_is_counted_from_the_last_answer() {
        let began = Instant::now();
        let mut endings = Endings::new(EndingPolicy::default());
        // Each is noticed some time after its last answer.
        endings.unreachable(cluster(), Some(began));
        endings.unreachable(node(), Some(began + millis(500)));
        let mut at = |time: u64| words(endings.due(began + millis(time), |_| true));
        assert_eq!(at(2_999), [] as [&str; 0]);
        assert_eq!(at(3_000), ["udp cluster"]);
        assert_eq!(at(3_500), ["udp node"]);
        assert_eq!(at(14_999), [] as [&str; 0]);
        assert_eq!(at(15_000), ["tcp cluster"]);
        assert_eq!(at(600_000), [] as [&str; 0], "once, and TCP to a dead node never");
        assert_eq!(endings.next_timeout(), None);
    }

    #[test]
    fn any_answer_begins_the_waiting_anew() {
        let began = Instant::now();
        let mut endings = Endings::new(EndingPolicy::default());
        endings.unreachable(cluster(), Some(began));
        endings.answered(&cluster(), began + millis(2_900));
        assert_eq!(endings.next_timeout(), Some(began + millis(5_900)));
        assert_eq!(words(endings.due(began + millis(5_899), |_| true)), [] as [&str; 0]);
        assert_eq!(words(endings.due(began + millis(5_900), |_| true)), ["udp cluster"]);
        // What has been asked for and not been done yet is called off.
        endings.answered(&cluster(), began + millis(6_000));
        endings.answered(&cluster(), began + millis(6_100));
        assert_eq!(words(endings.due(began + millis(6_100), |_| true)), ["spare cluster"]);
        assert_eq!(words(endings.due(began + millis(9_100), |_| true)), ["udp cluster"]);
        endings.reachable(&cluster(), began + millis(9_200));
        assert_eq!(words(endings.due(began + millis(60_000), |_| true)), ["spare cluster"]);
        assert!(endings.is_empty());
    }

    #[test]
    fn tcp_connections_end_only_where_they_may() {
        let began = Instant::now();
        let mut endings = Endings::new(EndingPolicy::default());
        endings.unreachable(cluster(), Some(began));
        assert_eq!(words(endings.due(began + millis(20_000), |_| false)), ["udp cluster"]);
        assert_eq!(endings.next_timeout(), Some(began + millis(20_250)), "looked at again");
        assert_eq!(words(endings.due(began + millis(20_250), |_| true)), ["tcp cluster"]);
    }

    #[test]
    fn what_a_policy_does_not_end_stays() {
        let began = Instant::now();
        let policy = EndingPolicy { tcp_of_cut_clusters: None, udp: Some(Duration::ZERO) };
        let mut endings = Endings::new(policy);
        endings.unreachable(cluster(), Some(began));
        endings.unreachable(node(), None);
        assert_eq!(words(endings.due(began, |_| true)), ["udp cluster"], "and not the node's");
        assert_eq!(endings.next_timeout(), None);
    }

    proptest! {
        /// Whatever answers when: what is ended has not answered for its whole time, and what has is ended.
        #[test]
        fn sockets_end_when_nothing_has_answered_for_so_long_and_not_before(
            answers in prop::collection::vec(1..20_000_u64, 0..12)
        ) {
            let began = Instant::now();
            let mut endings = Endings::new(EndingPolicy::default());
            endings.unreachable(cluster(), Some(began));
            let mut at = 0;
            let mut times: Vec<u64> = answers.iter().map(|pause| { at += pause; at }).collect();
            times.push(u64::MAX);
            let (mut last, mut done, mut next) = (0, (false, false), 0);
            for now in (0..at + 40_000).step_by(100) {
                while times[next] <= now {
                    last = times[next];
                    endings.answered(&cluster(), began + millis(last));
                    done = (false, false);
                    next += 1;
                }
                for word in words(endings.due(began + millis(now), |_| true)) {
                    match word.as_str() {
                        "udp cluster" => { prop_assert!(!done.0 && now - last >= 3_000); done.0 = true; }
                        "tcp cluster" => { prop_assert!(!done.1 && now - last >= 15_000); done.1 = true; }
                        _ => {}
                    }
                }
                prop_assert_eq!(done, (now - last >= 3_000, now - last >= 15_000));
            }
        }
    }
}
