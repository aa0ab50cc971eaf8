//! The exporter: objects in, changed keys out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use mesh_labels::LabelFilter;
use mesh_model::{
    ClusterConfig, ClusterId, ClusterName, EndpointSlice, Identity, Labels, Record, ServiceName,
    object::{self, Kind, Object, ObjectKey},
    service::SERVICE_NAME_LABEL,
};
use mesh_source::SourceEvent;
use mesh_wire::{Key, Layout, cluster_config, encode};

use crate::{
    annotations,
    records::{self, Own},
};

/// Who gives numbers to label sets.
pub trait Allocate {
    /// Why it may not.
    type Error: std::fmt::Display;

    /// The number of a label set, remembered before it is returned.
    fn identity(&mut self, labels: &Labels) -> Result<Identity, Self::Error>;
}

/// What the exporter needs to know of its cluster.
#[derive(Clone, Debug)]
pub struct ExporterConfig {
    /// The cluster's name.
    pub name: ClusterName,
    /// Its number.
    pub id: ClusterId,
    /// What it announces.
    pub announced: ClusterConfig,
    /// Whether namespaces take part that do not say.
    pub default_global_namespace: bool,
    /// Which labels make an identity.
    pub filter: LabelFilter,
}

/// Turns a cluster's objects into keys and values, one object at a time.
#[derive(Debug)]
pub struct Exporter {
    config: ExporterConfig,
    own: Own,
    objects: BTreeMap<ObjectKey, Object>,
    /// The objects told since the kind's listing began, while it goes on.
    listing: HashMap<Kind, BTreeSet<ObjectKey>>,
    listed: BTreeSet<Kind>,
    /// The slices of each service, by name.
    slices: BTreeMap<ServiceName, BTreeSet<String>>,
    /// What follows from each object.
    made: HashMap<ObjectKey, Vec<(String, Vec<u8>)>>,
    /// Who has each key, first come first; the first one's value is the key's.
    owners: HashMap<String, VecDeque<ObjectKey>>,
    /// Keys and values, as they should be in etcd.
    desired: BTreeMap<String, Vec<u8>>,
    changed: BTreeSet<String>,
    problems: BTreeMap<ObjectKey, String>,
}

// === impl Exporter ===

impl Exporter {
    /// An exporter that knows no object yet: the cluster's config is all it exports.
    pub fn new(config: ExporterConfig) -> Self {
        let key = Key::ClusterConfig(config.name.clone()).to_string();
        let desired = BTreeMap::from([(key.clone(), cluster_config::encode(&config.announced))]);
        Self {
            own: Own { name: config.name.clone(), id: config.id },
            config,
            objects: BTreeMap::new(),
            listing: HashMap::new(),
            listed: BTreeSet::new(),
            slices: BTreeMap::new(),
            made: HashMap::new(),
            owners: HashMap::new(),
            desired,
            changed: BTreeSet::from([key]),
            problems: BTreeMap::new(),
        }
    }

    /// Takes what the source says.
    pub fn handle<A: Allocate>(&mut self, event: SourceEvent, allocate: &mut A) {
        match event {
            SourceEvent::Listing { kind } => {
                self.listing.insert(kind, BTreeSet::new());
            }
            SourceEvent::Applied { object, .. } => {
                let key = object.key();
                if let Some(told) = self.listing.get_mut(&key.kind) {
                    told.insert(key.clone());
                }
                self.change(key, Some(object), allocate);
            }
            SourceEvent::Deleted { key, .. } => self.change(key, None, allocate),
            SourceEvent::Listed { kind, .. } => {
                if let Some(told) = self.listing.remove(&kind) {
                    let of_kind = self.objects.keys().filter(|key| key.kind == kind);
                    let gone: Vec<_> = of_kind.filter(|key| !told.contains(key)).cloned().collect();
                    gone.into_iter().for_each(|key| self.change(key, None, allocate));
                }
                self.listed.insert(kind);
            }
            SourceEvent::Bookmark { .. } => {}
        }
    }

    /// Tries again what could not be exported: a number may be free by now, or the disk that records it.
    pub fn retry<A: Allocate>(&mut self, allocate: &mut A) {
        let failed: Vec<ObjectKey> = self.problems.keys().cloned().collect();
        failed.into_iter().for_each(|key| self.make(key, allocate));
    }

    /// Whether the source has told everything once. Before that, what it did not tell must not be taken for gone.
    pub fn is_complete(&self) -> bool {
        self.listed.len() == Kind::ALL.len()
    }

