//! Following a cluster: what its keys mean, what it may be, and when it has told everything.

mod config;
mod config_check;
mod export_mode;
mod keepalive;
mod listed;
mod ranges;

use std::{collections::BTreeSet, time::Instant};

use mesh_model::{ClusterConfig, RecordEvent, RecordKey, RecordKind};
use mesh_wire::{
    Layout, Peer, Position, cluster_config, decode, decode_removal,
    key::{HEARTBEAT, POSITION},
};

use crate::{
    completeness::Completeness,
    deletions::{Deletions, Verdict},
    follower::{self, Event, Follower, RangeId},
    machine::{Action, Input, KeyValue, Machine},
    replica::Replica,
    status::{ConnectionPhase, Failure, Status},
};
pub use config::{PeerCommand, PeerConfig, Refusal, Role};
use export_mode::{Migration, ServiceFormat};
use keepalive::Keepalive;
use ranges::{BEAT, CANARY, CONFIG, NAME, OWN_BEAT, head_ranges};

/// What a cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A connection stands.
    Connected,
    /// The connection is gone. What the cluster said stays.
    Disconnected,
    /// The cluster's config, which suits ours. If its number is another than before, all it said is of that number.
    Config(ClusterConfig),
    /// The cluster's config does not suit ours; nothing of it is taken. What it said before stays.
    Refused(Refusal),
    /// About its records.
    Record(RecordEvent),
    /// A record was rejected; in words.
    Rejected(String),
}

/// Follows a cluster.
#[derive(Debug)]
pub struct PeerFollower {
    config: PeerConfig,
    follower: Follower,
    /// The config as last accepted.
    accepted: Option<ClusterConfig>,
    /// What the config's key holds, on this connection.
    announced: Option<Result<ClusterConfig, String>>,
    /// Since this revision.
    announced_at: i64,
    held: Option<Refusal>,
    /// The form in which its services were told in full last.
    told_as: Option<ServiceFormat>,
    moving: Option<Migration>,
    /// The revision as of which the config was listed.
    config_at: i64,
    completeness: Completeness,
    deletions: Deletions,
    replica: Replica,
    sign: Keepalive,
    events: Vec<PeerEvent>,
}

// === impl PeerFollower ===

impl PeerFollower {
    /// Follows a cluster from now on. `seed` is for the jitter between tries.
    pub fn new(config: PeerConfig, seed: u64, now: Instant) -> Self {
        let head = head_ranges(&config.name);
        Self {
            config,
            follower: Follower::new(head, seed, now),
            accepted: None,
            announced: None,
            announced_at: 0,
            held: None,
            told_as: None,
            moving: None,
            config_at: 0,
            completeness: Completeness::default(),
            deletions: Deletions::default(),
            replica: Replica::default(),
            sign: Keepalive::default(),
            events: Vec::new(),
        }
    }

    /// Whom the records are of; `None` before its config was accepted.
    fn peer(&self) -> Option<Peer> {
        let config = self.accepted.as_ref()?;
        let Self { config: PeerConfig { name, role, limit, .. }, .. } = self;
        let (id, layout) = (config.id, Layout::of(config));
        Some(Peer { name: name.clone(), role: *role, id, limit: *limit, layout })
    }

