//! Following a cluster: what its keys mean, what it may be, and when it has told everything.

use std::{collections::BTreeMap, time::Instant};

use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, ExportMode, RecordEvent, RecordKind,
};
use mesh_wire::{
    Key, Layout, Peer, Prefix, cluster_config, decode, decode_removal,
    key::{CANARIES, HEARTBEAT},
};
use uuid::Uuid;

use crate::{
    follower::{self, Event, Follower, RangeConfig, RangeId},
    machine::{Action, Input, KeyValue, Machine, Span},
    status::{Failure, Rung, Status},
};

/// Whether the followed cluster is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ours: it must have our number.
    Own,
    /// Another: it must have another number.
    Remote,
}

/// Whom to follow, and who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The cluster to follow.
    pub name: ClusterName,
    /// Whether it is ours.
    pub role: Role,
    /// Our own number.
    pub own_id: ClusterId,
    /// The limit the mesh agreed on.
    pub limit: ClusterLimit,
    /// Which cluster it must be, if that is known.
    pub uuid: Option<Uuid>,
}

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

/// Why a cluster is not taken as a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has no number, so it is not part of a mesh.
    #[error("the cluster has no id: it is not set up for a mesh")]
    NoId,
    /// Its number is beyond our limit.
    #[error("the cluster's id {id} is above the limit of {limit} clusters")]
    IdAboveLimit {
        /// Its number.
        id: ClusterId,
        /// Our limit.
        limit: ClusterLimit,
    },
    /// It has our number.
    #[error("the cluster has our own id {0}: give one of the two another")]
    OwnId(ClusterId),
    /// What should be our own cluster has another number than we were started with.
    #[error(
        "our own etcd is of a cluster with id {found}, but this node is of one with id {expected}"
    )]
    NotOwnId {
        /// In the etcd.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// Another peer has its number.
    #[error("the cluster's id {id} is in use by {other}: give one of the two another")]
    IdInUse {
        /// Its number.
        id: ClusterId,
        /// Who has it.
        other: ClusterName,
    },
    /// It splits identities differently.
    #[error(
        "the cluster has maxConnectedClusters {found}, ours is {expected}: all clusters need the same"
    )]
    Limit {
        /// Its limit, 0 if it names none.
        found: u32,
        /// Ours.
        expected: ClusterLimit,
    },
    /// It is another cluster than the one connected to.
    #[error(
        "the cluster is {found}, not the {expected} that was connected: it was rebuilt, or it is another. Run `clustermesh connect` again if that is meant"
    )]
    Uuid {
        /// Its id.
        found: Uuid,
        /// The one in the peer file.
        expected: Uuid,
    },
    /// It exports services in a form we do not read.
    #[error("the cluster exports services only as {0:?}, which this version does not read")]
    ExportMode(String),
    /// Its config cannot be read.
    #[error("the cluster's config: {0}")]
    Unreadable(String),
    /// Its config is not there.
    #[error(
        "the etcd has no config of a cluster {0}: is that its name, and does its apiserver run?"
    )]
    Absent(ClusterName),
    /// It has more, or says more, than it may. An operator lets it in again.
    #[error(
        "over its budget: {0}. What it said stays, and nothing more is taken until `clustermesh quarantine lift`"
    )]
    OverBudget(String),
}

/// What its owner may tell a follower of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCommand {
    /// Break the connection, if one stands, and make another at once.
    Reconnect,
    /// Take nothing of the cluster, for a reason that only the owner can see.
    Hold(Refusal),
    /// Take it again, from the beginning.
    Release,
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
    held: Option<Refusal>,
    /// The revision that wrote each canary last.
    canaries: BTreeMap<(Layout, Prefix), i64>,
    kinds: Vec<KindState>,
    events: Vec<PeerEvent>,
}

/// A kind of record that counts, and so the prefix that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KindState {
    kind: RecordKind,
    range: RangeId,
    /// The list since the last `Begin` was complete, and the canary is not younger.
    confirmed: bool,
}

