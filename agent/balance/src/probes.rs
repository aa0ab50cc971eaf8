//! Whether nodes answer, measured on the way that traffic takes (`docs/adr/0016`).
//!
//! Nodes whose pods clients may be led to are asked every 200 ms, and more often than 300 times a second nobody asks: with
//! more nodes each waits longer. One that loses three probes in a row is dead, and comes back after three answers; what dies
//! again soon after must be heard for longer each time. Silence of our own is not taken for that of others: whoever is
//! declared dead was silent while somebody else answered, if there is somebody else.
//!
//! A node whose agent is away sends the probe back, which is a sign of life as good as an answer. It does so about once a
//! second and no more, and is asked accordingly.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_model::ClusterName;

mod cluster;
mod failure_detector;
mod intervals;
mod report;
mod targets;
mod verdicts;

use cluster::{Cluster, Etcd, Path, SelfCheck, Sent};
use intervals::Intervals;
pub use report::{ClusterHealth, ProbeCounts, Report};
pub use targets::{Target, targets};

/// The nodes that are probed, and what came back.
#[derive(Debug)]
pub struct Probes {
    own: ClusterName,
    clusters: BTreeMap<ClusterName, Cluster>,
    /// When to look at each path.
    agenda: BTreeSet<(Instant, PathKey)>,
    /// Who was asked with each number.
    asked: HashMap<u64, PathKey>,
    /// Before then no probe is due: so many a second and no more.
    paced: Instant,
    /// How often a node that is in use, and one that is not, is asked.
    intervals: Intervals,
    /// Clusters of which something is to be said, or soon will be.
    undecided: BTreeSet<ClusterName>,
    judged: Instant,
    changes: Vec<HealthChange>,
    counts: ProbeCounts,
    /// A report says something else than before.
    news: bool,
}

/// A probe to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The node's address.
    pub address: IpAddr,
    /// What to send; the node sends it back.
    pub nonce: u64,
}

/// What became of a node or a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// A node answers, or answers no more, at an address.
    Node {
        /// Its cluster.
        cluster: ClusterName,
        /// Its name.
        node: Arc<str>,
        /// The address, which stands for its family.
        address: IpAddr,
        /// Whether it answers.
        alive: bool,
    },
    /// No node of a cluster answers, nor does its etcd; or one does again. Nodes that died with it are not said to be dead
    /// before it is back.
    Cluster {
        /// The cluster.
        cluster: ClusterName,
        /// Whether it is cut.
        cut: bool,
    },
}

/// Cluster, node, address.
type PathKey = (ClusterName, Arc<str>, IpAddr);

/// How often a node in use is asked, and how long it has to answer.
const FAST: Duration = Duration::from_millis(200);
/// How often a node is asked whose agent is away. Its kernel sends such a message to one address about once a second, after
/// a burst of six (`icmp_ratelimit`).
const REFUSED: Duration = Duration::from_millis(1_500);
/// So far apart it may be asked out of turn.
const REFUSALS: Duration = Duration::from_secs(1);
/// Probes a second.
const RATE: u32 = 300;
/// So much may be sent at once after a pause.
const BURST: Duration = FAST;
/// Whoever looks later than this was away itself, and cannot say who was silent.
const LATE: Duration = Duration::from_secs(1);
/// Probes whose late answer still counts.
const OUTSTANDING: usize = 8;
/// How often what is undecided is looked at.
const AGAIN: Duration = Duration::from_millis(25);

// === impl Probes ===

impl Probes {
    /// Nobody is probed yet.
    pub fn new(own: ClusterName, now: Instant) -> Self {
        Self {
            own,
            clusters: BTreeMap::new(),
            agenda: BTreeSet::new(),
            asked: HashMap::new(),
            paced: now,
            intervals: Intervals::new(now),
            undecided: BTreeSet::new(),
            judged: now,
            changes: Vec::new(),
            counts: ProbeCounts::default(),
            news: true,
        }
    }

