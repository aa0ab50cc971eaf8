//! The agents of a cluster: what they compute from the keys of all clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

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

/// The settings of the importing cluster.
#[derive(Clone, Debug)]
pub(crate) struct ImporterSetup {
    /// The name of the cluster.
    pub(crate) local: ClusterName,
    /// Its ID.
    pub(crate) id: ClusterId,
    /// The limit of clusters in the mesh.
    pub(crate) limit: ClusterLimit,
    /// Its ranges, from which agents refuse peers' records.
    pub(crate) ranges: LocalRanges,
    /// Whether services that are not global are in the tables too.
    pub(crate) replace_kube_proxy: bool,
    /// The node of the agent; `None` to ignore nodes.
    pub(crate) node: Option<String>,
}

/// The state of the agents.
#[derive(Debug)]
pub(crate) struct Importer {
    setup: ImporterSetup,
    merge: Merge,
    pub(crate) balancer: Balancer,
    last_seen: BTreeMap<ClusterName, LastSeen>,
}

/// What agents know of a cluster.
#[derive(Debug, Default)]
pub(crate) struct LastSeen {
    /// The settings by which its records are decoded; `None` until its config is accepted.
    peer: Option<Peer>,
    /// The kinds of records that are read.
    kinds: BTreeSet<RecordKind>,
    /// The keys and values of the last import.
    keys: BTreeMap<String, Vec<u8>>,
    /// Why the cluster is refused.
    pub(crate) refusal: Option<String>,
    /// Refused records, each with the reason.
    pub(crate) refused: BTreeMap<RecordKey, Refused>,
    /// Keys that cannot be decoded, each with the reason.
    pub(crate) rejected: BTreeMap<String, DecodeError>,
}

/// A record that agents refuse.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its key in etcd.
    pub(crate) key: String,
    /// The service of its backends.
    pub(crate) service: Option<ServiceName>,
    /// The reason.
    pub(crate) reason: String,
}

/// The order in which records are applied: a record after those that it refers to.
const ORDER: [RecordKind; 10] = [
    RecordKind::Namespace,
    RecordKind::Node,
    RecordKind::Identity,
    RecordKind::Address,
    RecordKind::Pod,
    RecordKind::EndpointSlice,
    RecordKind::Service,
    RecordKind::LocalEndpointSlice,
    RecordKind::LocalService,
    RecordKind::Policy,
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

    /// Adds a peer.
    pub(crate) fn add_peer(&mut self, name: &ClusterName, claims: Option<Claims>) {
        self.merge.set_peer(name, claims);
    }

    /// Removes a peer with all of its records.
    pub(crate) fn remove_peer(&mut self, name: &ClusterName) {
        let id = self.id_of(name);
        self.merge.remove_peer(name);
        self.last_seen.remove(name);
        self.settle();
        if let Some(id) = id {
            self.balancer.set_cluster(id, None);
        }
    }

    /// Explains a frontend; `None` if there is no such frontend.
    pub(crate) fn explain(&self, frontend: &Frontend) -> Option<Explanation> {
        let service = self.merge.service_of(frontend)?;
        self.balancer.explain_beside(frontend, self.merge.unusable_of(service))
    }

    /// The clusters that claim an address, first the one that has it.
    pub(crate) fn claims(&self, address: IpAddr) -> Vec<String> {
        self.merge.claims(address).iter().map(|claim| claim.cluster.to_string()).collect()
    }

    /// What agents know of a cluster.
    pub(crate) fn last_seen(&self, name: &ClusterName) -> Option<&LastSeen> {
        self.last_seen.get(name)
    }

    /// Imports all keys of a cluster. `with_local_keys`: they include those for the cluster's nodes only.
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
        self.merge.set_stale(name, false);
    }

    /// A cluster's staleness budget is spent.
    pub(crate) fn set_stale(&mut self, name: &ClusterName) {
        if let Some(id) = self.id_of(name) {
            self.set_state(name, id, ClusterState::Stale);
        }
        self.merge.set_stale(name, true);
    }

    /// The ID of a known cluster.
    pub(crate) fn id_of(&self, name: &ClusterName) -> Option<ClusterId> {
        self.merge.id_of(name)
    }

    fn set_state(&mut self, name: &ClusterName, id: ClusterId, state: ClusterState) {
        let view = ClusterView { name: name.clone(), state, synced: state == ClusterState::InUse };
        self.balancer.set_cluster(id, Some(view));
    }

    /// Checks a cluster's config. Returns how its records are decoded, and the kinds that are read.
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
            // Without a config, a default one is assumed for the cluster that the file names.
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

    /// Applies the changes since the last import.
    fn take(
        &mut self,
        last_seen: &mut LastSeen,
        peer: Peer,
        kinds: BTreeSet<RecordKind>,
        file: &KeysFile,
    ) {
        if last_seen.peer.as_ref() != Some(&peer) || last_seen.kinds != kinds {
            // The ID or the format has changed: everything is imported again.
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
                // Agents do not read keys for another cluster's nodes.
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
                RecordEvent::Keep(key) | RecordEvent::Doubt(key) | RecordEvent::Remove(key) => {
                    key.kind()
                }
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

    /// The node of the agent and the nodes of the cluster, if that node is not one of them. If the cluster has no nodes,
    /// none is missing.
    pub(crate) fn other_nodes(&self) -> Option<(&str, Vec<&str>)> {
        let node = self.setup.node.as_deref()?;
        let nodes: Vec<&str> = self.merge.nodes(&self.setup.local).map(|(name, _)| name).collect();
        (!nodes.is_empty() && !nodes.contains(&node)).then_some((node, nodes))
    }

    /// Passes the merge's changes to the balancer.
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

/// The service of a record's backends.
fn service_of(record: &Record) -> Option<ServiceName> {
    match record {
        Record::Service(service) => Some(service.name.clone()),
        Record::LocalService(service) => Some(service.name.clone()),
        Record::EndpointSlice(slice) | Record::LocalEndpointSlice(slice) => slice.service(),
        Record::Node(_)
        | Record::Identity(..)
        | Record::Address(_)
        | Record::Namespace(_)
        | Record::Pod(_)
        | Record::Policy(_) => None,
    }
}

/// The kinds of records that are read: endpoint slices if they are exported, otherwise services v1; from the local cluster
/// the keys for its nodes.
fn kinds(role: Role, with_local_keys: bool, mode: &ExportMode) -> BTreeSet<RecordKind> {
    let mut kinds = BTreeSet::from([RecordKind::Node, RecordKind::Identity, RecordKind::Address]);
    match (role, with_local_keys, mode) {
        (_, true, _) => kinds.extend([
            RecordKind::Namespace,
            RecordKind::Pod,
            RecordKind::LocalService,
            RecordKind::LocalEndpointSlice,
            RecordKind::Policy,
        ]),
        // Local keys are missing: a Cilium wrote the file, or they are for that cluster's nodes only.
        (Role::Local, false, _) | (Role::Remote, false, ExportMode::Services) => {
            kinds.extend([RecordKind::Service]);
        }
        (Role::Remote, false, _) => kinds.extend([RecordKind::EndpointSlice]),
    }
    kinds
}

/// The export mode of keys without a config.
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