    fn translate(&mut self, now: Instant, event: Event) {
        if let Event::Put(_, kv) = &event {
            self.deletions.put(&kv.key);
        }
        match event {
            Event::Connected => {
                self.announced = None;
                self.completeness.connected();
                self.replica.connected(now);
                self.events.push(PeerEvent::Connected);
            }
            Event::Disconnected => {
                self.sign = Keepalive::default();
                self.replica.disconnected();
                // The next connection's watch begins after what was removed and not explained: only a list tells.
                for range in self.deletions.disconnected() {
                    self.follower.relist(range);
                }
                self.events.push(PeerEvent::Disconnected);
            }
            Event::NewHistory => {
                self.moves_in_new_history();
                self.completeness.new_history();
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
            Event::Delete(range @ (CONFIG | CANARY | BEAT | NAME | OWN_BEAT), key, revision) => {
                self.deletions.deleted(now, range, key, revision, false);
            }
            Event::Begin(CANARY) => self.completeness.begin_canaries(),
            Event::Put(CANARY, kv) => self.canary(&kv),
            Event::Done(CANARY, revision) => {
                self.completeness.canaries_listed(revision);
                self.follow();
                self.deletions.looked(revision);
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
                }
            }
            Event::Put(OWN_BEAT, _) => self.follower.status_mut().own_beats += 1,
            Event::Begin(BEAT | NAME | OWN_BEAT) | Event::Done(BEAT | NAME | OWN_BEAT, _) => {}
            Event::TooLarge(BEAT | NAME | OWN_BEAT, _) | Event::Put(NAME, _) => {}
            Event::Begin(range) => {
                let begun = self.completeness.begin(range).into_iter();
                self.events.extend(begun.map(|kind| PeerEvent::Record(RecordEvent::Begin(kind))));
            }
            Event::Put(_, kv) => self.record(&kv),
            Event::Delete(range, key, revision) => {
                // A key that could not have been a record cannot take one away.
                let carries = self.removed(&key).is_some();
                self.deletions.deleted(now, range, key, revision, carries);
            }
            Event::TooLarge(_, key) => {
                let name = String::from_utf8_lossy(&key).into_owned();
                self.reject(&key, format!("{name}: the value is larger than what is accepted"));
            }
            Event::Done(range, revision) => self.listed(range, revision),
        }
    }

    fn beat(&mut self, kv: &KeyValue) {
        self.replica.beat();
        let ranges = self.completeness.beat(kv.mod_revision);
        ranges.into_iter().for_each(|range| self.follower.relist(range));
    }

    fn position(&mut self, now: Instant, kv: &KeyValue) {
        match Position::decode(&kv.value) {
            Ok(position) => {
                let was_older = self.replica.is_older();
                self.replica.position(position, now);
                self.caught_up(was_older);
            }
            Err(error) => {
                let reason = format!("{POSITION}: {error}");
                let status = self.follower.status_mut();
                status.rejected += 1;
                status.last_rejected = Some(reason.clone());
                self.events.push(PeerEvent::Rejected(reason));
            }
        }
    }

    /// Takes what became of deletions.
    fn decide(&mut self, now: Instant) {
        if self.deletions.wants_look(now) {
            match self.completeness.is_canaried() {
                true => self.follower.relist(CANARY),
                false => self.deletions.looked(i64::MAX),
            }
        }
        for verdict in self.deletions.due(now) {
            match verdict {
                Verdict::Meant(keys, more) => {
                    self.remove(&keys);
                    more.into_iter().for_each(|range| self.follower.relist(range));
                }
                Verdict::Single(at, keys) if self.is_vouched(at, &keys) => self.remove(&keys),
                Verdict::Single(revision, keys) => self.expire(revision, &keys, &BTreeSet::new()),
                Verdict::Expired(revision, keys, more) => self.expire(revision, &keys, &more),
            }
        }
        if self.replica.wait_is_over(now) {
            self.caught_up(true);
        }
        if self.unheard_at().is_some_and(|at| at <= now) {
            self.replica.leave();
            let reason = "its writer has not been heard of: trying another replica";
            self.follower.give_up(now, Failure::new(ConnectionPhase::Synced, reason));
        }
    }

    /// When to try another replica, where there is one.
    fn unheard_at(&self) -> Option<Instant> {
        self.replica.unheard_at().filter(|_| self.config.endpoints > 1)
    }

    /// Whether the canaries of the prefixes that keys are in are there, and were at a revision.
    fn is_vouched(&self, revision: i64, keys: &[(RangeId, Vec<u8>)]) -> bool {
        let kind = |(_, key): &(RangeId, Vec<u8>)| self.removed(key).map(|record| record.kind());
        keys.iter().filter_map(kind).all(|kind| self.completeness.is_vouched(kind, revision))
    }

    fn remove(&mut self, keys: &[(RangeId, Vec<u8>)]) {
        let records: Vec<RecordKey> =
            keys.iter().filter_map(|(_, key)| self.removed(key)).collect();
        let removed = |record| PeerEvent::Record(RecordEvent::Remove(record));
        self.events.extend(records.into_iter().map(removed));
    }

