//! A range of keys, and the revision up to which it was delivered.

use std::collections::VecDeque;

use super::pace::ListPace;
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
    /// In the head: its values too belong to one history only.
    pub names_history: bool,
}

#[derive(Debug)]
pub(super) struct Range {
    pub(super) config: RangeConfig,
    pub(super) head: bool,
    pub(super) state: RangeState,
    /// Up to where everything was delivered. `None` before the first list was, and from the moment that another begins:
    /// a list that is interrupted is begun again.
    pub(super) position: Option<Position>,
    /// Changes may have been missed since it was watched last.
    pub(super) gap: bool,
    /// The revision of the last list.
    pub(super) listed: Option<i64>,
    /// List once more, as soon as that may be.
    pub(super) again: bool,
    pub(super) pace: ListPace,
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
    Watching(Watching),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    /// The request for the next page; `None` before it is sent.
    pub(super) request: Option<RequestId>,
    pub(super) from: Vec<u8>,
    pub(super) limit: i64,
    /// The revision of the first page; all further ones are read at it.
    pub(super) revision: Option<i64>,
    /// Asking for the name of a key whose value is too large.
    pub(super) naming: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watching {
    pub(super) watch: WatchId,
    /// The etcd confirmed it.
    pub(super) begun: bool,
}

// === impl Range ===

impl Range {
    pub(super) fn new(config: RangeConfig, head: bool) -> Self {
        Self {
            config,
            head,
            state: RangeState::Idle,
            position: None,
            gap: false,
            listed: None,
            again: false,
            pace: ListPace::default(),
        }
    }

    /// Begins a list. Nothing is requested yet.
    pub(super) fn begin(&mut self) {
        (self.position, self.again) = (None, false);
        self.state = RangeState::Listing(Listing {
            request: None,
            from: self.config.span.start.clone(),
            limit: self.config.page,
            revision: None,
            naming: false,
        });
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        // A list that is interrupted was begun instead of a watch, unless it was the first.
        self.gap |= matches!(self.state, RangeState::Listing(_)) && self.listed.is_some();
        self.state = RangeState::Idle;
        if std::mem::take(&mut self.again) {
            self.lose_position();
        }
    }

    /// Its watch cannot go on where it was: a list is needed, and changes go by before it.
    pub(super) fn lose_position(&mut self) {
        self.gap |= self.position.is_some();
        self.position = None;
    }

    /// Events from this revision on are to come once more.
    pub(super) fn rewind(&mut self, revision: i64) {
        if let Some(position) = self.position.as_mut().filter(|p| p.revision >= revision) {
            *position = Position { revision, complete: false };
        }
    }

    /// Revisions of another history follow.
    pub(super) fn new_history(&mut self) {
        (self.position, self.listed, self.gap) = (None, None, false);
    }

    /// Requests the next page of the list, if that was not requested yet.
    pub(super) fn ask(&mut self, request: RequestId, actions: &mut VecDeque<Action>) {
        let RangeState::Listing(listing) = &mut self.state else { return };
        listing.request = Some(request);
        actions.push_back(Action::List {
            request,
            span: KeyRange { start: listing.from.clone(), end: self.config.span.end.clone() },
            limit: listing.limit,
            revision: listing.revision,
            keys_only: listing.naming,
        });
    }

    /// Whether it is being listed.
    pub(super) fn is_listing(&self) -> bool {
        matches!(self.state, RangeState::Listing(_))
    }

    /// Whether it is to be listed: it cannot be watched, or is to be listed once more.
    pub(super) fn wants_list(&self) -> bool {
        match self.state {
            RangeState::Idle => self.head || self.position.is_none(),
            RangeState::Listing(_) => false,
            RangeState::Watching(_) => self.again,
        }
    }

    /// Whether a page of its list is to be requested.
    pub(super) fn wants_page(&self) -> bool {
        matches!(&self.state, RangeState::Listing(Listing { request: None, .. }))
    }

    /// The list that waits for the answer to a request.
    pub(super) fn listing(&self, request: RequestId) -> Option<&Listing> {
        match &self.state {
            RangeState::Listing(listing) if listing.request == Some(request) => Some(listing),
            _ => None,
        }
    }

    /// Whether the etcd confirmed its watch.
    pub(super) fn is_watched(&self) -> bool {
        matches!(self.state, RangeState::Watching(Watching { begun: true, .. }))
    }
}
