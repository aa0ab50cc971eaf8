//! Following a cluster: the meaning of its keys, what it may be, and when all of it is known.

mod config;
mod config_check;
mod export_mode;
mod keepalive;
mod listed;
mod looks;
mod ranges;
mod removal;
mod service_format;
mod translate;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use mesh_model::{ClusterConfig, RecordEvent, RecordKind};
use mesh_wire::{Layout, Peer};

use crate::{
    completeness::Completeness,
    deletions::Deletions,
    follower::{self, Event, Follower, RangeId},
    held::Held,
    machine::{Action, Input, Machine},
    replica::Replica,
    status::Status,
    work::Work,
};
pub use config::{PeerCommand, PeerConfig, Refusal, Role};
use export_mode::Migration;
use keepalive::Keepalive;
use looks::Looks;
use ranges::head_ranges;
use service_format::ServiceFormat;

/// An event of a cluster and its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// It is connected.
    Connected,
    /// The connection is lost. What is known of the cluster stays.
    Disconnected,
    /// The cluster's config, which suits ours. If its id is another than before, all it had is of that id.
    Config(ClusterConfig),
    /// The cluster's config does not suit ours; no record of it is accepted. What is known of it stays.
    Refused(Refusal),
    /// About its records.
    Record(RecordEvent),
    /// A record was rejected, with the reason as text.
    Rejected(String),
}

/// When a batch of events is full, in bytes of decoded values. One value more may be in it.
pub const BATCH_BYTES: usize = 1024 * 1024;
/// The size of an event besides its value, about.
const EVENT_BYTES: usize = 64;
/// The size of a backend besides, about.
const BACKEND_BYTES: usize = 64;

/// Follows a cluster.
#[derive(Debug)]
pub struct PeerFollower {
    config: PeerConfig,
    follower: Follower,
    /// The config as last accepted.
    accepted: Option<ClusterConfig>,
    /// The content of the config's key, on this connection.
    announced: Option<Result<ClusterConfig, String>>,
    /// Since this revision.
    announced_at: i64,
    /// Why the owner wants nothing taken of it.
    hold: Option<Refusal>,
    /// The form in which its services were complete last.
    services_in: Option<ServiceFormat>,
    moving: Option<Migration>,
    /// The revision as of which the config was listed.
    config_at: i64,
    completeness: Completeness,
    deletions: Deletions,
    held: Held,
    looks: Looks,
    replica: Replica,
    keepalive: Keepalive,
    /// Its writer has given its history a name: it is ours.
    named: bool,
    /// Ranges in which changes were missed before the list that is about to be done.
    gaps: BTreeSet<RangeId>,
    /// Ranges whose list is not complete: a value of theirs may be old.
    listing: BTreeSet<RangeId>,
    /// Inputs that are not decoded yet.
    backlog: VecDeque<Event>,
    events: Vec<PeerEvent>,
    /// Nothing of it is decoded before then.
    pause: Option<Instant>,
    /// The cost of decoding the rest.
    work: Work,
    /// The size of the events.
    bytes: usize,
    /// When something happened last.
    now: Instant,
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
            hold: None,
            services_in: None,
            moving: None,
            config_at: 0,
            completeness: Completeness::default(),
            deletions: Deletions::default(),
            held: Held::default(),
            looks: Looks::default(),
            replica: Replica::default(),
            keepalive: Keepalive::default(),
            named: false,
            gaps: BTreeSet::new(),
            listing: BTreeSet::new(),
            backlog: VecDeque::new(),
            events: Vec::new(),
            pause: None,
            work: Work::default(),
            bytes: 0,
            now,
        }
    }

    /// The cluster of the records; `None` before its config was accepted.
    fn peer(&self) -> Option<Peer> {
        let config = self.accepted.as_ref()?;
        let Self { config: PeerConfig { name, role, limit, .. }, .. } = self;
        let (id, layout) = (config.id, Layout::of(config));
        Some(Peer { name: name.clone(), role: *role, id, limit: *limit, layout })
    }

    /// Looks at nothing that comes in before then.
    pub(crate) fn pause(&mut self, until: Option<Instant>) {
        self.pause = until;
    }

    /// The cost of decoding since the last call.
    pub(crate) fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// When there is something to decide although nothing happened.
    fn due(&self) -> Option<Instant> {
        let replica = self.replica.deadline().into_iter().chain(self.unseen_at());
        let deletions = self.deletions.next_timeout().into_iter();
        let deletions = deletions.chain(self.pause.filter(|_| !self.backlog.is_empty()));
        deletions.chain(self.looks.next_timeout()).chain(replica).min()
    }

    /// Whether decoding is paused.
    fn is_paused(&self) -> bool {
        self.pause.is_some_and(|until| self.now < until)
    }

    /// Takes what the follower reports, as far as it fits into a batch; decides once all of it is taken.
    fn settle(&mut self, now: Instant) {
        self.now = now;
        let paused = self.is_paused();
        loop {
            self.backlog.extend(self.follower.take_events());
            if paused || self.bytes >= BATCH_BYTES {
                break;
            }
            let Some(event) = self.backlog.pop_front() else { break };
            self.translate(now, event);
        }
        if self.backlog.is_empty() {
            self.decide(now);
        }
        let kinds: Vec<(RecordKind, bool)> = self.completeness.kinds().collect();
        let status = self.follower.status_mut();
        status.kinds = kinds;
        status.held = self.held.len();
    }
}

impl Machine for PeerFollower {
    type Event = PeerEvent;
    type Command = PeerCommand;

    fn handle(&mut self, now: Instant, input: Input) {
        if let Some(answered) = self.keepalive.answered(&input) {
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
                self.hold = Some(refusal);
                self.judge();
            }
            PeerCommand::Release => {
                self.hold = None;
                self.judge();
            }
            PeerCommand::Ask if self.follower.status().connected => self.keepalive.ask(),
            PeerCommand::Ask => {}
        }
        self.settle(now);
    }

    fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.due().is_some_and(|due| due <= now) {
            self.settle(now);
        }
        self.keepalive.poll().or_else(|| self.follower.poll(now))
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.follower.next_timeout().into_iter().chain(self.due()).min()
    }

    fn take_events(&mut self) -> Vec<PeerEvent> {
        self.bytes = 0;
        let events = std::mem::take(&mut self.events);
        if !self.backlog.is_empty() {
            self.settle(self.now);
        }
        events
    }

    fn batch_bytes(&self) -> usize {
        self.bytes
    }

    fn has_more(&self) -> bool {
        !self.events.is_empty() || !self.backlog.is_empty() && !self.is_paused()
    }

    fn wants_input(&self) -> bool {
        self.backlog.is_empty()
    }

    fn status(&self) -> &Status {
        self.follower.status()
    }
}

#[cfg(test)]
mod tests;
