//! What the follower's events mean for a cluster.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use mesh_model::{RecordEvent, RecordKey};
use mesh_wire::{
    Decoded, Position, cluster_config, decode_counting, decode_removal,
    key::{DRAIN, HEARTBEAT, POSITION},
    local_drain,
};

use super::{
    BACKEND_BYTES, EVENT_BYTES, PeerEvent, PeerFollower, Role,
    keepalive::Keepalive,
    ranges::{BEAT, CANARY, CONFIG, LOCAL_BEAT, LOCAL_DRAINED, NAME},
};
use crate::{
    deletions::Deletions,
    follower::{Event, RangeId},
    held::Held,
    machine::KeyValue,
    work::backends,
};

impl PeerFollower {
    pub(super) fn translate(&mut self, now: Instant, event: Event) {
        self.bytes += EVENT_BYTES;
        match &event {
            Event::Put(range, kv) => {
                self.spend(*range, kv.key.len() + kv.value.len(), 0);
                self.deletions.put(&kv.key);
                self.put_anew(kv);
            }
            Event::Begin(range) => drop(self.listing.insert(*range)),
            Event::Done(range, _) => drop(self.listing.remove(range)),
            Event::Delete(_, key, _) | Event::TooLarge(_, key) => self.bytes += key.len(),
            Event::Connected | Event::Disconnected => self.listing.clear(),
            Event::NewHistory | Event::Resumed | Event::Seen(..) | Event::Gap(..) => {}
        }
        match event {
            Event::Connected => {
                self.announced = None;
                self.completeness.connected();
                self.replica.connected(now);
                self.events.push(PeerEvent::Connected);
            }
            Event::Disconnected => {
                self.keepalive = Keepalive::default();
                self.looks.disconnected();
                self.replica.disconnected();
                // Deletions that are not explained yet come once more.
                for (range, revision) in self.deletions.disconnected() {
                    self.follower.rewind(range, revision);
                }
                self.events.push(PeerEvent::Disconnected);
            }
            Event::NewHistory => {
                self.moves_in_new_history();
                self.completeness.new_history();
                self.held = Held::default();
                self.deletions = Deletions::default();
                self.replica.changed(now);
                self.follow();
            }
            // The canaries were listed meanwhile.
            Event::Resumed => {
                self.list_again();
                self.listed_all();
            }
            Event::Begin(CONFIG) => self.announced = None,
            Event::Put(CONFIG, kv) => {
                self.announced = Some(cluster_config::decode(&kv.value).map_err(|e| e.to_string()));
                self.announced_at = kv.mod_revision;
                self.judge();
            }
            Event::Done(CONFIG, revision) => {
                self.config_at = revision;
                self.judge();
                self.move_on();
            }
            Event::TooLarge(CONFIG, _) => {
                self.announced = Some(Err("larger than any config".into()));
                self.judge();
            }
            // A writer that loses its lease loses its config with it; it is still the same cluster.
            Event::Delete(
                range @ (CONFIG | CANARY | BEAT | NAME | LOCAL_BEAT | LOCAL_DRAINED),
                key,
                revision,
            ) => {
                match range {
                    CANARY => self.canary_gone(&key, revision),
                    LOCAL_DRAINED => self.nothing_is_drained(),
                    BEAT if self.is_drain(&key) => self.nothing_is_drained(),
                    _ => {}
                }
                self.deletions.deleted(now, range, key, revision, false);
            }
            Event::Gap(range) => drop(self.gaps.insert(range)),
            Event::Begin(CANARY) => self.completeness.begin_canaries(),
            Event::Put(CANARY, kv) => self.canary(&kv),
            Event::Done(CANARY, revision) => {
                self.completeness.canaries_listed(revision);
                self.follow();
                self.listed_all();
            }
            Event::Seen(_, keys, revision) => {
                self.looks.answered();
                self.canaries_seen(&keys, revision);
                self.listed_all();
            }
            Event::TooLarge(CANARY, _) => {}
            Event::Put(BEAT, kv) => {
                if kv.key == HEARTBEAT.as_bytes() {
                    self.follower.status_mut().heartbeats += 1;
                    self.deletions.beat(kv.mod_revision);
                    self.beat(&kv);
                } else if kv.key == POSITION.as_bytes() {
                    self.position(now, &kv);
                } else if self.is_drain(&kv.key) {
                    self.drain(&kv);
                }
            }
            Event::Put(LOCAL_BEAT, _) => {
                // One that a list brings may be a dead writer's last.
                let live = !self.listing.contains(&LOCAL_BEAT);
                self.follower.status_mut().local_beats += u64::from(live);
            }
            Event::Begin(LOCAL_DRAINED) => self.nothing_is_drained(),
            Event::Begin(BEAT) if self.config.role == Role::Remote => self.nothing_is_drained(),
            Event::Put(LOCAL_DRAINED, kv) => self.drain(&kv),
            Event::Begin(NAME) => self.named = false,
            Event::Put(NAME, _) => self.named = true,
            Event::Begin(BEAT | LOCAL_BEAT) => {}
            Event::Done(BEAT | NAME | LOCAL_BEAT | LOCAL_DRAINED, _) => {}
            Event::TooLarge(BEAT | NAME | LOCAL_BEAT | LOCAL_DRAINED, _) => {}
            Event::Begin(range) => {
                let begun = self.completeness.begin(range).into_iter();
                self.events.extend(begun.map(|kind| PeerEvent::Record(RecordEvent::Begin(kind))));
            }
            Event::Put(range, kv) => self.record(range, &kv),
            Event::Delete(range, key, revision) => {
                // A key that could not have been a record cannot take one away.
                let carries = self.removed(&key).is_some();
                self.deletions.deleted(now, range, key, revision, carries);
            }
            Event::TooLarge(_, key) => {
                let name = String::from_utf8_lossy(&key).into_owned();
                self.reject(&key, format!("{name}: the value is larger than what is accepted"));
            }
            Event::Done(range, revision) => {
                // A lease may have run out unseen. A writer that gives its history a name hangs no records on leases.
                if self.gaps.remove(&range) && !self.named {
                    self.completeness.unseen(&BTreeSet::from([range]), revision);
                }
                self.listed(range, revision);
            }
        }
    }

