//! A cluster as its apiserver sees it: objects in, keys and values out.

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

/// What a cluster is, beside its objects.
#[derive(Clone, Debug)]
pub struct ClusterSetup {
    /// Its name.
    pub name: ClusterName,
    /// Its ID.
    pub id: ClusterId,
    /// The mesh's limit.
    pub limit: ClusterLimit,
    /// Whether namespaces take part that do not say.
    pub default_global_namespace: bool,
    /// Which labels make an identity.
    pub filter: LabelFilter,
}

/// A cluster with its objects, and what it says because of them.
#[derive(Debug)]
pub struct Cluster {
    setup: ClusterSetup,
    /// The objects as they were given.
    given: BTreeMap<ObjectKey, Object>,
    /// What was given to the exporter: those, and the endpoint slices that follow from them.
    exported_objects: BTreeMap<ObjectKey, Object>,
    exporter: Exporter,
    ids: IdentityAllocator,
}

// === impl Cluster ===

impl Cluster {
    /// A cluster with these objects.
    pub fn new(setup: ClusterSetup, objects: BTreeMap<ObjectKey, Object>) -> Self {
        let exporter = Exporter::new(ExporterConfig {
            name: setup.name.clone(),
            id: setup.id,
            // The UUID is a journal's, and there is none.
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

    /// The same, with nodes that are drained, or all of it.
    pub fn with_drain(mut self, drain: Drain) -> Self {
        self.exporter.set_drain(drain, &mut self.ids);
        self
    }

    /// What it is.
    pub fn setup(&self) -> &ClusterSetup {
        &self.setup
    }

    /// An object is there, new or changed.
    pub fn apply(&mut self, object: Object) {
        self.given.insert(object.key(), object);
        self.export();
    }

    /// An object is gone. Returns whether it was there.
    pub fn delete(&mut self, key: &ObjectKey) -> bool {
        let was_there = self.given.remove(key).is_some();
        self.export();
        was_there
    }

    /// Its objects, endpoint slices included that follow from others.
    pub fn objects(&self) -> &BTreeMap<ObjectKey, Object> {
        &self.exported_objects
    }

    /// All keys and values that its etcd has of it, those for its nodes alone included.
    pub fn keys(&self) -> &BTreeMap<String, Value> {
        self.exporter.desired()
    }

    /// What other clusters may read.
    pub fn exported(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.keys().iter().filter(|(key, _)| !key.starts_with(LOCAL))
    }

    /// The same as a keys file.
    pub fn keys_file(&self) -> KeysFile {
        self.file_of(self.exported())
    }

    /// [`Cluster::keys`] as a keys file.
    pub fn all_keys_file(&self) -> KeysFile {
        self.file_of(self.keys().iter())
    }

    fn file_of<'a>(&self, entries: impl Iterator<Item = (&'a String, &'a Value)>) -> KeysFile {
        let entries = entries.map(|(key, value)| (key.clone(), value.to_vec())).collect();
        KeysFile { cluster: self.setup.name.clone(), id: self.setup.id, entries }
    }

    /// Objects that it cannot export, and why.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.exporter.problems().iter().map(|(key, problem)| format!("{key}: {problem}"))
    }

    /// What is wrong with objects that are exported all the same, as if that was not there.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let notes = self.exporter.notes().iter();
        let notes =
            notes.flat_map(|(key, notes)| notes.iter().map(move |note| format!("{key}: {note}")));
        notes.chain(self.exporter.held_back())
    }

    /// What the nodes of the cluster read by a key.
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

    /// Whether a namespace takes part in the mesh.
    pub(crate) fn takes_part(&self, namespace: &str) -> bool {
        self.exporter.takes_part(namespace)
    }

    /// Gives the exporter what differs, in the order in which an apiserver's source does.
    fn export(&mut self) {
        let mut now = self.given.clone();
        for slice in derived_slices(&now) {
            let object = Object::EndpointSlice(slice);
            now.entry(object.key()).or_insert(object);
        }
        // A label set that has an ID keeps it, in whatever order they come.
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
            // There is nothing but what was given.
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