const CONFIG: RangeId = RangeId(0);
const CANARY: RangeId = RangeId(1);
const BEAT: RangeId = RangeId(2);
/// The first of the ranges with records.
const DATA: u8 = 3;

/// Keys a page: many small ones, or few that may be long.
const SMALL_PAGE: i64 = 4_096;
const LARGE_PAGE: i64 = 128;

// === impl PeerFollower ===

impl PeerFollower {
    /// Follows a cluster from now on. `seed` is for the jitter between tries.
    pub fn new(config: PeerConfig, seed: u64, now: Instant) -> Self {
        let head = vec![
            RangeConfig {
                id: CONFIG,
                span: Span::key(&Key::ClusterConfig(config.name.clone()).to_string()),
                page: SMALL_PAGE,
            },
            RangeConfig {
                id: CANARY,
                span: Span::prefix(&format!("{CANARIES}{}/", config.name)),
                page: SMALL_PAGE,
            },
        ];
        Self {
            config,
            follower: Follower::new(head, seed, now),
            accepted: None,
            announced: None,
            held: None,
            canaries: BTreeMap::new(),
            kinds: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Whom the records are of; `None` before its config was accepted.
    fn peer(&self) -> Option<Peer> {
        let config = self.accepted.as_ref()?;
        let Self { config: PeerConfig { name, limit, .. }, .. } = self;
        Some(Peer { name: name.clone(), id: config.id, limit: *limit, layout: layout(config) })
    }

    fn translate(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.announced = None;
                self.events.push(PeerEvent::Connected);
            }
            Event::Disconnected => self.events.push(PeerEvent::Disconnected),
            Event::Begin(CONFIG) => self.announced = None,
            Event::Put(CONFIG, kv) => {
                self.announced = Some(cluster_config::decode(&kv.value).map_err(|e| e.to_string()));
                self.judge();
            }
            Event::Done(CONFIG, _) => self.judge(),
            Event::TooLarge(CONFIG, _) => {
                self.announced = Some(Err("larger than any config".into()));
                self.judge();
            }
            // A writer that loses its lease loses its config with it; it is still the same cluster.
            Event::Delete(CONFIG, _) => {}
            Event::Begin(CANARY) => self.canaries.clear(),
            Event::Put(CANARY, kv) => self.canary(&kv),
            Event::Done(CANARY, _) | Event::Delete(CANARY, _) | Event::TooLarge(CANARY, _) => {}
            Event::Put(BEAT, kv) => {
                if kv.key == HEARTBEAT.as_bytes() {
                    self.follower.status_mut().heartbeats += 1;
                }
            }
            Event::Begin(BEAT)
            | Event::Done(BEAT, _)
            | Event::Delete(BEAT, _)
            | Event::TooLarge(BEAT, _) => {}
            Event::Begin(range) => {
                for state in self.kinds.iter_mut().filter(|state| state.range == range) {
                    state.confirmed = false;
                    self.events.push(PeerEvent::Record(RecordEvent::Begin(state.kind)));
                }
            }
            Event::Put(_, kv) => self.record(&kv),
            Event::Delete(_, key) => self.removal(&key),
            Event::TooLarge(_, key) => {
                let name = String::from_utf8_lossy(&key).into_owned();
                self.reject(&key, format!("{name}: the value is larger than what is accepted"));
            }
            Event::Done(range, revision) => self.listed(range, revision),
        }
    }

    /// Decides about the announced config, or the lack of one.
    fn judge(&mut self) {
        let verdict = match (&self.held, &self.announced) {
            (Some(held), _) => Err(held.clone()),
            (None, None) => Err(Refusal::Absent(self.config.name.clone())),
            (None, Some(Err(error))) => Err(Refusal::Unreadable(error.clone())),
            (None, Some(Ok(config))) => self.config.check(config).map(|()| config.clone()),
        };
        match verdict {
            Ok(config) => self.accept(config),
            Err(refusal) => {
                let failure = Failure::new(Rung::Config, refusal.to_string());
                let status = self.follower.status_mut();
                if status.failure.as_ref() != Some(&failure) {
                    status.failure = Some(failure);
                    self.events.push(PeerEvent::Refused(refusal));
                }
                self.accepted = None;
                self.follower.follow(Vec::new());
            }
        }
    }

