//! The probed nodes of one cluster, and what their silence means for it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    FAST, REFUSED,
    failure_detector::{FailureDetector, ROW},
};

/// What is known of a cluster.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// By node and address.
    pub(super) paths: BTreeMap<(Arc<str>, IpAddr), Path>,
    /// Its backends are out of use.
    pub(super) cut: bool,
    /// What its etcd has to say to the silence of its nodes.
    pub(super) etcd: Etcd,
    /// When somebody of it answered; the last times.
    pub(super) self_checks: VecDeque<SelfCheck>,
    /// Since when something is not said because more may follow.
    waits: Option<Instant>,
}

/// The way to an address of a node.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) in_use: bool,
    pub(super) detector: FailureDetector,
    /// Probes that were not answered; the last ones.
    pub(super) sent: VecDeque<Sent>,
    /// When it is looked at next.
    pub(super) due: Instant,
    pub(super) last_sent: Option<Instant>,
    /// It was said to be dead.
    pub(super) told_dead: bool,
}

/// A probe that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) nonce: u64,
    pub(super) at: Instant,
    /// It was given up; its answer still counts.
    pub(super) missed: bool,
}

/// Whether a cluster's etcd answers, which is asked when its nodes do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Etcd {
    /// Nobody asked.
    #[default]
    NotAsked,
    /// It was asked, after so many answers of it.
    Asked { at: Instant, answers: u64 },
    /// It answered.
    Answered { at: Instant },
    /// It did not answer, or there is no connection.
    Silent { at: Instant },
}

/// Probes were answered, without a long pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SelfCheck {
    /// When the first one was sent.
    pub(super) from: Instant,
    /// When the last one was.
    pub(super) until: Instant,
}

/// Somebody is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Missing {
    /// When the first of the three lost probes was sent.
    since: Instant,
    /// When the last of them was, or could have been: by then a self_check must have begun to answer.
    last: Instant,
}

/// What to say of a cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Addresses that are dead or alive, other than was said before; what is said of a cluster that is cut comes later.
    pub(super) nodes: Vec<(Arc<str>, IpAddr, bool)>,
    /// It is cut, or no longer.
    pub(super) cut: Option<bool>,
    /// Deaths, and how many of them are relapses.
    pub(super) deaths: u64,
    pub(super) damped: u64,
    /// Looked at again soon: not everything is known.
    pub(super) again: bool,
    /// Everything is silent at once, as when our own way out is cut.
    pub(super) held: bool,
}

/// How long a death or return waits for those that may follow at once, so that they are said in one word.
pub(super) const TOGETHER: Duration = Duration::from_secs(1);
/// Without an answer for so long there is nobody who answers.
const PAUSE: Duration = Duration::from_millis(500);
/// So many times are remembered: those of the time that it takes to miss somebody whose agent is away.
const TIMES: usize = 8;
/// How long an etcd has to answer.
pub(super) const ETCD_ANSWERS: Duration = Duration::from_millis(350);
/// How long its answer, or silence, is believed.
const ETCD_BELIEVED: Duration = Duration::from_secs(1);

// === impl Cluster ===

impl Cluster {
    /// Somebody answered at some time and is not dead.
    pub(super) fn lives(&self) -> bool {
        self.paths.values().any(|path| path.detector.is_known() && !path.detector.is_dead())
    }

    /// Nodes were heard, and none answers now.
    pub(super) fn is_silent(&self) -> bool {
        let mut known = self.paths.values().filter(|path| path.detector.is_known()).peekable();
        match known.peek() {
            Some(_) => known.all(|path| !path.detector.is_firm()),
            None => self.cut,
        }
    }

    /// Its etcd could tell whether it is the cluster that is silent, or only its nodes.
    pub(super) fn wants_to_ask_etcd(&self, now: Instant) -> bool {
        let missing = self.paths.values().filter_map(|path| path.detector.is_missing()).min();
        self.is_silent() && self.etcd.wants_to_be_asked(missing, now)
    }

    /// Takes what is known, and says what follows. `self_checks`: when others answered who could; `None` where there are no
    /// others, so that silence is no sign that it is our own way out that is cut.
    pub(super) fn judge(
        &mut self,
        own: bool,
        self_checks: Option<&[SelfCheck]>,
        now: Instant,
    ) -> Findings {
        let mut findings = Findings::default();
        self.judge_deaths(own, self_checks, now, &mut findings);
        self.judge_return(now, &mut findings);
        if !self.cut || findings.cut == Some(false) {
            for ((node, address), path) in &mut self.paths {
                if path.detector.is_dead() != path.told_dead {
                    path.told_dead = !path.told_dead;
                    findings.nodes.push((Arc::clone(node), *address, !path.told_dead));
                }
            }
        }
        if !findings.again {
            self.waits = None;
        }
        findings
    }

