//! Whether nodes answer, measured on the path that traffic takes (`docs/adr/0016`, `docs/adr/0035`).
//!
//! Nodes whose pods clients may be led to are probed every 100 ms where their kernel answers and every 200 ms where an
//! agent does, with no more than 300 datagrams a second: with more nodes the interval is longer, and so it is for a
//! node that reports that it answers more than 10,000 a second. A node that loses three probes in a row is dead, and
//! comes back after three answers; one that dies again soon after must answer for longer each time. A failure of our
//! own uplink is not taken for others' failures: another node must have answered while the dead one lost its probes, if
//! there is another.
//!
//! A node without an agent returns the probe as "port unreachable", which is a sign of life as good as an answer. A
//! kernel does so about once a second and no more, and such a node is probed accordingly.
//!
//! Architecture invariant: no IO and no clock. Replies and the time go in; questions and verdicts come out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_model::ClusterName;

use crate::{
    question::{Answerer, Probe, Question, Reply},
    report::{Counts, Report},
    targets::Target,
    verdict::Verdict,
};

mod cluster;
mod etcd;
mod etcds;
mod failure_detector;
mod intervals;
mod judge;
mod pace;
mod path;
mod self_check;
mod summary;

use self::{
    cluster::Cluster,
    intervals::{Intervals, RATE},
    path::{AGENT, Lost, Path, Stall},
    self_check::SelfCheck,
};

/// The nodes that are probed, and what came back.
#[derive(Debug)]
pub struct Prober {
    local: ClusterName,
    clusters: BTreeMap<ClusterName, Cluster>,
    /// When each path is checked next.
    agenda: BTreeSet<(Instant, PathKey)>,
    /// Which path was asked with each nonce.
    asked: HashMap<u64, PathKey>,
    /// Before then no probe is due: the limit of all together.
    paced: Instant,
    /// How often a node in use, and another one, is probed.
    intervals: Intervals,
    /// The answers of all nodes.
    self_check: SelfCheck,
    /// The last stall of the prober itself.
    stall: Option<Stall>,
    /// Clusters of which something is to be reported, or soon will be.
    undecided: BTreeSet<ClusterName>,
    /// Clusters whose etcd was asked and has not answered.
    awaited: BTreeSet<ClusterName>,
    judged: Instant,
    verdicts: Vec<Verdict>,
    counts: Counts,
    /// A report differs from the one before.
    news: bool,
}

/// What answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// The node's cluster.
    pub cluster: ClusterName,
    /// The node.
    pub node: Arc<str>,
    /// Where it answered.
    pub address: IpAddr,
}

/// Cluster, node, address.
type PathKey = (ClusterName, Arc<str>, IpAddr);

/// How much may be sent at once after a pause.
const BURST: Duration = AGENT;
/// A prober that continues later than planned by this much was stalled, and knows nothing of the probes that were on
/// their way.
const LATE: Duration = Duration::from_millis(100);
/// How often an open decision is checked.
const AGAIN: Duration = Duration::from_millis(25);
/// How often intervals are recomputed.
const INTERVALS: Duration = Duration::from_secs(1);

// === impl Prober ===

impl Prober {
    /// Nothing is probed yet.
    pub fn new(local: ClusterName, now: Instant) -> Self {
        Self {
            local,
            clusters: BTreeMap::new(),
            agenda: BTreeSet::new(),
            asked: HashMap::new(),
            paced: now,
            intervals: Intervals::new(now),
            self_check: SelfCheck::default(),
            stall: None,
            undecided: BTreeSet::new(),
            awaited: BTreeSet::new(),
            judged: now,
            verdicts: Vec::new(),
            counts: Counts::default(),
            news: true,
        }
    }

