//! A cluster's agents: what they make of what all clusters report.

use std::collections::{BTreeMap, BTreeSet};

use mesh_balance::{Balancer, ClusterState, ClusterView, Explanation, Rules};
use mesh_follow::{PeerConfig, Role};
use mesh_merge::{Claims, Delta, LocalRanges, Merge};
use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, ExportMode, Record, RecordEvent,
    RecordKey, RecordKind, ServiceName, lb::Frontend,
};
use mesh_wire::{
    DecodeError, Key, Layout, Peer, Prefix, cluster_config, decode, decode_removal, key::LOCAL,
};

use crate::keys_file::KeysFile;

/// Whose agents, and what is theirs.
#[derive(Clone, Debug)]
pub(crate) struct ImporterSetup {
    /// The cluster.
    pub(crate) local: ClusterName,
    /// Its ID.
    pub(crate) id: ClusterId,
    /// The mesh's limit.
    pub(crate) limit: ClusterLimit,
    /// Its ranges, which no peer may claim.
    pub(crate) ranges: LocalRanges,
    /// Services are taken that are not global.
    pub(crate) replace_kube_proxy: bool,
    /// The node whose agent it is; `None` where all are treated alike.
    pub(crate) node: Option<String>,
}

/// The agents' state.
#[derive(Debug)]
pub(crate) struct Importer {
    setup: ImporterSetup,
    merge: Merge,
    pub(crate) balancer: Balancer,
    last_seen: BTreeMap<ClusterName, LastSeen>,
}

/// What is known of a cluster.
#[derive(Debug, Default)]
pub(crate) struct LastSeen {
    /// Whom its records are checked against, once its config was accepted.
    peer: Option<Peer>,
    /// The trees that are read of it.
    kinds: BTreeSet<RecordKind>,
    /// Keys and values as they were last seen.
    keys: BTreeMap<String, Vec<u8>>,
    /// Why it is not taken as a peer.
    pub(crate) refusal: Option<String>,
    /// Records that are not taken, and why.
    pub(crate) refused: BTreeMap<RecordKey, Refused>,
    /// Keys that are not understood, and why.
    pub(crate) rejected: BTreeMap<String, DecodeError>,
}

/// A record that is not taken.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its key.
    pub(crate) key: String,
    /// Whose backends are in it.
    pub(crate) service: Option<ServiceName>,
    /// Why.
    pub(crate) reason: String,
}

/// The order in which records are handed on, so that what is referred to is there.
const ORDER: [RecordKind; 9] = [
    RecordKind::Namespace,
    RecordKind::Node,
    RecordKind::Identity,
    RecordKind::Address,
    RecordKind::Pod,
    RecordKind::EndpointSlice,
    RecordKind::Service,
    RecordKind::LocalEndpointSlice,
    RecordKind::LocalService,
];

// === impl Importer ===

impl Importer {
    pub(crate) fn new(setup: ImporterSetup) -> Self {
        let rules = Rules {
            local: setup.id,
            node: setup.node.as_deref().map(Into::into),
            replace_kube_proxy: setup.replace_kube_proxy,
        };
        Self {
            merge: Merge::new(setup.local.clone(), setup.ranges.clone()),
            balancer: Balancer::new(rules, setup.local.clone()),
            last_seen: BTreeMap::new(),
            setup,
        }
    }

    /// A cluster is a peer from now on.
    pub(crate) fn add_peer(&mut self, name: &ClusterName, claims: Option<Claims>) {
        self.merge.set_peer(name, claims);
    }

    /// A cluster is a peer no more: everything that it exported is gone.
    pub(crate) fn remove_peer(&mut self, name: &ClusterName) {
        let id = self.id_of(name);
        self.merge.remove_peer(name);
        self.last_seen.remove(name);
        self.settle();
        if let Some(id) = id {
            self.balancer.set_cluster(id, None);
        }
    }

    /// Why a frontend leads where it leads; `None` where it is none.
    pub(crate) fn explain(&self, frontend: &Frontend) -> Option<Explanation> {
        let service = self.merge.service_of(frontend)?;
        self.balancer.explain_beside(frontend, self.merge.unusable_of(service))
    }

    /// What is known of a cluster.
    pub(crate) fn last_seen(&self, name: &ClusterName) -> Option<&LastSeen> {
        self.last_seen.get(name)
    }