    /// All keys and values, as they should be in etcd.
    pub fn desired(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.desired
    }

    /// The object that a key's value follows from; `None` for the cluster's config, and for what nobody exports.
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

    /// Replaces or removes an object, and makes anew what follows from it.
    fn change<A: Allocate>(&mut self, key: ObjectKey, object: Option<Object>, allocate: &mut A) {
        let mut affected = BTreeSet::from([key.clone()]);
        let before = match object {
            Some(object) => self.objects.insert(key.clone(), object),
            None => self.objects.remove(&key),
        };
        if before.as_ref() == self.objects.get(&key) {
            return;
        }
        for version in before.iter().chain(self.objects.get(&key)) {
            affected.extend(self.affected_by(version));
        }
        self.index_slice(&key, before.as_ref());
        for key in affected {
            self.make(key, allocate);
        }
    }

    /// The objects whose records depend on another one.
    fn affected_by(&self, object: &Object) -> Vec<ObjectKey> {
        match object {
            Object::Namespace(namespace) => {
                let inside = |key: &&ObjectKey| {
                    key.namespace == namespace.name && matches!(key.kind, Kind::Pod | Kind::Service)
                };
                self.objects.keys().filter(inside).cloned().collect()
            }
            Object::Node(node) => {
                let on_it =
                    |object: &Object| matches!(object, Object::Pod(pod) if pod.node == node.name);
                self.objects.iter().filter(|(_, o)| on_it(o)).map(|(key, _)| key.clone()).collect()
            }
            Object::EndpointSlice(slice) => {
                slice_service(slice).map(|name| service_key(&name)).into_iter().collect()
            }
            Object::Pod(_) | Object::Service(_) => Vec::new(),
        }
    }

    fn index_slice(&mut self, key: &ObjectKey, before: Option<&Object>) {
        let service_of = |object: Option<&Object>| match object {
            Some(Object::EndpointSlice(slice)) => slice_service(slice),
            _ => None,
        };
        if let Some(service) = service_of(before)
            && let Some(names) = self.slices.get_mut(&service)
        {
            names.remove(&key.name);
            if names.is_empty() {
                self.slices.remove(&service);
            }
        }
        if let Some(service) = service_of(self.objects.get(key)) {
            self.slices.entry(service).or_default().insert(key.name.clone());
        }
    }

    /// Makes an object's records anew, and changes the keys that differ.
    fn make<A: Allocate>(&mut self, key: ObjectKey, allocate: &mut A) {
        let records = match self.records(&key, allocate) {
            Ok(records) => {
                self.problems.remove(&key);
                records
            }
            Err(problem) => {
                self.problems.insert(key.clone(), problem);
                match self.objects.get(&key) {
                    // It said nothing before, so its node is told at least that it is there.
                    Some(Object::Pod(pod)) if !self.made.contains_key(&key) => {
                        records::local_pod(pod, None).into_iter().collect()
                    }
                    // What it said before stays.
                    _ => return,
                }
            }
        };
        let of = |record: &Record| {
            let of_record = Key::of_record(Layout::State, &self.own.name, record.key());
            (of_record.to_string(), encode(record))
        };
        let now: Vec<(String, Vec<u8>)> = records.iter().map(of).collect();
        let before = match now.is_empty() {
            true => self.made.remove(&key),
            false => self.made.insert(key.clone(), now.clone()),
        };
        for (etcd_key, _) in before.into_iter().flatten() {
            if !now.iter().any(|(kept, _)| *kept == etcd_key) {
                self.disown(&etcd_key, &key);
            }
        }
        for (etcd_key, _) in now {
            let owners = self.owners.entry(etcd_key.clone()).or_default();
            if !owners.contains(&key) {
                owners.push_back(key.clone());
            }
            self.settle(etcd_key);
        }
    }

    fn disown(&mut self, etcd_key: &str, owner: &ObjectKey) {
        if let Some(owners) = self.owners.get_mut(etcd_key) {
            owners.retain(|other| other != owner);
            if owners.is_empty() {
                self.owners.remove(etcd_key);
            }
        }
        self.settle(etcd_key.into());
    }

