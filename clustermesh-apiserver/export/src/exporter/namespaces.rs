//! Namespaces, which decide whether what is in them is exported.
//!
//! A namespace's opt-out must not fail open. So nothing is exported before all Namespaces are known; and once there are
//! Namespaces, what is in a namespace without one is not exported.

use std::collections::BTreeMap;

use mesh_model::object::{self, Kind, Object};

use super::{Allocate, Exporter, dependents::named};
use crate::annotations;

/// What there is in namespaces.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// How many Namespace objects there are.
    objects: usize,
    /// How many objects are in each namespace that has some.
    inside: BTreeMap<String, usize>,
}

/// Namespaces that are listed by name.
const NAMED: usize = 10;

// === impl Namespaces ===

impl Namespaces {
    /// Takes note of an object that was and is. Returns whether the first Namespace came, or the last one went.
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

/// For which namespaces a Namespace decides something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// At most for its own.
    One,
    /// For all that have none, too.
    All,
}

/// The namespace that decides about an object.
pub(super) fn namespace_of(object: &Object) -> Option<&str> {
    match object {
        Object::Pod(pod) => Some(&pod.namespace),
        Object::Service(service) => Some(&service.namespace),
        Object::EndpointSlice(slice) => Some(&slice.namespace),
        Object::CiliumIdentity(identity) => identity.labels.namespace(),
        Object::CiliumEndpoint(endpoint) => Some(&endpoint.namespace),
        Object::CiliumEndpointSlice(slice) => Some(&slice.namespace),
        Object::Endpoints(endpoints) => Some(&endpoints.namespace),
        Object::Namespace(_) | Object::Node(_) | Object::CiliumNode(_) => None,
    }
}

// === impl Exporter ===

impl Exporter {
    /// Whether what is in a namespace is exported to other clusters. One without an object does as the configuration says, as
    /// long as no namespace has one.
    pub fn takes_part(&self, namespace: &str) -> bool {
        match self.objects.get(&named(Kind::Namespace, namespace)) {
            Some(Object::Namespace(namespace)) => self.is_global(namespace),
            _ => self.namespaces.objects == 0 && self.config.default_global_namespace,
        }
    }

    /// Whether anything is exported: all Namespaces are known.
    pub(super) fn is_open(&self) -> bool {
        self.listed.contains(&Kind::Namespace)
    }

    /// All Namespaces are known.
    pub(super) fn open<A: Allocate>(&mut self, allocate: &mut A) {
        let all = self.objects.keys().cloned().collect();
        self.make_all(all, allocate);
        self.settle_all_identities();
    }

    /// What is not exported because nothing is known of its namespace, each with what to do.
    pub fn held_back(&self) -> Vec<String> {
        if !self.is_open() {
            let objects = self.objects.len();
            let text = format!(
                "{objects} objects are held back until all Namespaces are known, and the etcd stays as it is: one of them may keep its objects from other clusters. Mend or remove what cannot be read"
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
                "namespace {name}: {objects} objects are not exported to other clusters: there is no Namespace {name}, and others have one. Add it"
            )
        };
        let more = missing.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("{more} more namespaces have no Namespace either"));
        missing.iter().take(NAMED).map(text).chain(more).collect()
    }

    /// Whether namespaces are exported only because the configuration says so: no Namespace does.
    pub fn exports_by_default(&self) -> bool {
        self.is_open()
            && self.namespaces.objects == 0
            && !self.namespaces.inside.is_empty()
            && self.config.default_global_namespace
    }

    /// A namespace; one without an object has what an API server would have given it.
    pub(super) fn namespace(&self, name: &str) -> object::Namespace {
        match self.objects.get(&named(Kind::Namespace, name)) {
            Some(Object::Namespace(namespace)) => namespace.clone(),
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
