//! A follower of a peer with a limited cost over time.
//!
//! What watches deliver is caused by the peer: beyond what may come at once and in a second, nothing more is accepted
//! from it. What lists bring is caused by the reader: beyond the same limits they go on slowly.

use std::time::Instant;

use crate::{
    budget::{Allowance, BACKENDS_PER_SECOND, Budget, ChangeRate, DECODED_PER_SECOND, Excess},
    machine::{Action, Input, Machine},
    peer::{PeerCommand, PeerEvent, PeerFollower, Refusal},
    status::Status,
    work::{Cost, Work},
};

/// A follower, and what its peer costs.
#[derive(Debug)]
pub struct RateLimited {
    follower: PeerFollower,
    /// Absent for the local cluster.
    limits: Option<Limits>,
    /// When something happened last.
    now: Instant,
}

/// The cost limits of a peer.
#[derive(Debug)]
struct Limits {
    budget: Budget,
    changes: ChangeRate,
    /// The cost of watches.
    watched: Spending,
    /// That, and the cost of lists.
    all: Spending,
}

#[derive(Debug)]
struct Spending {
    bytes: Allowance,
    backends: Allowance,
}

// === impl RateLimited ===

impl RateLimited {
    /// Limits what a follower's peer may cost; without a budget nothing.
    pub fn new(follower: PeerFollower, budget: Option<Budget>, now: Instant) -> Self {
        Self { follower, limits: budget.map(Limits::new), now }
    }

    /// Accounts for what the follower has decoded.
    fn account(&mut self) {
        let Self { follower, limits: Some(limits), now } = self else { return };
        let Work { listed, watched } = follower.take_work();
        if listed == Cost::default() && watched == Cost::default() {
            return;
        }
        limits.watched.spend(watched, *now);
        limits.all.spend(watched, *now);
        limits.all.spend(listed, *now);
        if let Some(excess) = limits.watched.excess(*now) {
            let refusal = Refusal::OverBudget(excess.to_string());
            follower.command(*now, PeerCommand::Hold(refusal));
        }
        follower.pause(limits.all.refilled_at(*now));
    }
}

impl Machine for RateLimited {
    type Event = PeerEvent;
    type Command = PeerCommand;

    fn handle(&mut self, now: Instant, input: Input) {
        self.now = now;
        if let (Some(limits), Input::Events { events, .. }) = (&mut self.limits, &input)
            && let Some(excess) =
                limits.changes.count(u64::try_from(events.len()).unwrap_or(u64::MAX), now)
        {
            // Before the events: in a flood no event is accepted.
            let refusal = Refusal::OverBudget(excess.to_string());
            self.follower.command(now, PeerCommand::Hold(refusal));
        }
        self.follower.handle(now, input);
        self.account();
    }

    fn command(&mut self, now: Instant, command: PeerCommand) {
        self.now = now;
        if let (Some(limits), PeerCommand::Release) = (&mut self.limits, &command) {
            *limits = Limits::new(limits.budget);
            self.follower.pause(None);
        }
        self.follower.command(now, command);
        self.account();
    }

    fn poll(&mut self, now: Instant) -> Option<Action> {
        self.now = now;
        let action = self.follower.poll(now);
        self.account();
        action
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.follower.next_timeout()
    }

    fn take_events(&mut self) -> Vec<PeerEvent> {
        let events = self.follower.take_events();
        self.account();
        events
    }

    fn batch_bytes(&self) -> usize {
        self.follower.batch_bytes()
    }

    fn has_more(&self) -> bool {
        self.follower.has_more()
    }

    fn wants_input(&self) -> bool {
        self.follower.wants_input()
    }

    fn status(&self) -> &Status {
        self.follower.status()
    }
}

// === impl Limits ===

impl Limits {
    fn new(budget: Budget) -> Self {
        let (changes, all) = (ChangeRate::new(&budget), Spending::new(&budget));
        Self { budget, changes, watched: Spending::new(&budget), all }
    }
}

// === impl Spending ===

impl Spending {
    fn new(budget: &Budget) -> Self {
        Self {
            bytes: Allowance::new(budget.bytes, DECODED_PER_SECOND),
            backends: Allowance::new(budget.keys, BACKENDS_PER_SECOND),
        }
    }

    fn spend(&mut self, cost: Cost, now: Instant) {
        self.bytes.spend(cost.bytes, now);
        self.backends.spend(cost.backends, now);
    }

    fn excess(&self, now: Instant) -> Option<Excess> {
        let bytes = self.bytes.is_exceeded(now).then_some(Excess::Decoded);
        bytes.or_else(|| self.backends.is_exceeded(now).then_some(Excess::Backends))
    }

    fn refilled_at(&self, now: Instant) -> Option<Instant> {
        self.bytes.refilled_at(now).max(self.backends.refilled_at(now))
    }
}
