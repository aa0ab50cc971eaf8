//! When a range is listed, and when it is watched.

use std::time::Instant;

use super::{
    Connection, Follower,
    range::{Range, RangeState, Watching},
};
use crate::machine::{Action, RequestId, WatchId};

impl Follower {
    pub(super) fn watch(&mut self, index: usize) {
        let watch = WatchId(i64::try_from(self.id()).unwrap_or(i64::MAX));
        let Some(range) = self.ranges.get_mut(index) else { return };
        let Some(position) = range.position else { return };
        let from = position.revision + i64::from(position.complete);
        range.state = RangeState::Watching(Watching { watch, begun: false });
        self.actions.push_back(Action::Watch { watch, span: range.config.span.clone(), from });
    }

    /// Begins what is not going on yet: in the known history with a watch, otherwise with a list. The head comes first.
    pub(super) fn advance(&mut self, now: Instant) {
        let open = self.connection == Connection::Open;
        if !open && self.connection != Connection::Checking {
            return;
        }
        for index in 0..self.ranges.len() {
            // Of ranges with data one is listed at a time.
            let busy = self.ranges.iter().any(|range| !range.head && range.is_listing());
            let Some(range) = self.ranges.get_mut(index) else { continue };
            if !range.head && !open {
                continue;
            }
            if range.state == RangeState::Idle && range.position.is_some() && !range.head {
                self.watch(index);
                continue;
            }
            if range.wants_list() && (range.head || !busy && range.pace.take(now)) {
                if let RangeState::Watching(Watching { watch, .. }) = range.state {
                    self.actions.push_back(Action::CancelWatch(watch));
                }
                range.begin();
            }
            if range.wants_page() {
                let request = RequestId(self.id());
                if let Some(range) = self.ranges.get_mut(index) {
                    range.ask(request, &mut self.actions);
                }
            }
        }
    }

    /// When a list that waits may begin.
    pub(super) fn next_list(&self) -> Option<Instant> {
        let data = || self.ranges.iter().filter(|range| !range.head);
        if self.connection != Connection::Open || data().any(Range::is_listing) {
            return None;
        }
        data().filter(|range| range.wants_list()).filter_map(|range| range.pace.next()).min()
    }
}
