//! What a list alone does not explain, and what does.

/// Something that a list alone does not explain: a lease ran out, or the prefix came into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Silence {
    /// In this revision.
    pub(crate) since: i64,
    /// The first known put of the canary after it: a list at this revision, or later, shows what is there.
    pub(crate) vouched: Option<i64>,
    /// What ends it besides.
    pub(crate) ends: Ends,
}

/// What ends a silence besides a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Heartbeats that were put after it while nothing that had gone came back.
    Beats {
        /// So many so far.
        count: u32,
        /// The last of them was put in this revision.
        last: i64,
        /// What came back last was put in this one.
        anew: i64,
        /// A heartbeat that was put in the silence's own revision explains it.
        explicable: bool,
    },
    /// Nothing.
    CanaryOnly,
}

/// Heartbeats after which a writer has noticed that it lost a lease, if it did: it looks every third of 900 s, and puts
/// one every 60 s (`docs/wire.md`, "Removal").
pub(crate) const BEATS: u32 = 6;

// === impl Silence ===

impl Silence {
    pub(crate) fn new(since: i64, ends: Ends) -> Self {
        Self { since, vouched: None, ends }
    }

    /// The canary was put.
    pub(crate) fn canary(&mut self, put: i64) {
        if put > self.since {
            self.vouched = Some(self.vouched.map_or(put, |first| first.min(put)));
        }
    }

    /// A heartbeat was put. Whether it ends the silence.
    pub(crate) fn beat(&mut self, revision: i64) -> bool {
        match &mut self.ends {
            // That revision was meant, as is known only now.
            Ends::Beats { explicable: true, .. } if revision == self.since => true,
            Ends::Beats { count, last, .. } if revision > *last => {
                (*count, *last) = (*count + 1, revision);
                *count >= BEATS
            }
            Ends::Beats { .. } | Ends::CanaryOnly => false,
        }
    }

    pub(crate) fn beats_from(since: i64, explicable: bool) -> Ends {
        Ends::Beats { count: 0, last: since, anew: since, explicable }
    }

    /// What had gone came back, in this revision.
    pub(crate) fn put_anew(&mut self, revision: i64) {
        // A list brings it once more.
        if let Ends::Beats { count, last, anew, .. } = &mut self.ends
            && revision > *anew
        {
            (*count, *last, *anew) = (0, revision.max(*last), revision);
        }
    }
}
