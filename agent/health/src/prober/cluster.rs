//! The probed nodes of one cluster, and what follows where they do not answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    etcd::EtcdCheck,
    path::{AGENT, Path},
    self_check::{Missing, SelfCheck},
};

/// The state of a cluster.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// By node and address.
    pub(super) paths: BTreeMap<(Arc<str>, IpAddr), Path>,
    /// Nodes in use that have no address at which they could be asked.
    pub(super) without_address: BTreeSet<Arc<str>>,
    /// Its backends are out of use.
    pub(super) cut: bool,
    /// Whether its etcd answers, now that its nodes do not.
    pub(super) etcd: EtcdCheck,
    /// Nodes that were reported to be unverified.
    pub(super) reported_unverified: BTreeSet<Arc<str>>,
    /// Since when something is not reported because more may follow.
    waits: Option<Instant>,
}

/// The findings about a cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Addresses that are dead or alive, in difference to the last report, each with its last answer; the state of a
    /// cluster that is cut is reported later.
    pub(super) nodes: Vec<(Arc<str>, IpAddr, bool, Option<Instant>)>,
    /// Nodes that are unverified, or no longer.
    pub(super) unverified: Vec<(Arc<str>, bool)>,
    /// It is cut, or no longer.
    pub(super) cut: Option<bool>,
    /// Deaths, and how many of them are relapses.
    pub(super) deaths: u64,
    pub(super) damped: u64,
    /// Looked at again soon: not everything is known.
    pub(super) again: bool,
    /// Nothing answers at all, as when the local uplink is cut.
    pub(super) held: bool,
}

/// How long the report of a death or return waits for others that may follow, so that one report contains all.
pub(super) const TOGETHER: Duration = Duration::from_secs(1);

// === impl Cluster ===

impl Cluster {
    /// A node answered at some time and is not dead.
    pub(super) fn lives(&self) -> bool {
        self.paths.values().any(|path| path.detector.is_known() && !path.detector.is_dead())
    }

    /// Nodes answered before, and none does now.
    pub(super) fn is_missing(&self) -> bool {
        let mut known = self.known().peekable();
        match known.peek() {
            Some(_) => known.all(|path| !path.detector.is_firm()),
            None => self.cut,
        }
    }

    /// Its etcd could show whether the whole cluster does not answer, or only its nodes.
    pub(super) fn wants_to_ask_etcd(&self, now: Instant) -> bool {
        let unanswered = self.paths.values().filter_map(|path| path.detector.unanswered_since());
        self.is_missing() && self.etcd.wants_to_be_asked(unanswered.min(), now)
    }

    /// How long its etcd is waited for, by how long its nodes take to answer.
    pub(super) fn etcd_patience(&self) -> Duration {
        self.paths.values().map(|path| path.patience(AGENT)).max().unwrap_or(AGENT)
    }

