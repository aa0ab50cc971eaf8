//! Which objects' records follow from another object too.

use std::collections::BTreeSet;

use mesh_model::{
    ServiceName,
    object::{CiliumEndpoint, Kind, Object, ObjectKey, Service},
};

use super::Exporter;

/// Who gets a service's slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Receivers {
    /// Local nodes.
    pub(super) local: bool,
    /// Other clusters.
    pub(super) shared: bool,
}

impl Exporter {
    /// The objects whose records depend on another one that was and is so.
    pub(super) fn affected_by(
        &self,
        before: Option<&Object>,
        now: Option<&Object>,
    ) -> BTreeSet<ObjectKey> {
        let mut affected = BTreeSet::new();
        for version in before.into_iter().chain(now) {
            match version {
                Object::Namespace(namespace) => {
                    let inside = |key: &&ObjectKey| {
                        let kinds = [Kind::Pod, Kind::Service, Kind::EndpointSlice];
                        key.namespace == namespace.name && kinds.contains(&key.kind)
                    };
                    affected.extend(self.objects.keys().filter(inside).cloned());
                    affected.extend(self.of_cilium_in(&namespace.name));
                }
                Object::Node(node) => {
                    let on_it = |object: &Object| matches!(object, Object::Pod(pod) if pod.node == node.name);
                    let on_it = self.objects.iter().filter(|(_, object)| on_it(object));
                    affected.extend(on_it.map(|(key, _)| key.clone()));
                }
                Object::EndpointSlice(slice) => {
                    affected.extend(slice.service().map(|name| service_key(&name)));
                }
                Object::Service(service) => {
                    let [was, is] = [before, now].map(|version| self.receivers_of(version));
                    if was != is {
                        affected.extend(self.slice_keys(service));
                    }
                }
                Object::CiliumNode(node) => {
                    affected.insert(named(Kind::Node, &node.name));
                }
                Object::CiliumIdentity(identity) => {
                    let namespace = identity.labels.namespace();
                    let inside = |key: &&ObjectKey| {
                        key.kind == Kind::Pod && Some(key.namespace.as_str()) == namespace
                    };
                    affected.extend(self.objects.keys().filter(inside).cloned());
                }
                Object::CiliumEndpoint(endpoint) => {
                    affected.insert(pod_key(endpoint));
                }
                Object::CiliumEndpointSlice(slice) => {
                    affected.extend(slice.endpoints.iter().map(pod_key));
                }
                Object::Pod(_) | Object::Endpoints(_) => {}
            }
        }
        affected
    }

    /// Who gets the slices of a service that may be there.
    pub(super) fn receivers_of(&self, service: Option<&Object>) -> Receivers {
        let Some(Object::Service(service)) = service else { return Receivers::default() };
        let shared = self.asked(service).shared;
        // An alias has neither frontends nor backends.
        Receivers { local: !service.external_name, shared: shared && !service.external_name }
    }

    /// The keys of a service's slices, in the order of their names.
    pub(super) fn slice_keys(&self, service: &Service) -> impl Iterator<Item = ObjectKey> {
        let name = ServiceName::new(&service.namespace, &service.name);
        let names = self.slices.get(&name).into_iter().flatten();
        names.map(|slice| ObjectKey {
            kind: Kind::EndpointSlice,
            namespace: service.namespace.clone(),
            name: slice.clone(),
        })
    }

    /// Takes note of a slice that was and is, by its service.
    pub(super) fn index_slice(&mut self, key: &ObjectKey, before: Option<&Object>) {
        let service_of = |object: Option<&Object>| match object {
            Some(Object::EndpointSlice(slice)) => slice.service(),
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
}

/// The key of an object without a namespace.
pub(super) fn named(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: String::new(), name: name.into() }
}

fn pod_key(endpoint: &CiliumEndpoint) -> ObjectKey {
    ObjectKey {
        kind: Kind::Pod,
        namespace: endpoint.namespace.clone(),
        name: endpoint.name.clone(),
    }
}

pub(super) fn service_key(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: Kind::Service,
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
    }
}
