//! The path to one address of a node.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{failure_detector::FailureDetector, pace::Pace};
use crate::question::{Answerer, Probe, Reply, Versions};

/// Its state.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) in_use: bool,
    pub(super) detector: FailureDetector,
    /// When it is checked next.
    pub(super) due: Instant,
    /// It was reported to be dead.
    pub(super) reported_dead: bool,
    /// Probes that were not answered; the last ones.
    sent: VecDeque<Sent>,
    last_sent: Option<Instant>,
    last_answer: Option<Instant>,
    answerer: Option<Answerer>,
    /// When a `CMp2` came from it last.
    present: Option<Instant>,
    /// The last question to a node that refuses was written so.
    alternate: Versions,
    pace: Pace,
    /// How long answers take: the longest lately.
    round_trip: Duration,
    /// Losses in a row that were the prober's own fault.
    forgiven: u32,
    /// Losses before its first answer, while others of its cluster answered.
    lost_beside_others: u32,
}

/// A probe that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    nonce: u64,
    at: Instant,
    /// Then it is lost.
    until: Instant,
    /// It was given up; its answer still counts.
    missed: bool,
}

/// A time in which the prober itself was stalled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    /// When it should have gone on.
    pub(super) from: Instant,
    /// When it did.
    pub(super) until: Instant,
}

/// The state of a path's probes that should have been answered by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lost {
    /// No probe was lost.
    None,
    /// The prober was stalled: nothing is known of the probes that were on their way.
    Forgiven,
    /// A probe was lost.
    Counted,
}

/// How often a node in use is asked whose kernel answers, and how long it has to answer.
pub(super) const KERNEL: Duration = Duration::from_millis(100);
/// The same for a node whose agent answers, or of which nothing is known. Once a probe is lost the next ones follow
/// after this at the latest.
pub(super) const AGENT: Duration = Duration::from_millis(200);
/// How often a node is asked at whose port no agent listens. Its kernel sends such a message to one address about once
/// a second, after a burst of six (`icmp_ratelimit`).
pub(super) const REFUSED: Duration = Duration::from_millis(1_500);
/// The least time between additional probes.
const REFUSALS: Duration = Duration::from_secs(1);
/// However long answers take, none is waited for longer.
const PATIENCE: Duration = Duration::from_millis(400);
/// After this long without a `CMp2`, `CMp1` is tried too.
const PRESENT: Duration = Duration::from_secs(60);
/// Longer than it takes until connected UDP sockets to a dead node are ended.
const WATCHED: Duration = Duration::from_secs(4);
/// Probes whose late answer still counts.
const OUTSTANDING: usize = 8;
/// After this many lost probes without an answer, while others of its cluster answered, it is unverified.
const UNVERIFIED: u32 = 3;
/// After so many stalls in a row a prober counts losses again.
const FORGIVEN: u32 = 10;

// === impl Path ===

impl Path {
    pub(super) fn new(in_use: bool, now: Instant) -> Self {
        Self {
            in_use,
            detector: FailureDetector::new(),
            due: now,
            reported_dead: false,
            sent: VecDeque::new(),
            last_sent: None,
            last_answer: None,
            answerer: None,
            present: None,
            alternate: Versions::Present,
            pace: Pace::default(),
            round_trip: Duration::ZERO,
            forgiven: 0,
            lost_beside_others: 0,
        }
    }

    /// How often it may be asked at most, as it answers.
    pub(super) fn least(&self) -> Duration {
        match self.answerer {
            _ if self.detector.refuses() => REFUSED,
            Some(Answerer::Kernel { .. }) => KERNEL,
            _ => AGENT,
        }
    }

    /// The same, as often as its node wants to be asked.
    pub(super) fn paced(&self) -> Duration {
        self.least().max(self.pace.interval())
    }

    /// How soon the next probe follows once one is lost, where the interval is this.
    pub(super) fn step(&self, interval: Duration) -> Duration {
        if self.detector.refuses() { REFUSED } else { interval.clamp(self.least(), AGENT) }
    }

    /// How long an answer is waited for, where the interval is this.
    pub(super) fn patience(&self, interval: Duration) -> Duration {
        let step = interval.clamp(KERNEL, AGENT).max(self.least().min(AGENT));
        (self.round_trip * 3 / 2).clamp(step, PATIENCE)
    }

    /// The longest time until it is known to be dead, with this interval.
    pub(super) fn detection(&self, interval: Duration) -> Duration {
        interval + self.step(interval) * 2 + self.patience(interval)
    }

    /// It has never answered, although it was asked often enough, also while others of its cluster answered.
    pub(super) fn is_unverified(&self) -> bool {
        self.detector.is_hopeless() && self.lost_beside_others >= UNVERIFIED
    }