    fn accept(&mut self, config: ClusterConfig) {
        let status = self.follower.status_mut();
        if status.failure.as_ref().is_some_and(|failure| failure.rung == Rung::Config) {
            status.failure = None;
        }
        if self.accepted.as_ref() == Some(&config) {
            return;
        }
        let renumbered = self.accepted.as_ref().is_some_and(|before| before.id != config.id);
        self.accepted = Some(config.clone());
        status.config = Some(config.clone());
        self.events.push(PeerEvent::Config(config.clone()));

        let (ranges, kinds) = data_ranges(&self.config.name, layout(&config));
        let before = std::mem::take(&mut self.kinds);
        let of = |(kind, range): (RecordKind, RangeId)| {
            let same = before.iter().find(|state| (state.kind, state.range) == (kind, range));
            same.copied().unwrap_or(KindState { kind, range, confirmed: false })
        };
        self.kinds = kinds.into_iter().map(of).collect();
        let ids: Vec<RangeId> = ranges.iter().map(|range| range.id).collect();
        self.follower.follow(ranges);
        if renumbered {
            ids.into_iter().for_each(|id| self.follower.relist(id));
        }
    }

    fn canary(&mut self, kv: &KeyValue) {
        let Ok(Key::Canary(_, Some((layout, prefix)))) = Key::parse(&kv.key) else { return };
        self.canaries.insert((layout, prefix), kv.mod_revision);
        let Some(state) = self.kinds.iter().find(|state| Prefix::of(state.kind) == prefix) else {
            return;
        };
        let (range, confirmed) = (state.range, state.confirmed);
        match self.follower.listed_at(range) {
            // The list that was is older than the writer's word that it is complete.
            Some(listed) if !confirmed && listed < kv.mod_revision => self.follower.relist(range),
            Some(listed) if !confirmed => self.listed(range, listed),
            _ => {}
        }
    }

    /// A range was listed as of `revision`: what its prefixes' canaries vouch for is confirmed.
    fn listed(&mut self, range: RangeId, revision: i64) {
        let Some(config) = &self.accepted else { return };
        for state in self.kinds.iter_mut().filter(|state| state.range == range && !state.confirmed)
        {
            let canary = self.canaries.get(&(layout(config), Prefix::of(state.kind)));
            if !config.synced_canaries || canary.is_some_and(|canary| *canary <= revision) {
                state.confirmed = true;
                self.events.push(PeerEvent::Record(RecordEvent::Confirmed(state.kind)));
            }
        }
    }

    fn record(&mut self, kv: &KeyValue) {
        let Some(peer) = self.peer() else { return };
        match decode(&peer, &kv.key, &kv.value) {
            Ok(Some(record)) => self.events.push(PeerEvent::Record(RecordEvent::Upsert(record))),
            Ok(None) => {}
            Err(rejected) => self.reject(&kv.key, rejected.to_string()),
        }
    }

    fn removal(&mut self, key: &[u8]) {
        let Some(peer) = self.peer() else { return };
        // A key that could not have been a record cannot take one away.
        if let Ok(Some(record)) = decode_removal(&peer, key) {
            self.events.push(PeerEvent::Record(RecordEvent::Remove(record)));
        }
    }

    fn reject(&mut self, key: &[u8], reason: String) {
        let record = self.peer().and_then(|peer| decode_removal(&peer, key).ok().flatten());
        if let Some(record) = record {
            self.events.push(PeerEvent::Record(RecordEvent::Keep(record)));
        }
        let status = self.follower.status_mut();
        status.rejected += 1;
        status.last_rejected = Some(reason.clone());
        self.events.push(PeerEvent::Rejected(reason));
    }

    /// Takes what the follower has to tell, until it has nothing more.
    fn settle(&mut self) {
        loop {
            let events = self.follower.take_events();
            if events.is_empty() {
                break;
            }
            events.into_iter().for_each(|event| self.translate(event));
        }
        let complete = self.kinds.iter().map(|state| (state.kind, state.confirmed)).collect();
        let status = self.follower.status_mut();
        status.kinds = complete;
    }
}