    /// Gives a key the value that its first owner makes of it.
    fn settle(&mut self, etcd_key: String) {
        let owner = self.owners.get(&etcd_key).and_then(|owners| owners.front());
        let made = owner.and_then(|owner| self.made.get(owner));
        let value = made.and_then(|made| made.iter().find(|(key, _)| *key == etcd_key));
        let changed = match value {
            Some((_, value)) if self.desired.get(&etcd_key) == Some(value) => false,
            Some((_, value)) => {
                self.desired.insert(etcd_key.clone(), value.clone());
                true
            }
            None => self.desired.remove(&etcd_key).is_some(),
        };
        if changed {
            self.changed.insert(etcd_key);
        }
    }

    /// What follows from an object; nothing from one that is gone or does not take part.
    fn records<A: Allocate>(
        &self,
        key: &ObjectKey,
        allocate: &mut A,
    ) -> Result<Vec<Record>, String> {
        match self.objects.get(key) {
            Some(Object::Node(node)) => {
                Ok(vec![Record::Node(Box::new(records::node(&self.own, node)))])
            }
            Some(Object::Pod(pod)) => self.pod_records(pod, allocate),
            Some(Object::Service(service)) => {
                Ok(self.service_record(service).into_iter().collect())
            }
            Some(Object::Namespace(namespace)) => {
                let local = records::local_namespace(namespace, self.is_global(namespace));
                Ok(vec![Record::Namespace(Box::new(local))])
            }
            // Slices as records of their own come with service v2.
            Some(Object::EndpointSlice(_)) | None => Ok(Vec::new()),
        }
    }

    /// Its own node is told of a pod from the moment that it has one, and whether or not its namespace takes part; others
    /// when it has an address.
    fn pod_records<A: Allocate>(
        &self,
        pod: &object::Pod,
        allocate: &mut A,
    ) -> Result<Vec<Record>, String> {
        let namespace = self.namespace(&pod.namespace);
        let global = self.is_global(&namespace);
        let exported = global && !pod.ips.is_empty();
        if pod.host_network || pod.finished || (pod.node.is_empty() && !exported) {
            return Ok(Vec::new());
        }
        let labels = self.config.filter.identity(pod, &namespace, self.own.name.as_str());
        let identity = allocate.identity(&labels).map_err(|error| error.to_string())?;
        let node_key =
            ObjectKey { kind: Kind::Node, namespace: String::new(), name: pod.node.clone() };
        let node = match self.objects.get(&node_key) {
            Some(Object::Node(node)) => Some(node),
            _ => None,
        };
        let mut made: Vec<Record> = records::local_pod(pod, Some(identity)).into_iter().collect();
        if global {
            let addresses = records::addresses(pod, node, identity).into_iter();
            made.push(Record::Identity(identity, labels));
            made.extend(addresses.map(|address| Record::Address(Box::new(address))));
        }
        Ok(made)
    }

    fn service_record(&self, service: &object::Service) -> Option<Record> {
        let namespace = self.namespace(&service.namespace);
        // An alias has neither frontends nor backends; readers reject what Cilium exports of it.
        if service.external_name || !annotations::is_shared(service) || !self.is_global(&namespace)
        {
            return None;
        }
        let name = ServiceName::new(&service.namespace, &service.name);
        let slices = self.slices.get(&name).into_iter().flatten().filter_map(|slice| {
            let (kind, namespace) = (Kind::EndpointSlice, service.namespace.clone());
            match self.objects.get(&ObjectKey { kind, namespace, name: slice.clone() }) {
                Some(Object::EndpointSlice(slice)) => Some(slice),
                _ => None,
            }
        });
        Some(Record::Service(Box::new(records::service(&self.own, service, slices))))
    }

    /// A namespace; one without an object has what an API server would have given it.
    fn namespace(&self, name: &str) -> object::Namespace {
        let key = ObjectKey { kind: Kind::Namespace, namespace: String::new(), name: name.into() };
        match self.objects.get(&key) {
            Some(Object::Namespace(namespace)) => namespace.clone(),
            _ => object::Namespace {
                name: name.into(),
                labels: BTreeMap::from([(mesh_source::NAMESPACE_NAME_LABEL.into(), name.into())]),
                annotations: BTreeMap::new(),
            },
        }
    }

    fn is_global(&self, namespace: &object::Namespace) -> bool {
        annotations::is_global(namespace).unwrap_or(self.config.default_global_namespace)
    }
}

fn slice_service(slice: &EndpointSlice) -> Option<ServiceName> {
    let name = slice.labels.get(SERVICE_NAME_LABEL)?;
    Some(ServiceName::new(&slice.namespace, name))
}

fn service_key(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: Kind::Service,
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
    }
}

#[cfg(test)]
mod tests;
