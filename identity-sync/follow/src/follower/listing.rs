//! Answers to lists: pages of one revision, smaller ones where they are too large.

use super::{
    Connection, Event, Follower, KeyName,
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
        let found =
            self.ranges.iter_mut().enumerate().find_map(|(index, range)| match &range.state {
                RangeState::Listing(listing) if listing.request == request => {
                    Some((index, listing.clone(), range))
                }
                _ => None,
            });
        let Some((index, listing, range)) = found else { return Ok(()) };
        let id = range.config.id;
        let lie = |what: &str| {
            Failure::new(
                ConnectionPhase::Synced,
                format!("the etcd's answer contradicts itself: {what}"),
            )
        };
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
                self.head_keys.insert(kv.key.clone(), KeyName::new(&range.config, &kv));
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
        let listing = Listing {
            request: RequestId(self.id()),
            from: next,
            // Past the key that was too large alone, pages are what they were.
            limit: if listing.naming { page } else { listing.limit },
            revision: Some(revision),
            naming: false,
        };
        if let Some(range) = self.ranges.get_mut(index) {
            range.ask(listing, &mut self.actions);
        }
        Ok(())
    }

    pub(super) fn listed(&mut self, index: usize, revision: i64) -> Result<(), Failure> {
        let Some(range) = self.ranges.get_mut(index) else { return Ok(()) };
        self.events.push(Event::Done(range.config.id, revision));
        range.position = Some(Position { revision, complete: true });
        range.listed = Some(revision);
        if range.again {
            self.list(index);
            return Ok(());
        }
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
        let found = self.ranges.iter().enumerate().find_map(|(index, range)| match &range.state {
            RangeState::Listing(listing) if listing.request == request => {
                Some((index, listing.clone()))
            }
            _ => None,
        });
        let Some((index, listing)) = found else { return Ok(()) };
        match &error {
            ListError::TooLarge => {
                let smaller = Listing {
                    request: RequestId(self.id()),
                    limit: (listing.limit / 2).max(1),
                    // Alone and still too large: only its name is asked for.
                    naming: listing.limit <= 1,
                    ..listing
                };
                if let Some(range) = self.ranges.get_mut(index) {
                    range.ask(smaller, &mut self.actions);
                }
                Ok(())
            }
            ListError::Compacted => {
                self.list(index);
                Ok(())
            }
            ListError::Denied(_) | ListError::Broken(_) => {
                Err(Failure::new(error.phase(), error.to_string()))
            }
        }
    }
}
