//! A range of keys, and how far it was told.

use std::collections::VecDeque;

use crate::machine::{Action, KeyRange, RequestId, WatchId};

/// Names a range among those of one follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeId(pub u8);

/// Keys to follow together: one list, one watch, one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeConfig {
    /// Which it is.
    pub id: RangeId,
    /// Its keys.
    pub span: KeyRange,
    /// Keys a page.
    pub page: i64,
    /// In the head: the values too are of one history only.
    pub names_history: bool,
}

#[derive(Debug)]
pub(super) struct Range {
    pub(super) config: RangeConfig,
    pub(super) head: bool,
    pub(super) state: RangeState,
    /// Up to where everything was delivered; `None` before the first list was.
    pub(super) position: Option<Position>,
    /// The revision of the last list.
    pub(super) listed: Option<i64>,
    /// List once more when this list is done.
    pub(super) again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) revision: i64,
    /// False while more of the same revision may come.
    pub(super) complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RangeState {
    Idle,
    Listing(Listing),
    Watching(WatchId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) request: RequestId,
    pub(super) from: Vec<u8>,
    pub(super) limit: i64,
    /// That of the first page; all further ones are read at it.
    pub(super) revision: Option<i64>,
    /// Asking for the name of a key whose value is too large.
    pub(super) naming: bool,
}

// === impl Range ===

impl Range {
    pub(super) fn new(config: RangeConfig, head: bool) -> Self {
        Self { config, head, state: RangeState::Idle, position: None, listed: None, again: false }
    }

    pub(super) fn ask(&mut self, listing: Listing, actions: &mut VecDeque<Action>) {
        actions.push_back(Action::List {
            request: listing.request,
            span: KeyRange { start: listing.from.clone(), end: self.config.span.end.clone() },
            limit: listing.limit,
            revision: listing.revision,
            keys_only: listing.naming,
        });
        self.state = RangeState::Listing(listing);
    }
}
