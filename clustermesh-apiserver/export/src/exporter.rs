//! The exporter: objects in, changed keys out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
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
use identities::Identities;
use label_sets::LabelSets;
use namespaces::Namespaces;

mod cilium;
mod dependents;
pub(crate) mod drain;
mod identities;
mod keys;
mod label_sets;
mod namespaces;
mod translate;

/// A key's value. Cheap to clone: what is kept of it in several places is one.
pub type Value = Arc<[u8]>;

/// Who allocates identities to label sets.
pub trait Allocate {
    /// Why it may not.
    type Error: std::fmt::Display;

    /// The ID of a label set, remembered before it is returned.
    fn identity(&mut self, labels: &Labels) -> Result<Identity, Self::Error>;
}

/// What the exporter needs to know of its cluster.
#[derive(Clone, Debug)]
pub struct ExporterConfig {
    /// The cluster's name.
    pub name: ClusterName,
    /// Its ID.
    pub id: ClusterId,
    /// What it announces.
    pub announced: ClusterConfig,
    /// Whether namespaces take part that do not say.
    pub default_global_namespace: bool,
    /// Which labels make an identity.
    pub filter: LabelFilter,
}

/// What follows from an object.
#[derive(Debug, Default)]
struct Made {
    records: Vec<Record>,
    /// The identity that it has.
    identity: Option<(Identity, Labels)>,
    /// What is wrong with it that did not keep it from being exported, each a sentence.
    notes: Vec<String>,
}

/// What a cluster announces whose objects are exported here.
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

/// Turns a cluster's objects into keys and values, one object at a time.
#[derive(Debug)]
pub struct Exporter {
    config: ExporterConfig,
    local: LocalCluster,
    objects: BTreeMap<ObjectKey, Object>,
    /// The objects reported since the kind's listing began, while it goes on.
    listing: HashMap<Kind, BTreeSet<ObjectKey>>,
    listed: BTreeSet<Kind>,
    namespaces: Namespaces,
    /// The slices of each service, by name.
    slices: BTreeMap<ServiceName, BTreeSet<String>>,
    drained: Drained,
    /// Who leaves, while something is drained.
    leaving: Option<Leaving>,
    granted: GrantedRanges,
    /// What a Cilium reports of pods and label sets.
    cilium: Cilium,
    label_sets: LabelSets,
    /// What follows from each object.
    made: HashMap<ObjectKey, Vec<(String, Value)>>,
    /// Who has each key, first come first; the first one's value is the key's.
    owners: HashMap<String, VecDeque<ObjectKey>>,
    /// Keys and values, as they should be in etcd.
    desired: BTreeMap<String, Value>,
    changed: BTreeSet<String>,
    problems: BTreeMap<ObjectKey, String>,
    notes: BTreeMap<ObjectKey, Vec<String>>,
    identities: Identities,
    /// Services whose records are made anew when all of several events were handled.
    deferred: Option<BTreeSet<ObjectKey>>,
    /// How often records were made of an object: the work that was done.
    makes: usize,
}

// === impl Exporter ===

impl Exporter {
    /// An exporter that knows no object yet: the cluster's config is all it exports.
    pub fn new(config: ExporterConfig) -> Self {
        let key = Key::ClusterConfig(config.name.clone()).to_string();
        let value = Value::from(cluster_config::encode(&config.announced));
        let desired = BTreeMap::from([(key.clone(), value)]);
        Self {
            local: LocalCluster { name: config.name.clone(), id: config.id },
            config,
            objects: BTreeMap::new(),
            listing: HashMap::new(),
            listed: BTreeSet::new(),
            namespaces: Namespaces::default(),
            slices: BTreeMap::new(),
            drained: Drained::default(),
            leaving: None,
            granted: GrantedRanges::default(),
            cilium: Cilium::default(),
            label_sets: LabelSets::default(),
            made: HashMap::new(),
            owners: HashMap::new(),
            desired,
            changed: BTreeSet::from([key]),
            problems: BTreeMap::new(),
            notes: BTreeMap::new(),
            identities: Identities::default(),
            deferred: None,
            makes: 0,
        }
    }

    /// One that says of each object what of it other clusters refuse.
    pub fn with_granted_ranges(self, granted: GrantedRanges) -> Self {
        Self { granted, ..self }
    }

    /// Takes several things that the source reports. A service's record is made once, however many of its slices came.
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

    /// Takes what the source reports.
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
            SourceEvent::Listed { kind, .. } => {
                if let Some(listed) = self.listing.remove(&kind) {
                    let of_kind = self.objects.keys().filter(|key| key.kind == kind);
                    let gone: Vec<_> =
                        of_kind.filter(|key| !listed.contains(key)).cloned().collect();
                    gone.into_iter().for_each(|key| self.change(key, None, allocate));
                }
                if self.listed.insert(kind) && kind == Kind::Namespace {
                    self.open(allocate);
                }
            }
            SourceEvent::Bookmark { .. } => {}
        }
    }

    /// The cluster's unchanging id is another than was thought.
    pub fn set_uuid(&mut self, uuid: Uuid) {
        self.config.announced.uuid = Some(uuid);
        let key = Key::ClusterConfig(self.config.name.clone()).to_string();
        let value = Value::from(cluster_config::encode(&self.config.announced));
        if self.desired.get(&key) != Some(&value) {
            self.desired.insert(key.clone(), value);
            self.changed.insert(key);
        }
    }

    /// Tries again what could not be exported: an ID may be free by now, or the disk that records it. And asks again
    /// for all IDs, if a label set has another than before.
    pub fn retry<A: Allocate>(&mut self, allocate: &mut A) {
        let again: Vec<ObjectKey> = match self.identities.take_disputed() {
            true => self.objects.keys().filter(|key| key.kind == Kind::Pod).cloned().collect(),
            false => self.problems.keys().cloned().collect(),
        };
        again.into_iter().for_each(|key| self.make(key, allocate));
    }

    /// Whether the source has reported everything once. Before that, what it did not report must not be taken for gone.
    pub fn is_complete(&self) -> bool {
        self.listed.len() == Kind::ALL.len()
    }

    /// All keys and values, as they should be in etcd.
    pub fn desired(&self) -> &BTreeMap<String, Value> {
        &self.desired
    }

    /// The object that a key's value follows from; `None` for the cluster's config, and for what is not exported.
    pub fn owner(&self, key: &str) -> Option<&ObjectKey> {
        self.owners.get(key)?.front()
    }

    /// The keys whose value may have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// How many objects are known.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Objects that could not be exported, and why.
    pub fn problems(&self) -> &BTreeMap<ObjectKey, String> {
        &self.problems
    }

    /// What is wrong with objects that were exported all the same, as if that was not there.
    pub fn notes(&self) -> &BTreeMap<ObjectKey, Vec<String>> {
        &self.notes
    }
}

#[cfg(test)]
mod tests;
