//! A follower whose peer may only say so much in a time.

use std::time::Instant;

use mesh_balance::ChangeRate;
use mesh_follow::{Action, Input, Machine, PeerCommand, PeerEvent, PeerFollower, Refusal, Status};

/// A follower, and what it counts. Changes are what a watch delivers; what a list does is bounded by what there may be.
#[derive(Debug)]
pub(crate) struct RateLimited {
    follower: PeerFollower,
    /// Absent for the own cluster.
    rate: Option<ChangeRate>,
}

impl RateLimited {
    pub(crate) fn new(follower: PeerFollower, rate: Option<ChangeRate>) -> Self {
        Self { follower, rate }
    }
}

impl Machine for RateLimited {
    type Event = PeerEvent;
    type Command = PeerCommand;

    fn handle(&mut self, now: Instant, input: Input) {
        if let (Some(rate), Input::Events { events, .. }) = (&mut self.rate, &input)
            && let Some(excess) = rate.count(u64::try_from(events.len()).unwrap_or(u64::MAX), now)
        {
            // Before the events: of what comes in a flood nothing is taken.
            let refusal = Refusal::OverBudget(excess.to_string());
            self.follower.command(now, PeerCommand::Hold(refusal));
        }
        self.follower.handle(now, input);
    }

    fn command(&mut self, now: Instant, command: PeerCommand) {
        if let (Some(rate), PeerCommand::Release) = (&mut self.rate, &command) {
            rate.forget();
        }
        self.follower.command(now, command);
    }

    fn poll(&mut self, now: Instant) -> Option<Action> {
        self.follower.poll(now)
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.follower.next_timeout()
    }

    fn take_events(&mut self) -> Vec<PeerEvent> {
        self.follower.take_events()
    }

    fn status(&self) -> &Status {
        self.follower.status()
    }
}