    /// Sets the nodes of a cluster to probe. The state of those that stay is kept; one that is no longer probed counts
    /// as alive again.
    pub fn set_targets(&mut self, name: &ClusterName, targets: &[Target], now: Instant) {
        let cluster = self.clusters.entry(name.clone()).or_default();
        let wanted: BTreeMap<(Arc<str>, IpAddr), bool> = targets
            .iter()
            .flat_map(|t| t.addresses.iter().map(|ip| ((Arc::clone(&t.node), *ip), t.in_use)))
            .collect();
        let without = targets.iter().filter(|target| target.in_use && target.addresses.is_empty());
        cluster.without_address = without.map(|target| Arc::clone(&target.node)).collect();
        let gone: Vec<(Arc<str>, IpAddr)> =
            cluster.paths.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for (node, address) in gone {
            let Some(path) = cluster.paths.remove(&(Arc::clone(&node), address)) else { continue };
            self.agenda.remove(&(path.due, (name.clone(), Arc::clone(&node), address)));
            path.nonces().for_each(|nonce| drop(self.asked.remove(&nonce)));
            if path.reported_dead {
                let (cluster, last_answer) = (name.clone(), path.last_answer());
                self.verdicts.push(Verdict::Node {
                    cluster,
                    node,
                    address,
                    alive: true,
                    last_answer,
                });
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
        let Some(mut cluster) = self.clusters.remove(name) else { return };
        for (node, unverified) in cluster.report_unverified() {
            self.verdicts.push(Verdict::Unverified { cluster: name.clone(), node, unverified });
        }
        if cluster.cut {
            let (cluster, last_answer) = (name.clone(), None);
            self.verdicts.push(Verdict::Cluster { cluster, cut: false, last_answer });
        }
        self.undecided.remove(name);
        self.awaited.remove(name);
    }

    /// A previous run cut a cluster: it is until something of it answers. Returns whether it is cut; one of which something
    /// answered already is not.
    pub fn inherit_cut(&mut self, name: &ClusterName) -> bool {
        let cluster = self.clusters.entry(name.clone()).or_default();
        if *name == self.local || cluster.lives() {
            return false;
        }
        if !cluster.cut {
            cluster.cut = true;
            let (cluster, last_answer) = (name.clone(), None);
            self.verdicts.push(Verdict::Cluster { cluster, cut: true, last_answer });
        }
        self.undecided.insert(name.clone());
        true
    }

    /// The questions that are due. `nonce` returns a new number each time. All replies that have arrived must have been
    /// passed before: what is not answered is counted.
    pub fn due(&mut self, now: Instant, mut nonce: impl FnMut() -> u64) -> Vec<Question> {
        if let Some(from) = self.next_timeout().filter(|wanted| *wanted + LATE < now) {
            self.stall = Some(Stall { from, until: now });
            self.counts.stalls += 1;
        }
        if now.saturating_duration_since(self.intervals.computed) >= INTERVALS {
            self.compute_intervals(now);
        }
        let mut questions = Vec::new();
        while let Some((due, _)) = self.agenda.first()
            && *due <= now
            && self.paced <= now + BURST
        {
            let Some((_, key)) = self.agenda.pop_first() else { break };
            self.look_at(&key, now, &mut nonce, &mut questions);
        }
        self.judge(now);
        questions
    }

    /// Takes a reply. One that was not asked for, or from elsewhere, is ignored; else returns what is alive.
    pub fn replied(&mut self, probe: Probe, reply: Reply, now: Instant) -> Option<Alive> {
        let key = self.asked.get(&probe.nonce).filter(|key| key.2 == probe.address)?.clone();
        self.asked.remove(&probe.nonce);
        let (name, node, address) = &key;
        let cluster = self.clusters.get_mut(name)?;
        let path = cluster.paths.get_mut(&(Arc::clone(node), *address))?;
        match reply {
            Reply::Answered(_) => self.counts.answered += 1,
            Reply::Refused => self.counts.refused += 1,
        }
        let before = path.detector;
        let interval = if before.is_known() { self.intervals.settled(path) } else { path.paced() };
        if let Some((sent, returned)) = path.replied(probe, reply, now) {
            self.self_check.note(sent);
            self.counts.returns += u64::from(returned);
        }
        self.news |= !before.is_firm() || before.refuses() != (reply == Reply::Refused);
        if before.is_undecided() || !before.is_known() {
            self.undecided.insert(name.clone());
        }
        if let Reply::Answered(answerer) = reply {
            self.set_pace(&key, answerer, interval, probe.nonce, now);
        }
        let (cluster, node, address) = key;
        Some(Alive { cluster, node, address })
    }

    /// When to ask [`Prober::due`] although nothing happened.
    pub fn next_timeout(&self) -> Option<Instant> {
        let waits = !(self.undecided.is_empty() && self.awaited.is_empty());
        let again = waits.then(|| self.judged + AGAIN);
        let due = self
            .agenda
            .first()
            .map(|(due, _)| (*due).max(self.paced.checked_sub(BURST).unwrap_or(*due)));
        due.into_iter().chain(again).min()
    }

    /// Changes of nodes and clusters since the last call, in order.
    pub fn take_verdicts(&mut self) -> Vec<Verdict> {
        std::mem::take(&mut self.verdicts)
    }

    /// Whether [`Prober::report`] differs from that at the last call, apart from counts.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news) || !self.verdicts.is_empty()
    }

    /// Whether nodes of other clusters than this one answer.
    pub fn others_answer(&self, name: &ClusterName) -> bool {
        self.clusters.iter().any(|(other, cluster)| other != name && cluster.is_firm())
    }

    /// How everything is.
    pub fn report(&self) -> Report {
        summary::summary(&self.clusters, &self.intervals, self.counts)
    }

    /// A path's time has come: its last probe is lost, the next one is sent, or both.
    fn look_at(
        &mut self,
        key: &PathKey,
        now: Instant,
        nonce: &mut impl FnMut() -> u64,
        questions: &mut Vec<Question>,
    ) {
        let (name, node, address) = key;
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let key_of_path = (Arc::clone(node), *address);
        let is_new = cluster.paths.get(&key_of_path).is_some_and(|path| !path.detector.is_known());
        let others_answer = is_new && cluster.is_firm();
        let Some(path) = cluster.paths.get_mut(&key_of_path) else { return };
        let before = path.detector;
        let lost = path.count_lost(self.stall, others_answer, now);
        self.news |= before.is_awaited() != path.detector.is_awaited();
        let interval = self.intervals.of(path, now);
        // Probes that were on their way during the stall are sent again immediately.
        let next = if lost == Lost::Forgiven { now } else { path.next(interval, now) };
        if next > now {
            path.wait(next);
        } else {
            let versions = path.versions(now);
            let pause = Duration::from_secs(1) / RATE * versions.datagrams();
            self.paced = self.paced.max(now) + pause;
            let nonce = nonce();
            if let Some(forgotten) = path.send(nonce, versions, interval, now) {
                self.asked.remove(&forgotten);
            }
            self.asked.insert(nonce, key.clone());
            self.counts.sent += 1;
            questions.push(Question { probe: Probe { address: *address, nonce }, versions });
        }
        let undecided = path.detector.is_undecided();
        let gave_up = lost == Lost::Counted && path.detector.is_hopeless();
        self.agenda.insert((path.due, key.clone()));
        if undecided || gave_up {
            self.undecided.insert(name.clone());
        }
        if lost == Lost::Counted && undecided {
            self.check_ourselves(key, now);
        }
    }

    /// Takes the rate at which a node answers. If its interval becomes much longer, its next probe is at a random
    /// moment of it, so that all askers do not come together.
    fn set_pace(
        &mut self,
        key: &PathKey,
        answerer: Answerer,
        interval: Duration,
        moment: u64,
        now: Instant,
    ) {
        let (name, node, address) = key;
        let path = self.clusters.get_mut(name).and_then(|cluster| {
            cluster.paths.get_mut(&(Arc::clone(node), *address)).filter(|path| path.in_use)
        });
        let Some((path, rate)) = path.zip(answerer.rate()) else { return };
        if path.set_pace(rate, interval, now) && !path.detector.is_undecided() {
            let parts = 1_u32 << 16;
            let part = u32::try_from(moment % u64::from(parts)).unwrap_or(0);
            let next = now + path.paced().saturating_mul(part) / parts;
            self.agenda.remove(&(path.due, key.clone()));
            path.put_off(next);
            self.agenda.insert((path.due, key.clone()));
        }
    }

    fn compute_intervals(&mut self, now: Instant) {
        let paths = self.clusters.values().flat_map(|cluster| cluster.paths.values());
        self.intervals = Intervals::of_all(paths, now);
    }
}

#[cfg(test)]
mod crowd;
#[cfg(test)]
mod kernels;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