    /// Imports a cluster: all its keys as they are now. `with_local_keys`: those for its nodes alone are among them.
    pub(crate) fn import(&mut self, file: &KeysFile, with_local_keys: bool) {
        let name = &file.cluster;
        let mut last_seen = self.last_seen.remove(name).unwrap_or_default();
        match self.accept(file, with_local_keys) {
            Ok((peer, kinds)) => {
                last_seen.refusal = None;
                self.take(&mut last_seen, peer, kinds, file);
            }
            Err(refusal) => last_seen.refusal = Some(refusal),
        }
        self.last_seen.insert(name.clone(), last_seen);
        self.settle();
        if let Some(id) = self.id_of(name) {
            self.set_state(name, id, ClusterState::InUse);
        }
    }

    /// A cluster has been unreachable for longer than its staleness budget.
    pub(crate) fn set_stale(&mut self, name: &ClusterName) {
        if let Some(id) = self.id_of(name) {
            self.set_state(name, id, ClusterState::Stale);
        }
    }

    /// The ID under which a cluster is known.
    pub(crate) fn id_of(&self, name: &ClusterName) -> Option<ClusterId> {
        self.merge.id_of(name)
    }

    fn set_state(&mut self, name: &ClusterName, id: ClusterId, state: ClusterState) {
        let view = ClusterView { name: name.clone(), state, synced: state == ClusterState::InUse };
        self.balancer.set_cluster(id, Some(view));
    }

    /// Judges a cluster by its config, and says what is read of it.
    fn accept(
        &mut self,
        file: &KeysFile,
        with_local_keys: bool,
    ) -> Result<(Peer, BTreeSet<RecordKind>), String> {
        let KeysFile { cluster: name, id, entries } = file;
        let ImporterSetup { local, id: local_id, limit, .. } = &self.setup;
        let role = if name == local { Role::Local } else { Role::Remote };
        if let Some(contradiction) = file.contradiction() {
            return Err(format!("its keys file contradicts itself: {contradiction}"));
        }
        let config = match entries.get(&Key::ClusterConfig(name.clone()).to_string()) {
            Some(value) => cluster_config::decode(value)
                .map_err(|error| format!("the cluster's config: {error}"))?,
            // A list of keys that was made by hand: its cluster config names it.
            None => ClusterConfig {
                id: *id,
                export_mode: mode_of(file),
                max_connected_clusters: limit.get(),
                cached: file.layout() == Layout::Cache,
                ..ClusterConfig::default()
            },
        };
        let granted = self.merge.granted_id(name);
        let peer_config = PeerConfig {
            name: name.clone(),
            role,
            local_id: *local_id,
            node: None,
            endpoints: 1,
            limit: *limit,
            uuid: None,
            id: granted,
        };
        peer_config.check(&config).map_err(|refusal| refusal.to_string())?;
        self.merge.set_id(name, config.id).map_err(|in_use| in_use.to_string())?;
        let layout = Layout::of(&config);
        let peer = Peer { name: name.clone(), role, id: config.id, limit: *limit, layout };
        Ok((peer, kinds(role, with_local_keys, &config.export_mode)))
    }

    /// Gives the merge what is other than before.
    fn take(
        &mut self,
        last_seen: &mut LastSeen,
        peer: Peer,
        kinds: BTreeSet<RecordKind>,
        file: &KeysFile,
    ) {
        if last_seen.peer.as_ref() != Some(&peer) || last_seen.kinds != kinds {
            // All of it is of that ID, and in that form, now.
            *last_seen = LastSeen::default();
            for kind in &kinds {
                self.apply(last_seen, &peer, RecordEvent::Begin(*kind));
            }
        }
        let mut events = Vec::new();
        for (key, value) in &file.entries {
            if last_seen.keys.get(key) == Some(value) {
                continue;
            }
            let is_local = key.starts_with(LOCAL);
            let known = match decode_removal(&peer, key.as_bytes()) {
                // No cluster reads it of another.
                _ if is_local && peer.role == Role::Remote => None,
                Ok(known) => known.filter(|known| kinds.contains(&known.kind())),
                Err(rejected) => {
                    last_seen.rejected.insert(key.clone(), rejected.reason);
                    None
                }
            };
            let Some(known) = known else { continue };
            match decode(&peer, key.as_bytes(), value) {
                Ok(Some(record)) => {
                    last_seen.rejected.remove(key);
                    events.push(RecordEvent::Upsert(record));
                }
                Ok(None) => {}
                Err(rejected) => {
                    last_seen.rejected.insert(key.clone(), rejected.reason);
                    events.push(RecordEvent::Keep(known));
                }
            }
        }
        let gone = last_seen.keys.keys().filter(|key| !file.entries.contains_key(*key));
        for key in gone.cloned().collect::<Vec<_>>() {
            last_seen.rejected.remove(&key);
            let known = decode_removal(&peer, key.as_bytes()).ok().flatten();
            events.extend(known.map(RecordEvent::Remove));
        }
        let rank = |event: &RecordEvent| {
            let kind = match event {
                RecordEvent::Upsert(record) => record.key().kind(),
                RecordEvent::Keep(key) | RecordEvent::Remove(key) => key.kind(),
                RecordEvent::Begin(kind)
                | RecordEvent::Confirmed(kind)
                | RecordEvent::Without(kind) => *kind,
            };
            ORDER.iter().position(|known| *known == kind)
        };
        events.sort_by_key(rank);
        for event in events {
            self.apply(last_seen, &peer, event);
        }
        let is_first = last_seen.peer.is_none();
        last_seen.keys = file.entries.clone();
        if is_first {
            for kind in &kinds {
                self.apply(last_seen, &peer, RecordEvent::Confirmed(*kind));
            }
        }
        last_seen.peer = Some(peer);
        last_seen.kinds = kinds;
    }

