//! Whether a cluster's etcd answers. It is asked when the cluster's nodes do not answer.

use std::time::{Duration, Instant};

/// The state of one etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EtcdCheck {
    /// It was not asked.
    #[default]
    NotAsked,
    /// It was asked, after this many answers.
    Asked { at: Instant, answers: u64 },
    /// It answered.
    Answered { at: Instant },
    /// It did not answer, or there is no connection.
    Unreachable { at: Instant },
}

/// How long an etcd has to answer, where its cluster's nodes answered immediately.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long its answer, or that there was none, is valid.
const VALID: Duration = Duration::from_secs(1);

// === impl EtcdCheck ===

impl EtcdCheck {
    /// It is asked now, or there is no connection to it.
    pub(super) fn asked(connected: bool, answers: u64, at: Instant) -> Self {
        if connected { Self::Asked { at, answers } } else { Self::Unreachable { at } }
    }

    /// Whether it is time to ask it, as the cluster's nodes have not answered what was sent since then.
    pub(super) fn wants_to_be_asked(&self, since: Option<Instant>, now: Instant) -> bool {
        !matches!(self, Self::Asked { .. }) && self.answers_since(since, now).is_none()
    }

    /// Whether it answers, by its answers since then, or lately.
    pub(super) fn answers_since(&self, since: Option<Instant>, now: Instant) -> Option<bool> {
        let recent = |at: Instant| {
            now.saturating_duration_since(at) < VALID && since.is_none_or(|since| at >= since)
        };
        match self {
            Self::Answered { at } if recent(*at) => Some(true),
            Self::Unreachable { at } if recent(*at) => Some(false),
            _ => None,
        }
    }

    /// Takes the state of its connection, and the number of its answers. `patience` is how long the prober waits for
    /// the cluster's nodes. Returns whether it has just answered.
    pub(super) fn observe(
        &mut self,
        connected: bool,
        answered: u64,
        patience: Duration,
        now: Instant,
    ) -> bool {
        *self = match *self {
            Self::Asked { .. } if !connected => Self::Unreachable { at: now },
            Self::Asked { answers, .. } if answered > answers => {
                *self = Self::Answered { at: now };
                return true;
            }
            Self::Asked { at, .. }
                if now.saturating_duration_since(at) >= patience.max(PATIENCE) =>
            {
                Self::Unreachable { at: now }
            }
            unchanged => unchanged,
        };
        false
    }

    /// When it answered last, if it did when it was asked last.
    pub(super) fn answered(&self) -> Option<Instant> {
        match self {
            Self::Answered { at } => Some(*at),
            _ => None,
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked { .. })
    }
}
