//! Prober, state words and endings joined: orders, replies and the time go in; questions, writes and verdicts come out.
//!
//! Everything that health does except sockets and threads is here, so that a test can drive it at any speed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use mesh_model::ClusterName;

use crate::{
    endings::{EndingPolicy, Endings},
    order::{Etcd, EtcdState, Order},
    prober::Prober,
    question::{Probe, Question, Reply},
    report::{Report, Words},
    verdict::{Scope, Verdict},
    words::{ClusterWords, PeerStates},
};

/// All of health, without IO and clock.
pub struct Machine {
    prober: Prober,
    words: ClusterWords,
    endings: Endings,
    etcds: BTreeMap<ClusterName, Etcd>,
    states: Option<Box<dyn PeerStates>>,
    verdicts: Vec<Verdict>,
    counts: Words,
    /// The report differs from the one before.
    news: bool,
}

// === impl Machine ===

impl Machine {
    /// Nothing is known.
    pub fn new(local: ClusterName, policy: EndingPolicy, now: Instant) -> Self {
        Self {
            prober: Prober::new(local.clone(), now),
            words: ClusterWords::new(local),
            endings: Endings::new(policy),
            etcds: BTreeMap::new(),
            states: None,
            verdicts: Vec::new(),
            counts: Words::default(),
            news: true,
        }
    }

    /// Takes an order.
    pub fn order(&mut self, order: Order, now: Instant) {
        match order {
            Order::Follow(name, etcd) => {
                self.etcds.insert(name, etcd);
            }
            Order::Forget(name) => {
                self.etcds.remove(&name);
                self.prober.remove(&name, now);
            }
            Order::Probe(name, targets) => self.prober.set_targets(&name, &targets, now),
            Order::Clusters { ids, all } => {
                let inherited = self.words.set_ids(ids, all);
                self.inherit(inherited);
            }
            Order::States(states) => {
                let inherited = self.words.take_over(states.cut());
                self.states = Some(states);
                self.inherit(inherited);
            }
            Order::Audit => self.audit(),
        }
        self.follow_verdicts(now);
    }

    /// A reply came.
    pub fn reply(&mut self, probe: Probe, reply: Reply, now: Instant) {
        let Some(alive) = self.prober.replied(probe, reply, now) else { return };
        if !self.endings.is_empty() {
            let (cluster, node, address) = (alive.cluster, alive.node, alive.address);
            self.endings.answered(&Scope::Cluster(cluster.clone()), now);
            self.endings.answered(&Scope::Node { cluster, node, address }, now);
        }
    }

    /// The questions that are due. All replies that have arrived must have been passed before.
    pub fn due(&mut self, now: Instant, nonce: impl FnMut() -> u64) -> Vec<Question> {
        self.ask_etcds(now);
        let questions = self.prober.due(now, nonce);
        self.follow_verdicts(now);
        self.end_sockets(now);
        questions
    }

    /// When to ask [`Machine::due`] although nothing happened.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.prober.next_timeout().into_iter().chain(self.endings.next_timeout()).min()
    }

    /// Changes of nodes and clusters since the last call, in order.
    pub fn take_verdicts(&mut self) -> Vec<Verdict> {
        self.news |= !self.verdicts.is_empty();
        std::mem::take(&mut self.verdicts)
    }

    /// Whether [`Machine::report`] differs from that at the last call, apart from counts.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news) | self.prober.take_news()
    }

    /// How everything is.
    pub fn report(&self) -> Report {
        Report { words: self.counts, ..self.prober.report() }
    }

    /// The prober's verdicts lead to writes first, and are reported then.
    fn follow_verdicts(&mut self, now: Instant) {
        let verdicts = self.prober.take_verdicts();
        for verdict in &verdicts {
            match verdict {
                Verdict::Cluster { cluster, cut, last_answer } => {
                    self.words.set_cut(cluster, *cut);
                    let scope = Scope::Cluster(cluster.clone());
                    match cut {
                        true => self.endings.unreachable(scope, *last_answer),
                        false => self.endings.reachable(&scope, now),
                    }
                }
                Verdict::Node { cluster, node, address, alive, last_answer } => {
                    let (cluster, node, address) = (cluster.clone(), node.clone(), *address);
                    let scope = Scope::Node { cluster, node, address };
                    match alive {
                        true => self.endings.reachable(&scope, now),
                        false => self.endings.unreachable(scope, *last_answer),
                    }
                }
                Verdict::Unverified { .. } | Verdict::Sockets(_) => {}
            }
        }
        self.write();
        self.verdicts.extend(verdicts);
    }

    /// TCP connections to a cluster end only where others answer: where none does it may be the local uplink that is
    /// cut, and they outlive that. And its etcd, which may answer where nodes do not, is asked once more.
    fn end_sockets(&mut self, now: Instant) {
        let (prober, mut to_ask) = (&self.prober, BTreeSet::new());
        let endings = self.endings.due(now, |scope| {
            let name = scope.cluster();
            if !prober.others_answer(name) {
                return false;
            }
            let etcd = prober.etcd_answers(name, now);
            if etcd.is_none() {
                to_ask.insert(name.clone());
            }
            etcd == Some(false)
        });
        self.verdicts.extend(endings.into_iter().map(Verdict::Sockets));
        self.ask(to_ask, now);
    }

    fn inherit(&mut self, clusters: Vec<ClusterName>) {
        for name in clusters {
            if !self.prober.inherit_cut(&name) {
                self.words.set_cut(&name, false);
            }
        }
    }

    fn write(&mut self) {
        let Some(states) = &mut self.states else { return };
        for write in self.words.take_writes() {
            states.set_cut(write.cluster, write.cut);
        }
    }

    fn audit(&mut self) {
        let Some(states) = &mut self.states else { return };
        self.news = true;
        self.counts.audits += 1;
        for write in self.words.audit(states.cut()) {
            tracing::error!(id = %write.cluster, cut = write.cut, "a cluster's state in the kernel was not as it was written");
            states.set_cut(write.cluster, write.cut);
            self.counts.repairs += 1;
        }
    }

    fn ask_etcds(&mut self, now: Instant) {
        for name in self.prober.etcds_awaited() {
            let EtcdState { connected, answers } = self.etcd(&name);
            if self.prober.observe_etcd(&name, connected, answers, now) {
                self.endings.answered(&Scope::Cluster(name), now);
            }
        }
        self.ask(self.prober.etcds_to_ask(now), now);
    }

    fn ask(&mut self, names: impl IntoIterator<Item = ClusterName>, now: Instant) {
        for name in names {
            let EtcdState { connected, answers } = self.etcd(&name);
            // One that is too busy to be asked is asked the next time.
            if !connected || self.etcds.get(&name).is_some_and(|etcd| etcd.ask()) {
                self.prober.etcd_asked(&name, connected, answers, now);
            }
        }
    }

    fn etcd(&self, name: &ClusterName) -> EtcdState {
        self.etcds.get(name).map(|etcd| etcd.state()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
