//! Whether one address answers, by its own probes alone.

use std::time::{Duration, Instant};

/// What the probes of one address show. It is dead when the prober decides so ([`FailureDetector::die`]), which needs more
/// than its own lost probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailureDetector {
    state: State,
    /// Deaths that followed each other closely, the first one not counted.
    relapses: u32,
    /// When it came back from its last death.
    returned: Option<Instant>,
    /// Its last sign of life was a refusal: no agent listens there.
    refuses: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has never answered: a firewall may keep probes away. It cannot die.
    Unknown {
        /// Probes that were lost.
        misses: u32,
    },
    Alive {
        /// Probes in a row that were lost, and when the last ones of them were sent.
        misses: u32,
        lost: [Option<Instant>; ROW as usize],
    },
    Dead {
        /// When the first of the probes was sent that it died of.
        since: Instant,
        /// Relapses and the return before this death, should it turn out to be none.
        before: (u32, Option<Instant>),
        /// Probes in a row that were lost, or answered.
        misses: u32,
        answers: u32,
        /// Since when it has not lost three probes in a row.
        answering: Option<Instant>,
    },
}

/// How many probes lost in a row make a death, and how many answered in a row a return.
const ROW: u32 = 3;
/// A death so soon after a return is a relapse.
const WINDOW: Duration = Duration::from_secs(120);
/// How long it must answer after a relapse before it is back, doubled with each further one, up to `LONGEST`.
const HOLD: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(64);
/// After this many lost probes without any answer it is probed less often.
const HOPELESS: u32 = 10;

const ALIVE: State = State::Alive { misses: 0, lost: [None; ROW as usize] };

// === impl FailureDetector ===