    /// When the last answer of a node came.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.paths.values().filter_map(Path::last_answer).max()
    }

    /// Nodes that are unverified, or no longer, other than was reported before.
    pub(super) fn report_unverified(&mut self) -> Vec<(Arc<str>, bool)> {
        let mut unverified = self.unverified();
        // How many there will be is not known as long as first answers may come.
        let awaited = |path: &Path| !path.detector.is_known() && !path.detector.is_hopeless();
        if self.paths.values().any(|path| path.in_use && awaited(path)) {
            unverified.retain(|node| self.reported_unverified.contains(node));
        }
        let changed = self.reported_unverified.symmetric_difference(&unverified);
        let changed = changed.map(|n| (Arc::clone(n), unverified.contains(n))).collect();
        self.reported_unverified = unverified;
        changed
    }

    /// Nodes in use that have never answered, while at least as many of its nodes did. Where most have not, something
    /// blocks probes, and that is no evidence about single nodes.
    fn unverified(&self) -> BTreeSet<Arc<str>> {
        let mut verified: BTreeSet<&Arc<str>> = BTreeSet::new();
        let mut unverified = self.without_address.clone();
        for ((node, _), path) in &self.paths {
            if path.detector.is_known() {
                verified.insert(node);
            } else if path.in_use && path.is_unverified() {
                unverified.insert(Arc::clone(node));
            }
        }
        // It answers at one address, or its answer may still come at another.
        unverified.retain(|node| {
            let mut paths = self.paths_of(node);
            !verified.contains(node) && paths.all(|(_, path)| path.is_unverified())
        });
        if unverified.len() > verified.len() { BTreeSet::new() } else { unverified }
    }

    /// Whether a node answers now.
    pub(super) fn is_firm(&self) -> bool {
        self.paths.values().any(|path| path.detector.is_firm())
    }

    fn paths_of<'a>(
        &'a self,
        node: &'a Arc<str>,
    ) -> impl Iterator<Item = (&'a (Arc<str>, IpAddr), &'a Path)> {
        let first = (Arc::clone(node), IpAddr::from([0, 0, 0, 0]));
        self.paths.range(first..).take_while(move |((of, _), _)| of == node)
    }

    /// Takes what is known, and returns what follows. `self_check`: probes that were answered meanwhile; `None` where
    /// there are no other clusters, so that a missing answer is no sign of a failure of the local uplink.
    pub(super) fn judge(
        &mut self,
        local: bool,
        self_check: Option<&SelfCheck>,
        now: Instant,
    ) -> Findings {
        let mut findings = Findings::default();
        self.judge_deaths(local, self_check, now, &mut findings);
        self.judge_return(now, &mut findings);
        if !self.cut || findings.cut == Some(false) {
            for ((node, address), path) in &mut self.paths {
                if path.detector.is_dead() != path.reported_dead {
                    path.reported_dead = !path.reported_dead;
                    let (node, alive) = (Arc::clone(node), !path.reported_dead);
                    findings.nodes.push((node, *address, alive, path.last_answer()));
                }
            }
        }
        findings.unverified = self.report_unverified();
        if !findings.again {
            self.waits = None;
        }
        findings
    }

    fn judge_deaths(
        &mut self,
        local: bool,
        self_check: Option<&SelfCheck>,
        now: Instant,
        findings: &mut Findings,
    ) {
        let missing: Vec<Missing> = self.paths.values().filter_map(Missing::of).collect();
        let is_vouched_for =
            |missing: &Missing| self_check.is_none_or(|check| check.covers(*missing));
        if missing.iter().any(|missing| !is_vouched_for(missing)) {
            (findings.again, findings.held) = (true, true);
        }
        let any_firm = self.known().any(|path| path.detector.is_firm());
        let any_suspect = self.known().any(|path| path.detector.is_suspect());
        // Its etcd is asked meanwhile.
        findings.again |= any_suspect && !any_firm;
        let due: Vec<Missing> = missing.into_iter().filter(is_vouched_for).collect();
        if !any_firm && (any_suspect || findings.held) && !due.is_empty() && self.may_wait(now) {
            findings.again = true;
            return;
        }
        // No node is left that could answer: does its etcd?
        let mut cuts = false;
        if !local && !self.cut && !findings.held && self.is_missing() && !any_suspect {
            match self.etcd.answers_since(due.iter().map(|due| due.since).min(), now) {
                Some(false) => cuts = true,
                Some(true) => findings.again = true,
                None => {
                    findings.again = true;
                    if !due.is_empty() && self.may_wait(now) {
                        return;
                    }
                }
            }
        }
        for path in self.paths.values_mut() {
            if Missing::of(path).is_some_and(|missing| is_vouched_for(&missing)) {
                findings.damped += u64::from(path.detector.die(now));
                findings.deaths += 1;
            }
        }
        if cuts {
            self.cut = true;
            findings.cut = Some(true);
        }
    }

    /// A node is back, or none is left that was missed.
    fn judge_return(&mut self, now: Instant, findings: &mut Findings) {
        if !self.cut || findings.cut.is_some() {
            return;
        }
        if self.known().next().is_none() {
            // Cut by a previous run, or its nodes are others now: any answer of it ends that.
            if self.etcd.answered().is_some() {
                self.cut = false;
                findings.cut = Some(false);
            }
            findings.again = true;
        } else if self.lives() {
            let more = self.paths.values().any(|path| path.detector.is_returning());
            if more && self.may_wait(now) {
                findings.again = true;
                return;
            }
            self.cut = false;
            findings.cut = Some(false);
        }
    }

    fn known(&self) -> impl Iterator<Item = &Path> {
        self.paths.values().filter(|path| path.detector.is_known())
    }

    fn may_wait(&mut self, now: Instant) -> bool {
        let since = *self.waits.get_or_insert(now);
        now.saturating_duration_since(since) < TOGETHER
    }
}