    /// A lease ran out: what its keys said stays until a writer vouches for a list again.
    fn expire(&mut self, revision: i64, keys: &[(RangeId, Vec<u8>)], more: &BTreeSet<RangeId>) {
        let records = keys.iter().filter_map(|(_, key)| self.removed(key));
        let kinds = records.map(|record| record.kind()).chain(self.completeness.kinds_in(more));
        let kinds: BTreeSet<RecordKind> = kinds.collect();
        for range in self.completeness.expired(&kinds, revision) {
            self.follower.relist(range);
        }
        self.follower.status_mut().held += keys.len();
    }

    fn record(&mut self, kv: &KeyValue) {
        let Some(peer) = self.peer() else { return };
        match decode(&peer, &kv.key, &kv.value) {
            Ok(Some(record)) if self.completeness.counts(record.key().kind()) => {
                self.events.push(PeerEvent::Record(RecordEvent::Upsert(record)));
            }
            Ok(_) => {}
            Err(rejected) => self.reject(&kv.key, rejected.to_string()),
        }
    }

    /// The record that a key carries, if its kind is followed: what the cluster let go of together with a former form of its
    /// services says nothing of these.
    fn removed(&self, key: &[u8]) -> Option<RecordKey> {
        let record = self.peer().and_then(|peer| decode_removal(&peer, key).ok().flatten());
        record.filter(|record| self.completeness.counts(record.kind()))
    }

    fn reject(&mut self, key: &[u8], reason: String) {
        if let Some(record) = self.removed(key) {
            self.events.push(PeerEvent::Record(RecordEvent::Keep(record)));
        }
        let status = self.follower.status_mut();
        status.rejected += 1;
        status.last_rejected = Some(reason.clone());
        self.events.push(PeerEvent::Rejected(reason));
    }

    /// When there is something to decide although nothing happened.
    fn due(&self) -> Option<Instant> {
        let replica = self.replica.deadline().into_iter().chain(self.unheard_at());
        self.deletions.next_timeout().into_iter().chain(replica).min()
    }

    /// Takes what the follower has to tell, until it has nothing more.
    fn settle(&mut self, now: Instant) {
        loop {
            let events = self.follower.take_events();
            if events.is_empty() {
                break;
            }
            events.into_iter().for_each(|event| self.translate(now, event));
        }
        self.decide(now);
        let kinds: Vec<(RecordKind, bool)> = self.completeness.kinds().collect();
        let all_confirmed = kinds.iter().all(|(_, confirmed)| *confirmed);
        let status = self.follower.status_mut();
        status.kinds = kinds;
        if all_confirmed {
            status.held = 0;
        }
    }
}

impl Machine for PeerFollower {
    type Event = PeerEvent;
    type Command = PeerCommand;

    fn handle(&mut self, now: Instant, input: Input) {
        if let Some(answered) = self.sign.answered(&input) {
            self.follower.status_mut().answers += u64::from(answered);
            return;
        }
        self.follower.handle(now, input);
        self.settle(now);
    }

    fn command(&mut self, now: Instant, command: PeerCommand) {
        match command {
            PeerCommand::Reconnect => self.follower.command(now, follower::Command::Reconnect),
            PeerCommand::Hold(refusal) => {
                self.held = Some(refusal);
                self.judge();
            }
            PeerCommand::Release => {
                self.held = None;
                self.judge();
            }
            PeerCommand::Ask if self.follower.status().connected => self.sign.ask(),
            PeerCommand::Ask => {}
        }
        self.settle(now);
    }

    fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.due().is_some_and(|due| due <= now) {
            self.settle(now);
        }
        self.sign.poll().or_else(|| self.follower.poll(now))
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.follower.next_timeout().into_iter().chain(self.due()).min()
    }

    fn take_events(&mut self) -> Vec<PeerEvent> {
        std::mem::take(&mut self.events)
    }

    fn status(&self) -> &Status {
        self.follower.status()
    }
}

#[cfg(test)]
mod tests;
