//! A cluster as its apiserver handles it: from objects to keys and values.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_export::{EtcdKey, Exporter, ExporterConfig, Value, announced};
use mesh_labels::LabelFilter;
use mesh_model::{
    ClusterId, ClusterLimit, ClusterName, Record, RecordKey,
    object::{Kind, Object, ObjectKey},
};
use mesh_source::{Drain, ResourceVersion, SourceEvent, derived_slices};
use mesh_wire::{Key, Layout, Peer, Role, decode, key::LOCAL};

use crate::{identity_allocator::IdentityAllocator, keys_file::KeysFile};

/// The settings of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterSetup {
    /// Its name.
    pub name: ClusterName,
    /// Its ID.
    pub id: ClusterId,
    /// The limit of clusters in the mesh.
    pub limit: ClusterLimit,
    /// Whether namespaces without an annotation are global.
    pub default_global_namespace: bool,
    /// The rules for labels that are part of an identity.
    pub filter: LabelFilter,
}

/// A cluster with its objects and the keys that follow from them.
#[derive(Debug)]
pub struct Cluster {
    setup: ClusterSetup,
    /// It holds the objects that were given, and the endpoint slices derived from them.
    exporter: Exporter,
    /// The derived endpoint slices.
    derived: BTreeSet<ObjectKey>,
    ids: IdentityAllocator,
}

// === impl Cluster ===

impl Cluster {
    /// A cluster with objects.
    pub fn new(setup: ClusterSetup, objects: BTreeMap<ObjectKey, Object>) -> Self {
        let exporter = Exporter::new(ExporterConfig {
            name: setup.name.clone(),
            id: setup.id,
            // A UUID comes from a journal, which does not exist here.
            announced: announced(setup.id, setup.limit, None),
            default_global_namespace: setup.default_global_namespace,
            filter: setup.filter.clone(),
        });
        let ids = IdentityAllocator::new(setup.id, setup.limit);
        let mut cluster = Self { setup, exporter, derived: BTreeSet::new(), ids };
        cluster.export(objects.into_values().map(applied));
        cluster
    }

    /// The same cluster, with this drain.
    pub fn with_drain(mut self, drain: Drain) -> Self {
        self.exporter.set_drain(&drain, &mut self.ids);
        self
    }

    /// The settings of the cluster.
    pub fn setup(&self) -> &ClusterSetup {
        &self.setup
    }

    /// Adds or changes an object.
    pub fn apply(&mut self, object: Object) {
        self.derived.remove(&object.key());
        self.export([applied(object)]);
    }

    /// Removes an object. Returns whether it existed.
    pub fn delete(&mut self, key: &ObjectKey) -> bool {
        if !self.objects().contains_key(key) || self.derived.contains(key) {
            return false;
        }
        self.export([deleted(key.clone())]);
        true
    }

    /// Its objects, with derived endpoint slices.
    pub fn objects(&self) -> &BTreeMap<Arc<ObjectKey>, Object> {
        self.exporter.objects()
    }

    /// All keys and values that its apiserver would write, with those for its nodes only.
    pub fn keys(&self) -> BTreeMap<EtcdKey, Value> {
        self.exporter.desired()
    }

    /// The keys and values that other clusters may read.
    pub fn exported(&self) -> impl Iterator<Item = (EtcdKey, Value)> {
        self.keys().into_iter().filter(|(key, _)| !key.starts_with(LOCAL))
    }

    /// [`Self::exported`] as a keys file.
    pub fn keys_file(&self) -> KeysFile {
        self.file_of(self.exported())
    }

    /// [`Self::keys`] as a keys file.
    pub fn all_keys_file(&self) -> KeysFile {
        self.file_of(self.keys())
    }

    fn file_of(&self, entries: impl IntoIterator<Item = (EtcdKey, Value)>) -> KeysFile {
        let entries = entries.into_iter();
        let entries = entries.map(|(key, value)| (key.to_string(), value.to_vec())).collect();
        KeysFile { cluster: self.setup.name.clone(), id: self.setup.id, entries }
    }

    /// The objects that cannot be exported, each with the reason.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.exporter.problems().iter().map(|(key, problem)| format!("{key}: {problem}"))
    }

    /// Warnings: invalid parts of objects, without which the objects are exported, policies that are refused, and objects
    /// that are held back.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let notes = self.exporter.notes().iter();
        let notes =
            notes.flat_map(|(key, notes)| notes.iter().map(move |note| format!("{key}: {note}")));
        let refused = self.exporter.refused_policies().iter();
        let refused = refused.map(|(key, refused)| format!("{key}: {refused}"));
        notes.chain(refused).chain(self.exporter.held_back())
    }

    /// The record that the nodes of the cluster read for a key.
    pub(crate) fn local(&self, key: RecordKey) -> Option<Record> {
        let ClusterSetup { name, id, limit, .. } = &self.setup;
        let key = Key::of_record(Layout::State, name, key).to_string();
        let value = self.exporter.value(&key)?;
        let peer = Peer {
            name: name.clone(),
            role: Role::Local,
            id: *id,
            limit: *limit,
            layout: Layout::State,
        };
        decode(&peer, key.as_bytes(), &value).ok().flatten()
    }

    /// Whether a namespace is global.
    pub(crate) fn takes_part(&self, namespace: &str) -> bool {
        self.exporter.takes_part(namespace)
    }

    /// Passes changes of given objects to the exporter, then those of the derived slices.
    fn export(&mut self, changes: impl IntoIterator<Item = SourceEvent>) {
        let changes: Vec<SourceEvent> = changes.into_iter().collect();
        // IDs of CiliumIdentities are reserved first, so that the order of objects makes no difference.
        self.ids.keep(changes.iter().filter_map(|change| match change {
            SourceEvent::Applied { object: Object::CiliumIdentity(identity), .. } => {
                Some(identity.identity)
            }
            _ => None,
        }));
        self.exporter.handle_all(changes, &mut self.ids);
        let objects = self.exporter.objects();
        let given = objects.iter().filter(|(key, _)| !self.derived.contains(*key));
        let derived = derived_slices(given.map(|(_, object)| object));
        let derived = derived.into_iter().map(Object::from);
        let is_given = |key: &ObjectKey| objects.contains_key(key) && !self.derived.contains(key);
        let derived: Vec<Object> = derived.filter(|slice| !is_given(&slice.key())).collect();
        let keys: BTreeSet<ObjectKey> = derived.iter().map(Object::key).collect();
        let gone: Vec<ObjectKey> = self.derived.difference(&keys).cloned().collect();
        let changes = derived.into_iter().map(applied).chain(gone.into_iter().map(deleted));
        self.derived = keys;
        self.exporter.handle_all(changes, &mut self.ids);
        if !self.exporter.is_complete() {
            // The given objects are complete.
            let resource_version = ResourceVersion::default();
            for kind in Kind::ALL {
                self.exporter.handle(SourceEvent::Listed { kind, resource_version }, &mut self.ids);
            }
        }
        for (labels, identity) in self.ids.given() {
            let labels = self.exporter.uses(identity).then(|| labels.clone());
            self.exporter.set_identity(identity, labels);
        }
    }
}

fn applied(object: Object) -> SourceEvent {
    SourceEvent::Applied { resource_version: ResourceVersion::default(), object }
}

fn deleted(key: ObjectKey) -> SourceEvent {
    SourceEvent::Deleted { resource_version: ResourceVersion::default(), key }
}
