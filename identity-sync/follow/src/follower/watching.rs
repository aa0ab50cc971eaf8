//! What watches tell: changes, how far they are, and that they are over.

use super::{
    Event, Follower, KeyName,
    range::{Position, Range, RangeState},
};
use crate::{
    machine::{Header, WatchEvent, WatchId},
    status::{ConnectionPhase, Failure},
};

impl Follower {
    pub(super) fn watching(&mut self, watch: WatchId) -> Option<(usize, &mut Range)> {
        self.ranges
            .iter_mut()
            .enumerate()
            .find(|(_, range)| range.state == RangeState::Watching(watch))
    }

    pub(super) fn watch_events(
        &mut self,
        watch: WatchId,
        header: Header,
        events: Vec<WatchEvent>,
    ) -> Result<(), Failure> {
        self.check_header(header)?;
        let Some((index, _)) = self.watching(watch) else { return Ok(()) };
        let Some(range) = self.ranges.get_mut(index) else { return Ok(()) };
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
                        self.head_keys.insert(kv.key.clone(), KeyName::new(&range.config, &kv));
                    }
                    self.events.push(Event::Put(id, kv));
                }
                WatchEvent::Delete { key, .. } => {
                    if range.head {
                        self.head_keys.remove(&key);
                    }
                    self.events.push(Event::Delete(id, key, revision));
                }
            }
        }
        Ok(())
    }

    pub(super) fn progress(&mut self, watch: WatchId, header: Header) -> Result<(), Failure> {
        self.check_header(header)?;
        if let Some((_, range)) = self.watching(watch)
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
        let Some((index, range)) = self.watching(watch) else { return Ok(()) };
        if compacted {
            // Resuming at the compacted revision would pass over what was deleted before it.
            range.state = RangeState::Idle;
            self.list(index);
            return Ok(());
        }
        let denied = reason.contains("permission denied");
        let phase = if denied { ConnectionPhase::Authenticated } else { ConnectionPhase::Synced };
        Err(Failure::new(phase, format!("the etcd ended a watch: {reason}")))
    }
}
