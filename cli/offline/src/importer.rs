//! A cluster's agents: what they make of what all clusters say.

use std::collections::{BTreeMap, BTreeSet};

use mesh_balance::{Balancer, ClusterState, ClusterView, Rules};
use mesh_follow::{PeerConfig, Role};
use mesh_merge::{Claims, Delta, Merge, OwnRanges};
use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, ExportMode, RecordEvent, RecordKey,
    RecordKind,
};
use mesh_wire::{Key, Layout, Peer, Prefix, cluster_config, decode, decode_removal, key::LOCAL};

use crate::keys_file::KeysFile;

/// Whose agents, and what is theirs.
#[derive(Clone, Debug)]
pub(crate) struct ViewerSetup {
    /// The cluster.
    pub(crate) own: ClusterName,
    /// Its number.
    pub(crate) id: ClusterId,
    /// The mesh's limit.
    pub(crate) limit: ClusterLimit,
    /// Its ranges, which no peer may claim.
    pub(crate) ranges: OwnRanges,
    /// Services are taken that are not global.
    pub(crate) replace_kube_proxy: bool,
}

/// The agents' state.
#[derive(Debug)]
pub(crate) struct Importer {
    setup: ViewerSetup,
    merge: Merge,
    pub(crate) balancer: Balancer,
    heard: BTreeMap<ClusterName, Heard>,
}

/// What is known of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Whom its records are checked against, once its config was accepted.
    peer: Option<Peer>,
    /// The trees that are read of it.
    kinds: BTreeSet<RecordKind>,
    /// Keys and values as they were last heard.
    keys: BTreeMap<String, Vec<u8>>,
    /// Why it is not taken as a peer.
    pub(crate) refusal: Option<String>,
    /// Records that are not taken, and why.
    pub(crate) refused: BTreeMap<RecordKey, String>,
    /// Keys that are not understood, and why.
    pub(crate) rejected: BTreeMap<String, String>,
}