    /// A key has a value: if it had gone with a lease, its writer is at it.
    pub(super) fn put_anew(&mut self, kv: &KeyValue) {
        let overflowed = self.held.has_more().then(|| self.removed(&kv.key)).flatten();
        let unknown = overflowed.map(|record| record.kind());
        let unknown = unknown.filter(|kind| self.held.may_have_had(*kind, kv.create_revision));
        if let Some(kind) = self.held.put(&kv.key).or(unknown) {
            self.completeness.put_anew(kind, kv.mod_revision);
        }
    }

    pub(super) fn beat(&mut self, kv: &KeyValue) {
        // The keys of a list may have been put long ago.
        if !self.listing.contains(&BEAT) {
            self.replica.beat();
        }
        let ranges = self.completeness.beat(kv.mod_revision);
        ranges.into_iter().for_each(|range| self.follower.relist(range));
    }

    pub(super) fn position(&mut self, now: Instant, kv: &KeyValue) {
        match Position::decode(&kv.value) {
            Ok(position) => {
                let was_older = self.replica.is_older();
                self.replica.position(position, now);
                self.caught_up(was_older);
            }
            Err(error) => self.reject(POSITION.as_bytes(), format!("{POSITION}: {error}")),
        }
    }

    /// Whether a key beside the heartbeat has what a peer drained. Of the local cluster the local prefix has it.
    fn is_drain(&self, key: &[u8]) -> bool {
        self.config.role == Role::Remote && key == DRAIN.as_bytes()
    }

    fn drain(&mut self, kv: &KeyValue) {
        match local_drain::decode(&kv.value) {
            Ok(drain) => self.follower.status_mut().drained = Arc::new(drain),
            Err(error) => {
                let key = String::from_utf8_lossy(&kv.key);
                self.reject(&kv.key, format!("{key}: {error}"));
            }
        }
    }

    fn nothing_is_drained(&mut self) {
        self.follower.status_mut().drained = Arc::default();
    }

    /// Counts what a value takes.
    pub(super) fn spend(&mut self, range: RangeId, bytes: usize, backends: usize) {
        self.bytes += bytes + backends * BACKEND_BYTES;
        let work = match self.listing.contains(&range) {
            true => &mut self.work.listed,
            false => &mut self.work.watched,
        };
        work.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        work.backends += u64::try_from(backends).unwrap_or(u64::MAX);
    }

    pub(super) fn record(&mut self, range: RangeId, kv: &KeyValue) {
        let Some(peer) = self.peer() else { return };
        let Decoded { record, bytes } = decode_counting(&peer, &kv.key, &kv.value);
        let backends = record.as_ref().ok().and_then(Option::as_ref).map_or(0, backends);
        self.spend(range, bytes.saturating_sub(kv.value.len()), backends);
        match record {
            Ok(Some(record)) if self.completeness.counts(record.key().kind()) => {
                self.events.push(PeerEvent::Record(RecordEvent::Upsert(record)));
            }
            Ok(_) => {}
            Err(rejected) => self.reject(&kv.key, rejected.to_string()),
        }
    }

    /// The record that a key carries, if its kind is followed: what the cluster removed together with a former form of its
    /// services means nothing for these.
    pub(super) fn removed(&self, key: &[u8]) -> Option<RecordKey> {
        let record = self.peer().and_then(|peer| decode_removal(&peer, key).ok().flatten());
        record.filter(|record| self.completeness.counts(record.kind()))
    }

    pub(super) fn reject(&mut self, key: &[u8], reason: String) {
        if let Some(record) = self.removed(key) {
            self.events.push(PeerEvent::Record(RecordEvent::Keep(record)));
        }
        self.bytes += reason.len();
        let status = self.follower.status_mut();
        status.rejected += 1;
        status.last_rejected = Some(reason.clone());
        self.events.push(PeerEvent::Rejected(reason));
    }
}