impl Machine for PeerFollower {
    type Event = PeerEvent;
    type Command = PeerCommand;

    fn handle(&mut self, now: Instant, input: Input) {
        self.follower.handle(now, input);
        self.settle();
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
        }
        self.settle();
    }

    fn poll(&mut self, now: Instant) -> Option<Action> {
        self.follower.poll(now)
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.follower.next_timeout()
    }

    fn take_events(&mut self) -> Vec<PeerEvent> {
        std::mem::take(&mut self.events)
    }

    fn status(&self) -> &Status {
        self.follower.status()
    }
}

// === impl PeerConfig ===

impl PeerConfig {
    /// Whether a cluster of that config can be a peer (`docs/wire.md`, "Cluster config").
    fn check(&self, config: &ClusterConfig) -> Result<(), Refusal> {
        let id = config.id;
        if id == ClusterId::NONE {
            return Err(Refusal::NoId);
        }
        if u32::from(id.get()) > self.limit.get() {
            return Err(Refusal::IdAboveLimit { id, limit: self.limit });
        }
        match self.role {
            Role::Remote if id == self.own_id => return Err(Refusal::OwnId(id)),
            Role::Own if id != self.own_id => {
                return Err(Refusal::NotOwnId { found: id, expected: self.own_id });
            }
            Role::Own | Role::Remote => {}
        }
        let found = config.max_connected_clusters;
        let absent_is_default = found == 0 && self.limit == ClusterLimit::Max255;
        if found != self.limit.get() && !absent_is_default {
            return Err(Refusal::Limit { found, expected: self.limit });
        }
        if let (Some(expected), Some(found)) = (self.uuid, config.uuid)
            && expected != found
        {
            return Err(Refusal::Uuid { found, expected });
        }
        match &config.export_mode {
            ExportMode::Services | ExportMode::ServicesAndEndpointSlices => Ok(()),
            other @ (ExportMode::EndpointSlicesOnly | ExportMode::Unknown(_)) => {
                Err(Refusal::ExportMode(other.as_str().into()))
            }
        }
    }
}

/// The tree that a cluster's records are in.
fn layout(config: &ClusterConfig) -> Layout {
    if config.cached { Layout::Cache } else { Layout::State }
}

/// What to follow of a cluster's records. Its own tree is one range from identities to nodes: one watch, so the order of
/// its writes is ours, identities before the addresses that have them. In a cache each prefix stands alone.
fn data_ranges(
    cluster: &ClusterName,
    layout: Layout,
) -> (Vec<RangeConfig>, Vec<(RecordKind, RangeId)>) {
    let of = |kind| Span::prefix(&Prefix::of(kind).of_cluster(layout, cluster));
    let small = [RecordKind::Identity, RecordKind::Address, RecordKind::Node];
    let services = (of(RecordKind::Service), LARGE_PAGE, vec![RecordKind::Service]);
    let mut spans: Vec<(Span, i64, Vec<RecordKind>)> = match layout {
        Layout::State => {
            let [first, _, last] = small.map(|kind| format!("{}/", Prefix::of(kind).path(layout)));
            vec![(Span::between(&first, &last), SMALL_PAGE, small.to_vec())]
        }
        Layout::Cache => small.into_iter().map(|kind| (of(kind), SMALL_PAGE, vec![kind])).collect(),
    };
    spans.push(services);
    let beat = RangeConfig { id: BEAT, span: Span::prefix(HEARTBEAT), page: SMALL_PAGE };
    let mut ranges = vec![beat];
    let mut kinds = Vec::new();
    for (id, (span, page, of)) in (DATA..).map(RangeId).zip(spans) {
        ranges.push(RangeConfig { id, span, page });
        kinds.extend(of.into_iter().map(|kind| (kind, id)));
    }
    (ranges, kinds)
}

#[cfg(test)]
mod tests;