    /// The nodes of a cluster to probe now. What is known of those that stay is kept; who is no longer probed counts as
    /// alive again.
    pub fn set_targets(&mut self, name: &ClusterName, targets: &[Target], now: Instant) {
        let cluster = self.clusters.entry(name.clone()).or_default();
        let wanted: BTreeMap<(Arc<str>, IpAddr), bool> = targets
            .iter()
            .flat_map(|t| t.addresses.iter().map(|ip| ((Arc::clone(&t.node), *ip), t.in_use)))
            .collect();
        let gone: Vec<(Arc<str>, IpAddr)> =
            cluster.paths.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for (node, address) in gone {
            let Some(path) = cluster.paths.remove(&(Arc::clone(&node), address)) else { continue };
            self.agenda.remove(&(path.due, (name.clone(), Arc::clone(&node), address)));
            path.sent.iter().for_each(|sent| drop(self.asked.remove(&sent.nonce)));
            if path.told_dead {
                let cluster = name.clone();
                self.changes.push(HealthChange::Node { cluster, node, address, alive: true });
            }
        }
        for ((node, address), in_use) in wanted {
            let key = (name.clone(), Arc::clone(&node), address);
            let path = cluster.paths.entry((node, address)).or_insert_with(|| {
                self.agenda.insert((now, key.clone()));
                Path::new(in_use, now)
            });
            // One that is in use from now on is not waited for.
            if in_use && !path.in_use {
                self.agenda.remove(&(path.due, key.clone()));
                path.due = now;
                self.agenda.insert((now, key));
            }
            path.in_use = in_use;
        }
        self.undecided.insert(name.clone());
        self.news = true;
        self.compute_intervals(now);
    }

    /// A cluster is no longer followed.
    pub fn remove(&mut self, name: &ClusterName, now: Instant) {
        self.set_targets(name, &[], now);
        if self.clusters.remove(name).is_some_and(|cluster| cluster.cut) {
            self.changes.push(HealthChange::Cluster { cluster: name.clone(), cut: false });
        }
        self.undecided.remove(name);
    }

    /// A former life cut a cluster: it is until somebody of it is heard.
    pub fn inherit_cut(&mut self, name: &ClusterName) {
        self.clusters.entry(name.clone()).or_default().cut = true;
        self.undecided.insert(name.clone());
    }

    /// The probes that are due. `nonce` gives a new number each time. Whatever was answered by now must have been said
    /// before: who is not heard is counted.
    pub fn due(&mut self, now: Instant, mut nonce: impl FnMut() -> u64) -> Vec<Probe> {
        if now.saturating_duration_since(self.intervals.computed) >= Duration::from_secs(1) {
            self.compute_intervals(now);
        }
        let late = self.agenda.first().is_some_and(|(due, _)| now > *due + LATE + BURST)
            && self.paced + LATE < now;
        let mut probes = Vec::new();
        while let Some((due, _)) = self.agenda.first()
            && *due <= now
            && self.paced <= now + BURST
        {
            let Some((_, key)) = self.agenda.pop_first() else { break };
            self.look_at(&key, late, now, &mut nonce, &mut probes);
        }
        self.judge(now);
        probes
    }

    /// An answer. One that nobody asked for, or from elsewhere, is nothing.
    pub fn answered(&mut self, probe: Probe, now: Instant) {
        self.heard(probe, true, now);
    }

    /// A probe came back from the node: no agent is there. The same holds for it.
    pub fn refused(&mut self, probe: Probe, now: Instant) {
        self.heard(probe, false, now);
    }

    /// The clusters whose etcd is to be asked for a sign of life.
    pub fn etcds_to_ask(&self, now: Instant) -> Vec<ClusterName> {
        let wants = |(name, cluster): &(&ClusterName, &Cluster)| {
            **name != self.own && cluster.wants_to_ask_etcd(now)
        };
        let undecided = self.undecided.iter().filter_map(|name| self.clusters.get_key_value(name));
        undecided.filter(wants).map(|(name, _)| name.clone()).collect()
    }