/// The order in which records are told, so that what is referred to is there.
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
    pub(crate) fn new(setup: ViewerSetup) -> Self {
        let rules = Rules { local: setup.id, replace_kube_proxy: setup.replace_kube_proxy };
        Self {
            merge: Merge::new(setup.own.clone(), setup.ranges.clone()),
            balancer: Balancer::new(rules, setup.own.clone()),
            heard: BTreeMap::new(),
            setup,
        }
    }

    /// A cluster is a peer from now on.
    pub(crate) fn add_peer(&mut self, name: &ClusterName, claims: Option<Claims>) {
        self.merge.set_peer(name, claims);
    }

    /// A cluster is a peer no more: everything that it said is gone.
    pub(crate) fn remove_peer(&mut self, name: &ClusterName) {
        let id = self.id_of(name);
        self.merge.remove_peer(name);
        self.heard.remove(name);
        self.settle();
        if let Some(id) = id {
            self.balancer.set_cluster(id, None);
        }
    }

    /// What is known of a cluster.
    pub(crate) fn heard(&self, name: &ClusterName) -> Option<&Heard> {
        self.heard.get(name)
    }

    /// Hears a cluster: all its keys as they are now. `tells_local`: those for its own nodes are among them.
    pub(crate) fn hear(&mut self, file: &KeysFile, tells_local: bool) {
        let name = &file.cluster;
        let mut heard = self.heard.remove(name).unwrap_or_default();
        match self.accept(file, tells_local) {
            Ok((peer, kinds)) => {
                heard.refusal = None;
                self.take(&mut heard, peer, kinds, file);
            }
            Err(refusal) => heard.refusal = Some(refusal),
        }
        self.heard.insert(name.clone(), heard);
        self.settle();
        if let Some(id) = self.id_of(name) {
            self.set_state(name, id, ClusterState::InUse);
        }
    }

    /// A cluster has been silent for too long.
    pub(crate) fn set_stale(&mut self, name: &ClusterName) {
        if let Some(id) = self.id_of(name) {
            self.set_state(name, id, ClusterState::Stale);
        }
    }

    /// The number under which a cluster is known.
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
        tells_local: bool,
    ) -> Result<(Peer, BTreeSet<RecordKind>), String> {
        let KeysFile { cluster: name, id, entries } = file;
        let ViewerSetup { own, id: own_id, limit, .. } = &self.setup;
        let role = if name == own { Role::Own } else { Role::Remote };
        let config = match entries.get(&Key::ClusterConfig(name.clone()).to_string()) {
            Some(value) => cluster_config::decode(value)
                .map_err(|error| format!("the cluster's config: {error}"))?,
            // A list of keys that somebody made for this: its head says who it is.
            None => ClusterConfig {
                id: *id,
                export_mode: mode_of(file),
                max_connected_clusters: limit.get(),
                ..ClusterConfig::default()
            },
        };
        let granted = self.merge.granted_id(name);
        let peer_config = PeerConfig {
            name: name.clone(),
            role,
            own_id: *own_id,
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
        Ok((peer, kinds(role, tells_local, &config.export_mode)))
    }

    /// Tells the merge what is other than before.
    fn take(
        &mut self,
        heard: &mut Heard,
        peer: Peer,
        kinds: BTreeSet<RecordKind>,
        file: &KeysFile,
    ) {
        if heard.peer.as_ref() != Some(&peer) || heard.kinds != kinds {
            // All of it is of that number, and in that form, now.
            *heard = Heard::default();
            for kind in &kinds {
                self.apply(heard, &peer, RecordEvent::Begin(*kind));
            }
        }
        let mut events = Vec::new();
        for (key, value) in &file.entries {
            if heard.keys.get(key) == Some(value) {
                continue;
            }
            let is_local = key.starts_with(LOCAL);
            let known = match decode_removal(&peer, key.as_bytes()) {
                // Nobody reads it of another.
                _ if is_local && peer.role == Role::Remote => None,
                Ok(known) => known.filter(|known| kinds.contains(&known.kind())),
                Err(rejected) => {
                    heard.rejected.insert(key.clone(), rejected.reason.to_string());
                    None
                }
            };
            let Some(known) = known else { continue };
            match decode(&peer, key.as_bytes(), value) {
                Ok(Some(record)) => {
                    heard.rejected.remove(key);
                    events.push(RecordEvent::Upsert(record));
                }
                Ok(None) => {}
                Err(rejected) => {
                    heard.rejected.insert(key.clone(), rejected.reason.to_string());
                    events.push(RecordEvent::Keep(known));
                }
            }
        }
        let gone = heard.keys.keys().filter(|key| !file.entries.contains_key(*key));
        for key in gone.cloned().collect::<Vec<_>>() {
            heard.rejected.remove(&key);
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
            self.apply(heard, &peer, event);
        }
        let is_first = heard.peer.is_none();
        heard.keys = file.entries.clone();
        if is_first {
            for kind in &kinds {
                self.apply(heard, &peer, RecordEvent::Confirmed(*kind));
            }
        }
        heard.peer = Some(peer);
        heard.kinds = kinds;
    }

    fn apply(&mut self, heard: &mut Heard, peer: &Peer, event: RecordEvent) {
        let key = match &event {
            RecordEvent::Upsert(record) => Some(record.key()),
            RecordEvent::Remove(key) => Some(key.clone()),
            _ => None,
        };
        match (self.merge.apply(&peer.name, event), key) {
            (Err(refused), Some(key)) => {
                heard.refused.insert(key, refused.to_string());
            }
            (Ok(()), Some(key)) => {
                heard.refused.remove(&key);
            }
            (_, None) => {}
        }
    }

    /// Brings the decision to what the merge says now.
    fn settle(&mut self) {
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

/// The trees that are read of a cluster: slices where it has them, else services v1; of the own one its local prefix.
fn kinds(role: Role, tells_local: bool, mode: &ExportMode) -> BTreeSet<RecordKind> {
    let mut kinds = BTreeSet::from([RecordKind::Node, RecordKind::Identity, RecordKind::Address]);
    match (role, tells_local, mode) {
        (_, true, _) => kinds.extend([
            RecordKind::Namespace,
            RecordKind::Pod,
            RecordKind::LocalService,
            RecordKind::LocalEndpointSlice,
        ]),
        // Our own nodes are told more, or it is a Cilium's.
        (Role::Own, false, _) | (Role::Remote, false, ExportMode::Services) => {
            kinds.extend([RecordKind::Service]);
        }
        (Role::Remote, false, _) => kinds.extend([RecordKind::EndpointSlice]),
    }
    kinds
}

/// What a file's cluster announces.
pub(crate) fn config_of(file: &KeysFile) -> Option<ClusterConfig> {
    let value = file.entries.get(&Key::ClusterConfig(file.cluster.clone()).to_string())?;
    cluster_config::decode(value).ok()
}

/// What a list of keys without a config has.
fn mode_of(file: &KeysFile) -> ExportMode {
    let has = |prefix: Prefix| {
        let path = format!("{}/", prefix.path(Layout::State));
        file.entries.keys().any(|key| key.starts_with(&path))
    };
    match (has(Prefix::EndpointSlices), has(Prefix::Services)) {
        (false, _) => ExportMode::Services,
        (true, true) => ExportMode::ServicesAndEndpointSlices,
        (true, false) => ExportMode::EndpointSlicesOnly,
    }
}
