//! The schedule of signs of life.

use std::time::Duration;

use tokio::time::Interval;

use super::every;

/// A periodic write or request of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The heartbeat.
    Heartbeat,
    /// The position, for readers of other clusters.
    Position,
    /// The position, for local nodes.
    LocalPosition,
    /// A small request that shows whether the etcd answers.
    Question,
}

/// When each sign is due.
pub(super) struct Signs {
    heartbeat: Interval,
    position: Interval,
    local_position: Interval,
    question: Interval,
    /// Whether the etcd's content was compared, in this connection or an earlier one to the same history. Until then,
    /// heartbeat and position are not written.
    pub(super) vouches: bool,
}

/// The interval of the position. Readers that change to this etcd wait for it.
const POSITION_EVERY: Duration = Duration::from_secs(5);
/// The interval of the position for local nodes, which detect a stale apiserver within seconds.
const LOCAL_POSITION_EVERY: Duration = Duration::from_secs(1);
/// The interval of questions, so that readiness is up to date even if nothing is written, and an etcd that comes back empty
/// is filled soon.
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

    /// Waits until a sign is due. Cancel-safe.
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