    /// An etcd was asked, or there is no connection to it; it answered so often before.
    pub fn etcd_asked(&mut self, name: &ClusterName, connected: bool, answers: u64, now: Instant) {
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.etcd = match connected {
                true => Etcd::Asked { at: now, answers },
                false => Etcd::Silent { at: now },
            };
        }
    }

    /// The clusters whose etcd was asked and has not answered.
    pub fn etcds_awaited(&self) -> Vec<ClusterName> {
        let asked = |name: &&ClusterName| {
            let cluster = self.clusters.get(*name);
            cluster.is_some_and(|cluster| matches!(cluster.etcd, Etcd::Asked { .. }))
        };
        self.undecided.iter().filter(asked).cloned().collect()
    }

    /// How the connection to an etcd stands, and how often it has answered by now.
    pub fn etcd_says(&mut self, name: &ClusterName, connected: bool, answers: u64, now: Instant) {
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.etcd.says(connected, answers, now);
        }
    }

    /// When to ask [`Probes::due`] although nothing happened.
    pub fn next_timeout(&self) -> Option<Instant> {
        let again = (!self.undecided.is_empty()).then(|| self.judged + AGAIN);
        let due = self
            .agenda
            .first()
            .map(|(due, _)| (*due).max(self.paced.checked_sub(BURST).unwrap_or(*due)));
        due.into_iter().chain(again).min()
    }

    /// What became of nodes and clusters since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<HealthChange> {
        std::mem::take(&mut self.changes)
    }

    /// Whether [`Probes::report`] says something else than when this was asked last, beside counts.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news) || !self.changes.is_empty()
    }

    fn heard(&mut self, probe: Probe, agent: bool, now: Instant) {
        let Some(key) = self.asked.get(&probe.nonce).filter(|key| key.2 == probe.address) else {
            return;
        };
        let (name, node, address) = key.clone();
        self.asked.remove(&probe.nonce);
        let Some(cluster) = self.clusters.get_mut(&name) else { return };
        let Some(path) = cluster.paths.get_mut(&(node, address)) else { return };
        let counted = if agent { &mut self.counts.answered } else { &mut self.counts.refused };
        *counted += 1;
        let at = path.sent.iter().find(|sent| sent.nonce == probe.nonce).map(|sent| sent.at);
        path.sent.retain(|sent| sent.nonce != probe.nonce);
        let before = path.detector;
        if let Some(at) = at {
            SelfCheck::note(&mut cluster.self_checks, at);
        }
        let returns = match agent {
            true => path.detector.answered(now),
            false => path.detector.refused(now),
        };
        self.counts.returns += u64::from(returns);
        self.news |= !before.is_firm() || before.refuses() == agent;
        if before.is_undecided() || !before.is_known() {
            self.undecided.insert(name);
        }
    }

    /// A path's time has come: its last probe is lost, the next one is sent, or both.
    fn look_at(
        &mut self,
        key: &PathKey,
        late: bool,
        now: Instant,
        nonce: &mut impl FnMut() -> u64,
        probes: &mut Vec<Probe>,
    ) {
        let (name, node, address) = key;
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let Some(path) = cluster.paths.get_mut(&(Arc::clone(node), *address)) else { return };
        let mut lost = false;
        for sent in path.sent.iter_mut().filter(|sent| !sent.missed && sent.at + FAST <= now) {
            sent.missed = true;
            if !late {
                let before = path.detector;
                path.detector.missed(sent.at);
                self.news |= before.is_awaited() != path.detector.is_awaited();
                lost = true;
            }
        }
        let interval = self.intervals.of(path);
        let next = path.last_sent.map_or(now, |sent| sent + interval);
        if next > now {
            // A lost probe is looked at when it is lost.
            let awaited = path.sent.iter().filter(|sent| !sent.missed).map(|sent| sent.at + FAST);
            path.due = awaited.chain([next]).min().unwrap_or(next);
        } else {
            self.paced = self.paced.max(now) + Duration::from_secs(1) / RATE;
            let nonce = nonce();
            if path.sent.len() == OUTSTANDING
                && let Some(oldest) = path.sent.pop_front()
            {
                self.asked.remove(&oldest.nonce);
            }
            path.sent.push_back(Sent { nonce, at: now, missed: false });
            path.last_sent = Some(now);
            path.due = now + interval.min(FAST);
            self.asked.insert(nonce, key.clone());
            self.counts.sent += 1;
            probes.push(Probe { address: *address, nonce });
        }
        let undecided = path.detector.is_undecided();
        self.agenda.insert((path.due, key.clone()));
        if undecided {
            self.undecided.insert(name.clone());
        }
        if lost && undecided {
            self.call_witnesses(key, now);
        }
    }

    fn compute_intervals(&mut self, now: Instant) {
        let paths = self.clusters.values().flat_map(|cluster| cluster.paths.values());
        self.intervals = Intervals::of_all(paths, now);
    }
}

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