    fn judge_deaths(
        &mut self,
        own: bool,
        self_checks: Option<&[SelfCheck]>,
        now: Instant,
        findings: &mut Findings,
    ) {
        let missing: Vec<Missing> = self.paths.values().filter_map(Missing::new).collect();
        let own_witnesses = self.self_checks.clone();
        let vouched = |missing: &Missing| {
            self_checks.is_none_or(|all| {
                all.iter().chain(&own_witnesses).any(|self_check| self_check.saw(*missing))
            })
        };
        if missing.iter().any(|missing| !vouched(missing)) {
            (findings.again, findings.held) = (true, true);
        }
        let known = || self.paths.values().filter(|path| path.detector.is_known());
        let any_firm = known().any(|path| path.detector.is_firm());
        let any_suspect = known().any(|path| path.detector.is_suspect());
        // Its etcd is asked meanwhile.
        findings.again |= any_suspect && !any_firm;
        let due: Vec<Missing> = missing.into_iter().filter(vouched).collect();
        if !any_firm && (any_suspect || findings.held) && !due.is_empty() && self.may_wait(now) {
            findings.again = true;
            return;
        }
        // Nobody is left who could answer: what does its etcd say?
        let mut cuts = false;
        if !own && !self.cut && !findings.held && self.is_silent() && !any_suspect {
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
            if Missing::new(path).is_some_and(|missing| due.contains(&missing)) {
                findings.damped += u64::from(path.detector.die(now));
                findings.deaths += 1;
            }
        }
        if cuts {
            self.cut = true;
            findings.cut = Some(true);
        }
    }

    /// Somebody is back, or nobody is left who was missed.
    fn judge_return(&mut self, now: Instant, findings: &mut Findings) {
        if !self.cut || findings.cut.is_some() {
            return;
        }
        let nobody = self.paths.values().all(|path| !path.detector.is_known());
        if nobody {
            // Cut by a former life, or its nodes are others now: whoever is heard is not cut.
            if matches!(self.etcd, Etcd::Answered { .. }) {
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

    fn may_wait(&mut self, now: Instant) -> bool {
        let since = *self.waits.get_or_insert(now);
        now.saturating_duration_since(since) < TOGETHER
    }
}

// === impl SelfCheck ===

impl SelfCheck {
    /// A probe that was sent then was answered.
    pub(super) fn note(times: &mut VecDeque<Self>, sent: Instant) {
        match times.back_mut() {
            Some(last) if sent <= last.until + PAUSE => last.until = last.until.max(sent),
            _ => {
                if times.len() == TIMES {
                    times.pop_front();
                }
                times.push_back(Self { from: sent, until: sent });
            }
        }
    }

    /// Whether it answered while somebody was silent. One who is heard for the first time after a silence of all is none:
    /// the others' answers may be on their way.
    fn saw(&self, missing: Missing) -> bool {
        self.until >= missing.since && self.from <= missing.last
    }
}

// === impl Missing ===

impl Missing {
    fn new(path: &Path) -> Option<Self> {
        let since = path.detector.is_missing()?;
        let interval = if path.detector.refuses() { REFUSED } else { FAST };
        Some(Self { since, last: since + interval * (ROW - 1) })
    }
}

// === impl Path ===

impl Path {
    pub(super) fn new(in_use: bool, now: Instant) -> Self {
        Self {
            in_use,
            detector: FailureDetector::new(),
            sent: VecDeque::new(),
            due: now,
            last_sent: None,
            told_dead: false,
        }
    }
}

// === impl Etcd ===

impl Etcd {
    /// Whether it is time to ask it, as its nodes are silent since then.
    pub(super) fn wants_to_be_asked(&self, since: Option<Instant>, now: Instant) -> bool {
        !matches!(self, Self::Asked { .. }) && self.answers_since(since, now).is_none()
    }

    /// Whether it answers, by what is known since its nodes are silent, or lately.
    fn answers_since(&self, since: Option<Instant>, now: Instant) -> Option<bool> {
        let recent = |at: Instant| {
            now.saturating_duration_since(at) < ETCD_BELIEVED
                && since.is_none_or(|since| at >= since)
        };
        match self {
            Self::Answered { at } if recent(*at) => Some(true),
            Self::Silent { at } if recent(*at) => Some(false),
            _ => None,
        }
    }

    /// How its connection stands, and how often it answered in all.
    pub(super) fn says(&mut self, connected: bool, answered: u64, now: Instant) {
        *self = match *self {
            Self::Asked { .. } if !connected => Self::Silent { at: now },
            Self::Asked { answers, .. } if answered > answers => Self::Answered { at: now },
            Self::Asked { at, .. } if now.saturating_duration_since(at) >= ETCD_ANSWERS => {
                Self::Silent { at: now }
            }
            unchanged => unchanged,
        }
    }
}
