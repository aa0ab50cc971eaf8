//! When which sign of life is due.

use std::time::Duration;

use tokio::time::Interval;

use super::every;

/// What shows that the writer lives, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The heartbeat.
    Heartbeat,
    /// The position, for readers of other clusters.
    Position,
    /// The position, for local nodes.
    LocalPosition,
    /// A question that shows whether the etcd answers.
    Question,
}

/// When each is due.
pub(super) struct Signs {
    heartbeat: Interval,
    position: Interval,
    local_position: Interval,
    question: Interval,
    /// What the etcd holds was compared, in this connection or in one before it to the same history: until then nothing
    /// vouches for it.
    pub(super) vouches: bool,
}

/// How often the position is put: readers that change to this etcd wait for it.
const POSITION_EVERY: Duration = Duration::from_secs(5);
/// How often it is put for local nodes: they doubt what they know of their cluster sooner than others do.
const LOCAL_POSITION_EVERY: Duration = Duration::from_secs(1);
/// How often a connection is tried on which nothing is to be written: readiness says what is, and an etcd that comes back
/// empty is filled soon.
const QUESTION_EVERY: Duration = Duration::from_secs(1);

// === impl Signs ===

impl Signs {
    pub(super) fn new(heartbeat: Duration) -> Self {
        Self {
            heartbeat: every(heartbeat),
            position: every(POSITION_EVERY),
            local_position: every(LOCAL_POSITION_EVERY),
            question: every(QUESTION_EVERY),
            vouches: false,
        }
    }

    /// Waits until one is due. Cancel-safe.
    pub(super) async fn due(&mut self) -> Sign {
        let vouches = self.vouches;
        tokio::select! {
            _ = self.heartbeat.tick(), if vouches => Sign::Heartbeat,
            _ = self.position.tick(), if vouches => Sign::Position,
            _ = self.local_position.tick(), if vouches => Sign::LocalPosition,
            _ = self.question.tick() => Sign::Question,
        }
    }
}