    fn apply(&mut self, last_seen: &mut LastSeen, peer: &Peer, event: RecordEvent) {
        let key = match &event {
            RecordEvent::Upsert(record) => Some((record.key(), service_of(record))),
            RecordEvent::Remove(key) => Some((key.clone(), None)),
            _ => None,
        };
        match (self.merge.apply(&peer.name, event), key) {
            (Err(refused), Some((record, service))) => {
                let key = Key::of_record(peer.layout, &peer.name, record.clone()).to_string();
                let reason = refused.to_string();
                last_seen.refused.insert(record, Refused { key, service, reason });
            }
            (Ok(()), Some((key, _))) => {
                last_seen.refused.remove(&key);
            }
            (_, None) => {}
        }
    }

    /// The local cluster's nodes, if the one whose agent it is is none of them. Nothing is missed where there is no node.
    pub(crate) fn other_nodes(&self) -> Option<(&str, Vec<&str>)> {
        let node = self.setup.node.as_deref()?;
        let nodes: Vec<&str> = self.merge.nodes(&self.setup.local).map(|(name, _)| name).collect();
        (!nodes.is_empty() && !nodes.contains(&node)).then_some((node, nodes))
    }

    /// Brings the decision to what the merge says now.
    fn settle(&mut self) {
        let node = self.setup.node.as_deref();
        self.balancer.set_zone(node.and_then(|node| self.merge.zone_of(node)));
        for delta in self.merge.take_deltas() {
            if let Delta::Service(delta) = delta {
                let node_of = |cluster, address| self.merge.node_of(cluster, address);
                self.balancer.apply(&delta, node_of);
            }
        }
        let ids: Vec<ClusterId> = self.merge.clusters().map(|(_, id)| id).collect();
        for id in ids {
            self.balancer.place(id, |address| self.merge.node_of(id, address));
        }
    }
}

/// The service whose backends a record has.
fn service_of(record: &Record) -> Option<ServiceName> {
    match record {
        Record::Service(service) => Some(service.name.clone()),
        Record::LocalService(service) => Some(service.name.clone()),
        Record::EndpointSlice(slice) | Record::LocalEndpointSlice(slice) => slice.service(),
        Record::Node(_)
        | Record::Identity(..)
        | Record::Address(_)
        | Record::Namespace(_)
        | Record::Pod(_) => None,
    }
}

/// The trees that are read of a cluster: slices where it has them, else services v1; of the local one its local prefix.
fn kinds(role: Role, with_local_keys: bool, mode: &ExportMode) -> BTreeSet<RecordKind> {
    let mut kinds = BTreeSet::from([RecordKind::Node, RecordKind::Identity, RecordKind::Address]);
    match (role, with_local_keys, mode) {
        (_, true, _) => kinds.extend([
            RecordKind::Namespace,
            RecordKind::Pod,
            RecordKind::LocalService,
            RecordKind::LocalEndpointSlice,
        ]),
        // It is for the nodes of that cluster, or a Cilium wrote it.
        (Role::Local, false, _) | (Role::Remote, false, ExportMode::Services) => {
            kinds.extend([RecordKind::Service]);
        }
        (Role::Remote, false, _) => kinds.extend([RecordKind::EndpointSlice]),
    }
    kinds
}

/// What a list of keys without a config has.
fn mode_of(file: &KeysFile) -> ExportMode {
    let has = |prefix: Prefix| {
        let path = format!("{}/", prefix.path(file.layout()));
        file.entries.keys().any(|key| key.starts_with(&path))
    };
    match (has(Prefix::EndpointSlices), has(Prefix::Services)) {
        (false, _) => ExportMode::Services,
        (true, true) => ExportMode::ServicesAndEndpointSlices,
        (true, false) => ExportMode::EndpointSlicesOnly,
    }
}
