//! A cluster as its apiserver handles it: from objects to keys and values.

use std::collections::BTreeMap;

use mesh_export::{Exporter, ExporterConfig, Value, announced};
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
    /// The objects, as given.
    given: BTreeMap<ObjectKey, Object>,
    /// The objects in the exporter: the given ones, and the endpoint slices derived from them.
    exported_objects: BTreeMap<ObjectKey, Object>,
    exporter: Exporter,
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
        let mut cluster =
            Self { setup, given: objects, exported_objects: BTreeMap::new(), exporter, ids };
        cluster.export();
        cluster
    }

    /// The same cluster, with this drain.
    pub fn with_drain(mut self, drain: Drain) -> Self {
        self.exporter.set_drain(drain, &mut self.ids);
        self
    }

    /// The settings of the cluster.
    pub fn setup(&self) -> &ClusterSetup {
        &self.setup
    }

    /// Adds or changes an object.
    pub fn apply(&mut self, object: Object) {
        self.given.insert(object.key(), object);
        self.export();
    }

    /// Removes an object. Returns whether it existed.
    pub fn delete(&mut self, key: &ObjectKey) -> bool {
        let was_there = self.given.remove(key).is_some();
        self.export();
        was_there
    }

    /// Its objects, with derived endpoint slices.
    pub fn objects(&self) -> &BTreeMap<ObjectKey, Object> {
        &self.exported_objects
    }

    /// All keys and values that its apiserver would write, with those for its nodes only.
    pub fn keys(&self) -> &BTreeMap<String, Value> {
        self.exporter.desired()
    }

    /// The keys and values that other clusters may read.
    pub fn exported(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.keys().iter().filter(|(key, _)| !key.starts_with(LOCAL))
    }

    /// [`Self::exported`] as a keys file.
    pub fn keys_file(&self) -> KeysFile {
        self.file_of(self.exported())
    }

    /// [`Self::keys`] as a keys file.
    pub fn all_keys_file(&self) -> KeysFile {
        self.file_of(self.keys().iter())
    }

    fn file_of<'a>(&self, entries: impl Iterator<Item = (&'a String, &'a Value)>) -> KeysFile {
        let entries = entries.map(|(key, value)| (key.clone(), value.to_vec())).collect();
        KeysFile { cluster: self.setup.name.clone(), id: self.setup.id, entries }
    }

    /// The objects that cannot be exported, each with the reason.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.exporter.problems().iter().map(|(key, problem)| format!("{key}: {problem}"))
    }

    /// Warnings: invalid parts of objects, without which the objects are exported, and objects that are held back.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let notes = self.exporter.notes().iter();
        let notes =
            notes.flat_map(|(key, notes)| notes.iter().map(move |note| format!("{key}: {note}")));
        notes.chain(self.exporter.held_back())
    }

    /// The record that the nodes of the cluster read for a key.
    pub(crate) fn local(&self, key: RecordKey) -> Option<Record> {
        let ClusterSetup { name, id, limit, .. } = &self.setup;
        let key = Key::of_record(Layout::State, name, key).to_string();
        let value = self.keys().get(&key)?;
        let peer = Peer {
            name: name.clone(),
            role: Role::Local,
            id: *id,
            limit: *limit,
            layout: Layout::State,
        };
        decode(&peer, key.as_bytes(), value).ok().flatten()
    }

    /// Whether a namespace is global.
    pub(crate) fn takes_part(&self, namespace: &str) -> bool {
        self.exporter.takes_part(namespace)
    }

    /// Passes the changes of objects to the exporter, in the order of an apiserver's source.
    fn export(&mut self) {
        let mut now = self.given.clone();
        for slice in derived_slices(&now) {
            let object = Object::EndpointSlice(slice);
            now.entry(object.key()).or_insert(object);
        }
        // IDs of CiliumIdentities are reserved first, so that the order of objects makes no difference.
        self.ids.keep(now.values().filter_map(|object| match object {
            Object::CiliumIdentity(identity) => Some(identity.identity),
            _ => None,
        }));
        let resource_version = ResourceVersion::default();
        let known = &self.exported_objects;
        let changed = now.iter().filter(|(key, object)| known.get(*key) != Some(*object));
        let applied = changed
            .map(|(_, object)| SourceEvent::Applied { resource_version, object: object.clone() });
        let gone = known.keys().filter(|key| !now.contains_key(*key));
        let deleted = gone.map(|key| SourceEvent::Deleted { resource_version, key: key.clone() });
        self.exporter.handle_all(applied.chain(deleted), &mut self.ids);
        self.exported_objects = now;
        if !self.exporter.is_complete() {
            // The given objects are complete.
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
