//! What watches deliver: changes, progress, and their end.

use super::{
    Event, Follower,
    range::{Position, Range, RangeState, Watching},
};
use crate::{
    machine::{Header, WatchEvent, WatchId},
    status::{ConnectionPhase, Failure},
};

impl Follower {
    fn watching(&mut self, watch: WatchId) -> Option<&mut Range> {
        let watches = |range: &&mut Range| match &range.state {
            RangeState::Watching(watching) => watching.watch == watch,
            RangeState::Idle | RangeState::Listing(_) => false,
        };
        self.ranges.iter_mut().find(watches)
    }

    /// The etcd confirmed a watch.
    pub(super) fn watch_begun(&mut self, watch: WatchId) {
        if let Some(range) = self.watching(watch) {
            range.state = RangeState::Watching(Watching { watch, begun: true });
        }
    }

    pub(super) fn watch_events(
        &mut self,
        watch: WatchId,
        header: Header,
        events: Vec<WatchEvent>,
    ) -> Result<(), Failure> {
        self.check_header(header)?;
        let watches = |range: &&mut Range| match &range.state {
            RangeState::Watching(watching) => watching.watch == watch,
            RangeState::Idle | RangeState::Listing(_) => false,
        };
        let Some(range) = self.ranges.iter_mut().find(watches) else { return Ok(()) };
        let id = range.config.id;
        for event in events {
            let (key, revision) = match &event {
                WatchEvent::Put(kv) => (&kv.key, kv.mod_revision),
                WatchEvent::Delete { key, mod_revision } => (key, *mod_revision),
            };
            let before = range.position.map_or(0, |p| p.revision);
            if !range.config.span.contains(key) || revision < before {
                let reason = "the etcd's watch contradicts itself: a key that was not asked for, or out of order";
                return Err(Failure::new(ConnectionPhase::Synced, reason));
            }
            // More events of the same revision may follow in the next message.
            range.position = Some(Position { revision, complete: false });
            match event {
                WatchEvent::Put(kv) => {
                    if range.head {
                        self.head.put(&range.config, &kv)?;
                    }
                    self.events.push(Event::Put(id, kv));
                }
                WatchEvent::Delete { key, .. } => {
                    if range.head {
                        self.head.remove(&key);
                    }
                    self.events.push(Event::Delete(id, key, revision));
                }
            }
        }
        Ok(())
    }

    pub(super) fn progress(&mut self, watch: WatchId, header: Header) -> Result<(), Failure> {
        self.check_header(header)?;
        if let Some(range) = self.watching(watch)
            && range.position.is_none_or(|p| p.revision <= header.revision)
        {
            range.position = Some(Position { revision: header.revision, complete: true });
        }
        Ok(())
    }

    pub(super) fn canceled(
        &mut self,
        watch: WatchId,
        compacted: bool,
        reason: String,
    ) -> Result<(), Failure> {
        // Newer etcds do not name the watch that they refuse.
        let nameless = watch.0 < 0;
        let range = self.watching(watch);
        if range.is_none() && !nameless {
            return Ok(());
        }
        if let Some(range) = range.filter(|_| compacted) {
            // Resuming at the compacted revision would pass over what was deleted before it.
            range.state = RangeState::Idle;
            range.lose_position();
            return Ok(());
        }
        let denied = reason.contains("permission denied");
        let phase = if denied { ConnectionPhase::Authenticated } else { ConnectionPhase::Synced };
        Err(Failure::new(phase, format!("the etcd ended a watch: {reason}")))
    }
}