    /// When its last answer came, whatever it was; or, if that was later, when the first question left that was not answered.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        let unanswered = self.detector.missing_since().or(self.detector.dead_since());
        self.last_answer.max(self.last_answer.and(unanswered))
    }

    /// It is dead since a moment ago, or answered a moment ago: whether it answers next decides what becomes of its sockets.
    pub(super) fn is_watched(&self, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < WATCHED;
        self.detector.is_dead() && self.last_answer().is_some_and(lately)
    }

    /// Whether its node's kernel answered last.
    pub(super) fn is_answered_by_kernel(&self) -> bool {
        matches!(self.answerer, Some(Answerer::Kernel { .. })) && !self.detector.refuses()
    }

    /// In which versions it is asked next.
    pub(super) fn versions(&self, now: Instant) -> Versions {
        let lately = |at: Instant| now.saturating_duration_since(at) < PRESENT;
        match self.present {
            Some(at) if lately(at) => Versions::Present,
            // A port-unreachable message is as good in either version, and there may be one a second.
            _ if self.detector.refuses() => match self.alternate {
                Versions::Previous => Versions::Present,
                Versions::Present | Versions::Both => Versions::Previous,
            },
            _ => Versions::Both,
        }
    }

    /// Whether it may be asked before its turn, as it answers others' probes.
    pub(super) fn may_be_asked(&self, now: Instant) -> bool {
        let apart = if self.detector.refuses() { REFUSALS } else { self.least() };
        self.detector.is_firm() && self.last_sent.is_none_or(|sent| sent + apart <= now)
    }

    /// The next question is due now, whatever its turn is.
    pub(super) fn hasten(&mut self, now: Instant) {
        (self.due, self.last_sent) = (now, None);
    }

    /// The next question is due then, as if one of this interval had ended.
    pub(super) fn put_off(&mut self, next: Instant) {
        self.last_sent = next.checked_sub(self.paced());
        self.wait(next);
    }

    /// A probe is sent now. Returns the nonce of one that is no longer waited for.
    pub(super) fn send(
        &mut self,
        nonce: u64,
        versions: Versions,
        interval: Duration,
        now: Instant,
    ) -> Option<u64> {
        let forgotten = if self.sent.len() == OUTSTANDING { self.sent.pop_front() } else { None };
        let patience = self.patience(interval);
        self.sent.push_back(Sent { nonce, at: now, until: now + patience, missed: false });
        self.last_sent = Some(now);
        self.alternate = versions;
        self.due = now + interval.min(patience);
        forgotten.map(|sent| sent.nonce)
    }

    /// Counts the probes that are lost. `others_answer`: others of its cluster do.
    pub(super) fn count_lost(
        &mut self,
        stall: Option<Stall>,
        others_answer: bool,
        now: Instant,
    ) -> Lost {
        let mut lost = Lost::None;
        for sent in self.sent.iter_mut().filter(|sent| !sent.missed && sent.until <= now) {
            sent.missed = true;
            let stalled =
                stall.is_some_and(|stall| stall.touches(sent)) && self.forgiven < FORGIVEN;
            lost = lost.max(if stalled {
                self.forgiven += 1;
                Lost::Forgiven
            } else {
                self.detector.missed(sent.at);
                self.lost_beside_others += u32::from(others_answer);
                Lost::Counted
            });
        }
        lost
    }

    /// When the next probe is due, where the interval is this.
    pub(super) fn next(&self, interval: Duration, now: Instant) -> Instant {
        self.last_sent.map_or(now, |sent| sent + interval)
    }

    /// It is checked when the next probe is due, or when one is lost before that.
    pub(super) fn wait(&mut self, next: Instant) {
        let awaited = self.sent.iter().filter(|sent| !sent.missed).map(|sent| sent.until);
        self.due = awaited.chain([next]).min().unwrap_or(next);
    }

    /// A reply to a probe came. Returns when that was sent, and whether it came back from the dead; `None` where it is not
    /// waited for.
    pub(super) fn replied(
        &mut self,
        probe: Probe,
        reply: Reply,
        now: Instant,
    ) -> Option<(Instant, bool)> {
        let sent = self.sent.iter().find(|sent| sent.nonce == probe.nonce)?.at;
        self.sent.retain(|sent| sent.nonce != probe.nonce);
        self.last_answer = Some(now);
        (self.forgiven, self.lost_beside_others) = (0, 0);
        let took = now.saturating_duration_since(sent);
        self.round_trip = took.max((self.round_trip * 7 + took) / 8);
        let returned = match reply {
            Reply::Refused => self.detector.refused(now),
            Reply::Answered(answerer) => {
                if answerer.rate().is_some() {
                    self.present = Some(now);
                }
                self.answerer = Some(answerer);
                self.detector.answered(now)
            }
        };
        Some((sent, returned))
    }

    /// Its node, which was asked at an interval, reported its rate. Returns whether the interval is at least twice as long
    /// as it was.
    pub(super) fn set_pace(&mut self, rate: u32, interval: Duration, now: Instant) -> bool {
        let least = self.least();
        self.pace.reported(rate, interval, least, now)
    }

    /// The nonces of probes that are waited for.
    pub(super) fn nonces(&self) -> impl Iterator<Item = u64> {
        self.sent.iter().map(|sent| sent.nonce)
    }
}

// === impl Stall ===

impl Stall {
    /// A probe was on its way meanwhile.
    fn touches(&self, sent: &Sent) -> bool {
        sent.at < self.until && sent.until > self.from
    }
}
