//! Deletions that nothing explains yet, and what confirms them.

/// Keys were deleted in one revision, and no heartbeat of that revision explains it: a lease may have expired. Or the
/// deleted keys are unknown, since changes were missed or the prefix only came into use. Deleted records are held until
/// a canary or heartbeats that were put later confirm the deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnexplainedDeletion {
    /// In this revision.
    pub(crate) since: i64,
    /// The first known put of the canary after it: a list at this revision, or later, shows what exists.
    pub(crate) vouched: Option<i64>,
    /// The confirmation besides the canary.
    pub(crate) confirmed_by: ConfirmedBy,
}

/// What confirms a deletion besides a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConfirmedBy {
    /// Heartbeats that were put after it while nothing that had gone came back.
    Beats {
        /// How many so far.
        count: u32,
        /// The last of them was put in this revision.
        last: i64,
        /// The revision in which the last key came back.
        anew: i64,
        /// A heartbeat that was put in the revision of the deletion explains it.
        explicable: bool,
    },
    /// Nothing.
    CanaryOnly,
}

/// Heartbeats after which a writer has noticed that it lost a lease, if it did: it looks every third of 900 s, and puts
/// one every 60 s (`docs/wire.md`, "Removal").
pub(crate) const BEATS: u32 = 6;

// === impl UnexplainedDeletion ===

impl UnexplainedDeletion {
    pub(crate) fn new(since: i64, confirmed_by: ConfirmedBy) -> Self {
        Self { since, vouched: None, confirmed_by }
    }

    /// The canary was put.
    pub(crate) fn canary(&mut self, put: i64) {
        if put > self.since {
            self.vouched = Some(self.vouched.map_or(put, |first| first.min(put)));
        }
    }

    /// A heartbeat was put. Whether it confirms the deletion.
    pub(crate) fn beat(&mut self, revision: i64) -> bool {
        match &mut self.confirmed_by {
            // That revision was intended, as is known only now.
            ConfirmedBy::Beats { explicable: true, .. } if revision == self.since => true,
            ConfirmedBy::Beats { count, last, .. } if revision > *last => {
                (*count, *last) = (*count + 1, revision);
                *count >= BEATS
            }
            ConfirmedBy::Beats { .. } | ConfirmedBy::CanaryOnly => false,
        }
    }

    pub(crate) fn beats_from(since: i64, explicable: bool) -> ConfirmedBy {
        ConfirmedBy::Beats { count: 0, last: since, anew: since, explicable }
    }

    /// A deleted key came back, in this revision.
    pub(crate) fn put_anew(&mut self, revision: i64) {
        // A list brings it once more.
        if let ConfirmedBy::Beats { count, last, anew, .. } = &mut self.confirmed_by
            && revision > *anew
        {
            (*count, *last, *anew) = (0, revision.max(*last), revision);
        }
    }
}