impl FailureDetector {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self { state: State::Unknown { misses: 0 }, relapses: 0, returned: None, refuses: false }
    }

    /// A probe that was sent then was lost.
    pub(super) fn missed(&mut self, sent: Instant) {
        match &mut self.state {
            State::Unknown { misses } => *misses = misses.saturating_add(1),
            State::Alive { misses, lost } => {
                *misses = misses.saturating_add(1);
                lost.rotate_left(1);
                if let Some(last) = lost.last_mut() {
                    *last = Some(sent);
                }
            }
            State::Dead { misses, answers, answering, .. } => {
                *answers = 0;
                *misses = misses.saturating_add(1);
                if *misses >= ROW {
                    *answering = None;
                }
            }
        }
    }

    /// A probe was answered. Returns whether it came back from the dead.
    pub(super) fn answered(&mut self, now: Instant) -> bool {
        self.refuses = false;
        self.sign_of_life(now)
    }

    /// A probe was refused: no agent listens there, but the node is alive. Otherwise like an answer.
    pub(super) fn refused(&mut self, now: Instant) -> bool {
        self.refuses = true;
        self.sign_of_life(now)
    }

    fn sign_of_life(&mut self, now: Instant) -> bool {
        let hold = self.hold();
        match &mut self.state {
            State::Unknown { .. } | State::Alive { .. } => {
                self.state = ALIVE;
                false
            }
            State::Dead { misses, answers, answering, .. } => {
                *misses = 0;
                *answers = answers.saturating_add(1);
                let answering = *answering.get_or_insert(now);
                let back = *answers >= ROW && now.saturating_duration_since(answering) >= hold;
                if back {
                    self.state = ALIVE;
                    self.returned = Some(now);
                }
                back
            }
        }
    }

    /// It is dead. Returns whether its return is damped.
    pub(super) fn die(&mut self, now: Instant) -> bool {
        let since = self.missing_since().unwrap_or(now);
        let before = (self.relapses, self.returned);
        let soon = |returned| now.saturating_duration_since(returned) <= WINDOW;
        self.relapses = match self.returned.is_some_and(soon) {
            true => self.relapses.saturating_add(1),
            false => 0,
        };
        self.state = State::Dead { since, before, misses: ROW, answers: 0, answering: None };
        self.relapses > 0
    }

    /// Revokes the death if its lost probes were sent after `after`: the address is missing, and answers of others to
    /// probes that were sent until `until` are no evidence of that any more.
    pub(super) fn take_back_death(&mut self, after: Instant, until: Instant) -> bool {
        match self.state {
            State::Dead { since, before, .. } if since >= after => {
                let lost = [Some(until + Duration::from_nanos(1)); ROW as usize];
                self.state = State::Alive { misses: ROW, lost };
                (self.relapses, self.returned) = before;
                true
            }
            _ => false,
        }
    }

    /// How long it must answer before it is back.
    pub(super) fn hold(&self) -> Duration {
        match self.relapses.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => HOLD.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST),
        }
    }

    /// Whether it answered at some time.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self.state, State::Unknown { .. })
    }

    /// Its last sign of life was a refusal: no agent listens there.
    pub(super) fn refuses(&self) -> bool {
        self.refuses
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead { .. })
    }

    /// Alive, and the last probe was answered.
    pub(super) fn is_firm(&self) -> bool {
        matches!(self.state, State::Alive { misses: 0, .. })
    }

    /// When the first and the last of the last three probes were sent, if all are lost and it is not dead yet.
    pub(super) fn missing(&self) -> Option<(Instant, Instant)> {
        match self.state {
            State::Alive { misses, lost: [first, .., last] } if misses >= ROW => first.zip(last),
            _ => None,
        }
    }

    /// When the first of them was.
    pub(super) fn missing_since(&self) -> Option<Instant> {
        self.missing().map(|(since, _)| since)
    }

    /// When the first was sent of the last probes, three at most, that are lost in a row.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        match self.state {
            State::Alive { lost, .. } => lost.iter().flatten().next().copied(),
            _ => None,
        }
    }

    /// When the first of the probes was sent that it died of, if it is dead.
    pub(super) fn dead_since(&self) -> Option<Instant> {
        match self.state {
            State::Dead { since, .. } => Some(since),
            _ => None,
        }
    }

    /// It lost the last probes, and not enough of them.
    pub(super) fn is_suspect(&self) -> bool {
        matches!(self.state, State::Alive { misses: 1..ROW, .. })
    }

    /// Its next probes decide: it is alive and lost some, or is dead and answers.
    pub(super) fn is_undecided(&self) -> bool {
        match self.state {
            State::Unknown { .. } => false,
            State::Alive { misses, .. } => misses > 0,
            State::Dead { answers, answering, .. } => answers > 0 || answering.is_some(),
        }
    }

    /// It answers again, and may be back soon.
    pub(super) fn is_returning(&self) -> bool {
        matches!(self.state, State::Dead { answers: 1.., .. })
    }

    /// It has been asked often enough in vain.
    pub(super) fn is_hopeless(&self) -> bool {
        matches!(self.state, State::Unknown { misses: HOPELESS.. })
    }

    /// Its first answer may still be on its way.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self.state, State::Unknown { misses } if misses < ROW)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(200);

    /// Lets a probe be answered or not. A return, or a death, if it was one.
    fn change(
        detector: &mut FailureDetector,
        answered: bool,
        now: Instant,
    ) -> Option<(Instant, bool)> {
        if answered {
            return detector.answered(now).then_some((now, true));
        }
        detector.missed(now);
        detector.missing_since()?;
        detector.die(now);
        Some((now, false))
    }

    /// Lets a probe every 200 ms be answered or not; counts deaths and returns by when they were.
    fn changes(answers: impl Iterator<Item = bool>) -> Vec<(Instant, bool)> {
        let mut detector = FailureDetector::new();
        let mut now = Instant::now();
        let mut changes = Vec::new();
        for answered in answers {
            changes.extend(change(&mut detector, answered, now));
            now += STEP;
        }
        changes
    }

    fn most_a_minute(changes: &[(Instant, bool)]) -> usize {
        let within = |from: Instant| {
            let minute = Duration::from_secs(60);
            changes.iter().filter(|(at, _)| *at >= from && *at < from + minute).count()
        };
        changes.iter().map(|(from, _)| within(*from)).max().unwrap_or_default()
    }

    #[test]
    fn three_lost_in_a_row_are_needed_and_three_answered() {
        let change = |text: &str| changes(text.chars().map(|c| c == '!')).len();
        for (text, expected) in [
            ("...........", 0),
            ("!..!..!..!..", 0),
            ("!...", 1),
            ("!...!!", 1),
            ("!...!!.!!.", 1),
            ("!...!!!", 2),
            ("!......!!!..!..!", 2),
        ] {
            assert_eq!(change(text), expected, "{text}");
        }
    }

    /// After its second death in a row it must answer for 2 s, then 4 s, up to 64 s; a lost probe in between costs
    /// nothing, three in a row start the time again.
    #[test]
    fn each_relapse_doubles_the_time_to_come_back() {
        let now = Instant::now();
        let mut detector = FailureDetector::new();
        detector.answered(now);
        let holds: Vec<u64> = (0..9)
            .map(|_| {
                detector.die(now);
                let hold = detector.hold();
                let mut at = now;
                while !detector.answered(at) {
                    at += hold.max(STEP) / 4;
                    detector.missed(at);
                    detector.answered(at);
                    detector.answered(at);
                }
                assert!(at - now >= hold);
                hold.as_secs()
            })
            .collect();
        assert_eq!(holds, [0, 2, 4, 8, 16, 32, 64, 64, 64]);
        detector.die(now + WINDOW + WINDOW + WINDOW);
        assert_eq!(detector.hold(), Duration::ZERO, "long ago is forgotten");
    }

    /// The most that 0.6 s to die and 0, 2, 4, … s to come back leave room for: 6 deaths and 5 returns.
    const MOST_A_MINUTE: usize = 11;

    #[test]
    fn a_link_that_flaps_at_any_period_is_damped() {
        let mut worst = 0;
        for down in 1..60_usize {
            for up in 1..200_usize {
                let flaps = (0..3_000).map(|n| n % (down + up) < up);
                worst = worst.max(most_a_minute(&changes(flaps)));
            }
        }
        assert!(worst <= MOST_A_MINUTE, "{worst}");
        // As soon as it is back it goes: nothing is worse.
        let mut detector = FailureDetector::new();
        let mut now = Instant::now();
        detector.answered(now);
        let mut changes = Vec::new();
        for _ in 0..10_000 {
            now += STEP;
            let answered = detector.is_dead();
            changes.extend(change(&mut detector, answered, now));
        }
        assert_eq!(most_a_minute(&changes), MOST_A_MINUTE);
        let last = changes.split_off(changes.len() - 8);
        assert!(most_a_minute(&last) <= 2, "in the long run a death and a return in 64 s");
    }

    proptest! {
        #[test]
        fn whatever_is_lost_a_minute_has_so_many_changes_and_no_more(
            stretches in proptest::collection::vec((any::<bool>(), 1..400_usize), 1..60)
        ) {
            let answers = stretches.iter().flat_map(|(answered, n)| std::iter::repeat_n(*answered, *n));
            prop_assert!(most_a_minute(&changes(answers)) <= MOST_A_MINUTE);
        }
    }
}
