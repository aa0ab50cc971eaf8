//! Namespaces decide whether their objects are exported.
//!
//! The exclusion of a namespace must not fail open. So nothing is exported before all Namespaces are known. If there are
//! Namespaces, the objects of a namespace without one are not exported.

use std::collections::BTreeMap;

use mesh_model::object::{self, Kind, Object};

use super::{Allocate, Exporter, dependents::named};
use crate::annotations;

/// The numbers of Namespaces, and of objects in namespaces.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// The number of Namespace objects.
    objects: usize,
    /// The number of objects in each namespace that has some.
    inside: BTreeMap<String, usize>,
}

/// How many namespaces are named in problems.
const NAMED: usize = 10;

// === impl Namespaces ===

impl Namespaces {
    /// Updates the numbers for an object's change. Returns [`Changed::All`] if the first Namespace was added or the last
    /// one was removed.
    pub(super) fn index(&mut self, before: Option<&Object>, now: Option<&Object>) -> Changed {
        let had = self.objects > 0;
        if let Some(before) = before {
            match before {
                Object::Namespace(_) => self.objects -= 1,
                other => self.count(other, |inside| *inside -= 1),
            }
        }
        if let Some(now) = now {
            match now {
                Object::Namespace(_) => self.objects += 1,
                other => self.count(other, |inside| *inside += 1),
            }
        }
        if had == (self.objects > 0) { Changed::One } else { Changed::All }
    }

    fn count(&mut self, object: &Object, change: impl FnOnce(&mut usize)) {
        let Some(namespace) = namespace_of(object) else { return };
        let inside = self.inside.entry(namespace.to_owned()).or_default();
        change(inside);
        if *inside == 0 {
            self.inside.remove(namespace);
        }
    }
}

/// Which namespaces a change affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// At most one.
    One,
    /// Also all namespaces without a Namespace.
    All,
}

/// The namespace to which an object belongs.
pub(super) fn namespace_of(object: &Object) -> Option<&str> {
    match object {
        Object::Pod(pod) => Some(&*pod.namespace),
        Object::Service(service) => Some(&service.namespace),
        Object::EndpointSlice(slice) => Some(&slice.namespace),
        Object::CiliumIdentity(identity) => identity.labels.namespace(),
        Object::CiliumEndpoint(endpoint) => Some(&endpoint.namespace),
        Object::CiliumEndpointSlice(slice) => Some(&slice.namespace),
        Object::Endpoints(endpoints) => Some(&endpoints.namespace),
        // Policies are not for other clusters.
        Object::Namespace(_) | Object::Node(_) | Object::CiliumNode(_) | Object::Policy(_) => None,
    }
}

// === impl Exporter ===

impl Exporter {
    /// Whether a namespace is part of the mesh: its objects are exported to other clusters. The configuration's default only
    /// applies to a namespace without a Namespace if there are no Namespaces at all.
    pub fn takes_part(&self, namespace: &str) -> bool {
        match self.objects.get(&named(Kind::Namespace, namespace)) {
            Some(Object::Namespace(namespace)) => self.is_global(namespace),
            _ => self.namespaces.objects == 0 && self.config.default_global_namespace,
        }
    }

    /// Whether all Namespaces are known, so that objects are exported.
    pub(super) fn is_open(&self) -> bool {
        self.listed.contains(&Kind::Namespace)
    }

    /// Call it when all Namespaces are known: exports all objects.
    pub(super) fn open<A: Allocate>(&mut self, allocate: &mut A) {
        let all = self.objects.keys().cloned().collect();
        self.make_all(all, allocate);
        self.settle_all_identities();
    }

    /// Messages about objects that are not exported because their Namespace is not known, each with a remedy.
    pub fn held_back(&self) -> Vec<String> {
        if !self.is_open() {
            let objects = self.objects.len();
            let text = format!(
                "{objects} objects are not exported until all Namespaces are known, and the etcd stays as it is: a Namespace may exclude its objects. Correct or remove what cannot be read"
            );
            return (objects > 0).then_some(text).into_iter().collect();
        }
        let is_missing = |name: &str| !self.objects.contains_key(&named(Kind::Namespace, name));
        let missing: Vec<_> = match self.namespaces.objects {
            0 => Vec::new(),
            _ => self.namespaces.inside.iter().filter(|(name, _)| is_missing(name)).collect(),
        };
        let text = |(name, objects): &(&String, &usize)| {
            format!(
                "namespace {name}: {objects} objects are not exported to other clusters: there is no Namespace {name}, but there are others. Add it"
            )
        };
        let more = missing.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("{more} more namespaces have no Namespace either"));
        missing.iter().take(NAMED).map(text).chain(more).collect()
    }

    /// Whether objects are exported only because of the configuration's default, as there are no Namespaces.
    pub fn exports_by_default(&self) -> bool {
        self.is_open()
            && self.namespaces.objects == 0
            && !self.namespaces.inside.is_empty()
            && self.config.default_global_namespace
    }

    /// A namespace. One without a Namespace has the label that an API server would add.
    pub(super) fn namespace(&self, name: &str) -> object::Namespace {
        match self.objects.get(&named(Kind::Namespace, name)) {
            Some(Object::Namespace(namespace)) => (**namespace).clone(),
            _ => object::Namespace {
                name: name.into(),
                labels: BTreeMap::from([(mesh_source::NAMESPACE_NAME_LABEL.into(), name.into())]),
                annotations: BTreeMap::new(),
            },
        }
    }

    pub(super) fn is_global(&self, namespace: &object::Namespace) -> bool {
        annotations::is_global(namespace).0.unwrap_or(self.config.default_global_namespace)
    }
}
