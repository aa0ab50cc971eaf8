//! The exporter: its inputs are objects, its outputs are changed keys.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mesh_labels::LabelFilter;
use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, ExportMode, Identity, Labels, Record,
    ServiceName,
    object::{Kind, Object, ObjectKey},
};
use mesh_source::SourceEvent;
use mesh_wire::{Key, cluster_config};
use uuid::Uuid;

use crate::{claims::GrantedRanges, records::LocalCluster};
use cilium::Cilium;
pub use drain::{DrainState, DrainedNode};
use drain::{Drained, Leaving};
use exported::Exported;
pub use exported::{EtcdKey, fingerprint};
use identities::Identities;
use label_sets::LabelSets;
use namespaces::Namespaces;
use policies::Policies;
pub use policies::RefusedPolicy;
use shared::Shared;

mod cilium;
mod dependents;
pub(crate) mod drain;
mod exported;
mod identities;
mod keys;
mod label_sets;
mod namespaces;
mod policies;
mod shared;
mod translate;

/// A key's value. Clones share the bytes.
pub type Value = Arc<[u8]>;

/// Allocates identities to label sets.
pub trait Allocate {
    /// Why no ID can be allocated.
    type Error: std::fmt::Display;

    /// The ID of a label set. It must be stored before it is returned. `None`: it will have one later, which
    /// [`Exporter::set_identity`] tells.
    fn identity(&mut self, labels: &Labels) -> Result<Option<Identity>, Self::Error>;
}

/// The exporter's configuration.
#[derive(Clone, Debug)]
pub struct ExporterConfig {
    /// The cluster's name.
    pub name: ClusterName,
    /// Its ID.
    pub id: ClusterId,
    /// The cluster config that it publishes.
    pub announced: ClusterConfig,
    /// Whether namespaces without the annotation are part of the mesh.
    pub default_global_namespace: bool,
    /// Which labels are part of an identity.
    pub filter: LabelFilter,
}

/// The records of an object.
#[derive(Debug, Default)]
struct Made {
    records: Vec<Record>,
    /// The identity of the pod.
    identity: Option<(Identity, Labels)>,
    /// What is wrong with the object although it is exported, one sentence each.
    notes: Vec<String>,
}

/// The cluster config of a cluster that this exporter serves.
pub fn announced(id: ClusterId, limit: ClusterLimit, uuid: Option<Uuid>) -> ClusterConfig {
    ClusterConfig {
        id,
        synced_canaries: true,
        cached: false,
        max_connected_clusters: limit.get(),
        service_exports_enabled: Some(false),
        export_mode: ExportMode::ServicesAndEndpointSlices,
        uuid,
    }
}

/// Converts a cluster's objects to keys and values, one object at a time.
#[derive(Debug)]
pub struct Exporter {
    config: ExporterConfig,
    local: LocalCluster,
    objects: BTreeMap<Arc<ObjectKey>, Object>,
    /// The objects reported since the list of a kind began, until it is complete.
    listing: HashMap<Kind, BTreeSet<ObjectKey>>,
    /// The kinds whose list was completed once.
    listed: BTreeSet<Kind>,
    namespaces: Namespaces,
    policies: Policies,
    /// The names of each service's slices.
    slices: BTreeMap<ServiceName, BTreeSet<String>>,
    drained: Drained,
    /// The drained endpoints; `None` while nothing is drained.
    leaving: Option<Leaving>,
    granted: GrantedRanges,
    /// What Cilium's objects report about pods and label sets.
    cilium: Cilium,
    label_sets: LabelSets,
    shared: Shared,
    /// What the etcd should have.
    exported: Exported,
    problems: BTreeMap<ObjectKey, String>,
    notes: BTreeMap<ObjectKey, Vec<String>>,
    identities: Identities,
    /// Services whose records will be made after a batch of events.
    deferred: Option<BTreeSet<ObjectKey>>,
    /// How often records were made of an object, for tests of the cost.
    makes: usize,
}

// === impl Exporter ===

impl Exporter {
    /// An exporter without objects. It exports only the cluster config.
    pub fn new(config: ExporterConfig) -> Self {
        let exported = Exported::new(config.name.clone());
        let mut exporter = Self {
            local: LocalCluster { name: config.name.clone(), id: config.id },
            config,
            objects: BTreeMap::new(),
            listing: HashMap::new(),
            listed: BTreeSet::new(),
            namespaces: Namespaces::default(),
            policies: Policies::default(),
            slices: BTreeMap::new(),
            drained: Drained::default(),
            leaving: None,
            granted: GrantedRanges::default(),
            cilium: Cilium::default(),
            label_sets: LabelSets::default(),
            shared: Shared::default(),
            exported,
            problems: BTreeMap::new(),
            notes: BTreeMap::new(),
            identities: Identities::default(),
            deferred: None,
            makes: 0,
        };
        exporter.settle_config();
        exporter
    }

    /// Also reports which records other clusters refuse.
    pub fn with_granted_ranges(self, granted: GrantedRanges) -> Self {
        Self { granted, ..self }
    }

