//! Answers to lists: pages of one revision, smaller ones where they are too large.

use super::{
    Connection, Event, Follower,
    range::{Listing, Position, Range, RangeState},
};
use crate::{
    machine::{Header, KeyValue, ListError, RequestId, after},
    status::{ConnectionPhase, Failure},
};

impl Follower {
    pub(super) fn page(
        &mut self,
        request: RequestId,
        header: Header,
        keys: Vec<KeyValue>,
        more: bool,
    ) -> Result<(), Failure> {
        self.check_header(header)?;
        if let Some(id) = self.looks.remove(&request) {
            return self.looked(id, header, keys, more);
        }
        let Some((index, listing)) = self.listing(request) else { return Ok(()) };
        let Some(range) = self.ranges.get_mut(index) else { return Ok(()) };
        let id = range.config.id;
        if listing.revision.is_none() {
            self.events.push(Event::Begin(id));
        }
        let revision = listing.revision.unwrap_or(header.revision);
        let mut last: Option<Vec<u8>> = None;
        for kv in keys {
            if !range.config.span.contains(&kv.key)
                || kv.key < listing.from
                || last.as_ref() >= Some(&kv.key)
            {
                return Err(lie("a key that was not asked for, or out of order"));
            }
            last = Some(kv.key.clone());
            if range.head {
                self.head.put(&range.config, &kv)?;
            }
            self.events.push(match listing.naming {
                true => Event::TooLarge(id, kv.key),
                false => Event::Put(id, kv),
            });
        }
        let page = range.config.page;
        let next = match (more || listing.naming, last) {
            (true, Some(last)) => after(&last),
            (true, None) if listing.naming => return self.listed(index, revision),
            (true, None) => return Err(lie("an empty page with more to follow")),
            (false, _) => return self.listed(index, revision),
        };
        range.state = RangeState::Listing(Listing {
            request: None,
            from: next,
            // Past the key that was too large alone, pages are what they were.
            limit: if listing.naming { page } else { listing.limit },
            revision: Some(revision),
            naming: false,
        });
        Ok(())
    }

    /// The keys of a range were looked up.
    fn looked(
        &mut self,
        id: super::RangeId,
        header: Header,
        keys: Vec<KeyValue>,
        more: bool,
    ) -> Result<(), Failure> {
        let Some(range) = self.ranges.iter().find(|range| range.config.id == id) else {
            return Ok(());
        };
        if more || keys.iter().any(|kv| !range.config.span.contains(&kv.key)) {
            return Err(lie("a key that was not asked for, or more of them than there were"));
        }
        self.events.push(Event::Seen(id, keys, header.revision));
        Ok(())
    }

    fn listed(&mut self, index: usize, revision: i64) -> Result<(), Failure> {
        let Some(range) = self.ranges.get_mut(index) else { return Ok(()) };
        if std::mem::take(&mut range.gap) {
            self.events.push(Event::Gap(range.config.id));
        }
        self.events.push(Event::Done(range.config.id, revision));
        range.position = Some(Position { revision, complete: true });
        range.listed = Some(revision);
        self.watch(index);
        let listing = |range: &Range| range.head && !matches!(range.state, RangeState::Watching(_));
        if self.connection == Connection::Checking && !self.ranges.iter().any(listing) {
            self.check_history(revision);
        }
        Ok(())
    }

    pub(super) fn list_failed(
        &mut self,
        request: RequestId,
        error: ListError,
    ) -> Result<(), Failure> {
        let looked = self.looks.remove(&request).is_some();
        let found = self.listing(request);
        match (&error, found) {
            (_, None) if !looked => Ok(()),
            (ListError::TooLarge, Some((index, listing))) => {
                let smaller = Listing {
                    request: None,
                    limit: (listing.limit / 2).max(1),
                    // Alone and still too large: only its key is requested.
                    naming: listing.limit <= 1,
                    ..listing
                };
                if let Some(range) = self.ranges.get_mut(index) {
                    range.state = RangeState::Listing(smaller);
                }
                Ok(())
            }
            (ListError::Compacted, Some((index, _))) => {
                if let Some(range) = self.ranges.get_mut(index) {
                    range.state = RangeState::Idle;
                }
                Ok(())
            }
            _ => Err(Failure::new(error.phase(), error.to_string())),
        }
    }

    /// The range whose list waits for the answer to a request.
    fn listing(&self, request: RequestId) -> Option<(usize, Listing)> {
        let mut ranges = self.ranges.iter().enumerate();
        ranges.find_map(|(index, range)| Some((index, range.listing(request)?.clone())))
    }
}

fn lie(what: &str) -> Failure {
    let reason = format!("the etcd's answer contradicts itself: {what}");
    Failure::new(ConnectionPhase::Synced, reason)
}