    /// Handles several events of the source. A service's records are made once, however many of its slices changed.
    pub fn handle_all<A: Allocate>(
        &mut self,
        events: impl IntoIterator<Item = SourceEvent>,
        allocate: &mut A,
    ) {
        self.deferred.get_or_insert_default();
        events.into_iter().for_each(|event| self.handle(event, allocate));
        let deferred = self.deferred.take().unwrap_or_default();
        deferred.into_iter().for_each(|key| self.make(key, allocate));
    }

    /// Handles an event of the source.
    pub fn handle<A: Allocate>(&mut self, event: SourceEvent, allocate: &mut A) {
        match event {
            SourceEvent::Listing { kind } => {
                self.listing.insert(kind, BTreeSet::new());
            }
            SourceEvent::Applied { object, .. } => {
                let key = object.key();
                if let Some(listed) = self.listing.get_mut(&key.kind) {
                    listed.insert(key.clone());
                }
                self.change(key, Some(object), allocate);
            }
            SourceEvent::Deleted { key, .. } => self.change(key, None, allocate),
            SourceEvent::Unreadable { key } => {
                if let Some(listed) = self.listing.get_mut(&key.kind) {
                    listed.insert(key);
                }
            }
            SourceEvent::Listed { kind, .. } => {
                if let Some(listed) = self.listing.remove(&kind) {
                    let of_kind = self.objects.keys().filter(|key| key.kind == kind);
                    let gone = of_kind.filter(|key| !listed.contains(&***key));
                    let gone: Vec<ObjectKey> = gone.map(|key| (**key).clone()).collect();
                    gone.into_iter().for_each(|key| self.change(key, None, allocate));
                }
                if let Some(policies) = kind.policy() {
                    self.policies.listed(policies);
                }
                if self.listed.insert(kind) && kind == Kind::Namespace {
                    self.open(allocate);
                }
            }
            SourceEvent::Bookmark { .. } => {}
        }
    }

    /// Sets the cluster's permanent ID in the cluster config.
    pub fn set_uuid(&mut self, uuid: Uuid) {
        self.config.announced.uuid = Some(uuid);
        self.settle_config();
    }

    fn settle_config(&mut self) {
        let key = Key::ClusterConfig(self.config.name.clone()).to_string();
        let value = Value::from(cluster_config::encode(&self.config.announced));
        self.exported.set_fixed(&key, Some(value));
    }

    /// Retries objects that could not be exported: an ID may be free now, or the disk may work again. If IDs of label sets
    /// have changed, looks up the IDs of all pods again.
    pub fn retry<A: Allocate>(&mut self, allocate: &mut A) {
        let waiting = self.identities.take_waiting();
        let again: Vec<Arc<ObjectKey>> = match self.identities.take_disputed() {
            true => self.objects.keys().filter(|key| key.kind == Kind::Pod).cloned().collect(),
            false => {
                let problems = self.problems.keys().map(|key| self.shared_key(key));
                problems.chain(waiting).collect()
            }
        };
        self.make_all(again, allocate);
    }

    /// Looks up again the IDs that may have changed: those of all pods after a dispute, else those of pods that waited for
    /// one and can have it now.
    pub fn reassign<A: Allocate>(&mut self, allocate: &mut A) {
        match self.is_disputed() {
            true => self.retry(allocate),
            false => {
                let given = self.identities.take_given();
                self.make_all(given, allocate);
            }
        }
    }

    /// Whether the source has completed the lists of all kinds once. Before that, missing objects must not count as deleted.
    pub fn is_complete(&self) -> bool {
        self.listed.len() == Kind::ALL.len()
    }

    /// The keys that the etcd should have, in any order.
    pub fn keys(&self) -> impl Iterator<Item = EtcdKey> {
        self.exported.keys()
    }

    /// The number of keys that the etcd should have.
    pub fn key_count(&self) -> usize {
        self.exported.len()
    }

    /// The [`fingerprint`] of the value that the etcd should have; `None` if it should not have the key.
    pub fn fingerprint(&self, key: &str) -> Option<u64> {
        self.exported.stored(key).map(|stored| stored.fingerprint())
    }

    /// The object from which a key's value was made; `None` for the cluster config and for keys that are not exported.
    pub fn owner(&self, key: &str) -> Option<&ObjectKey> {
        self.exported.owner(key).map(|owner| &**owner)
    }

    /// The keys whose value may have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<EtcdKey> {
        self.exported.take_changed()
    }

    /// The source's objects.
    pub fn objects(&self) -> &BTreeMap<Arc<ObjectKey>, Object> {
        &self.objects
    }

    /// Objects that could not be exported, and why.
    pub fn problems(&self) -> &BTreeMap<ObjectKey, String> {
        &self.problems
    }

    /// What is wrong with objects that are exported. The wrong parts are ignored.
    pub fn notes(&self) -> &BTreeMap<ObjectKey, Vec<String>> {
        &self.notes
    }
}

#[cfg(test)]
mod tests;
