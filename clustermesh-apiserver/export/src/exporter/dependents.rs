//! Which objects' records depend on another object.

use std::collections::BTreeSet;

use mesh_model::{
    Labels, ServiceName,
    object::{self, CiliumEndpoint, Kind, Object, ObjectKey, Service},
};

use super::Exporter;

/// The readers for whom a service's slices are exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Receivers {
    /// The local cluster's nodes.
    pub(super) local: bool,
    /// Other clusters.
    pub(super) shared: bool,
}

impl Exporter {
    /// The objects whose records depend on an object that changed.
    pub(super) fn affected_by(
        &self,
        before: Option<&Object>,
        now: Option<&Object>,
    ) -> BTreeSet<ObjectKey> {
        let mut affected = BTreeSet::new();
        match (before, now) {
            (Some(Object::Namespace(before)), Some(Object::Namespace(now))) => {
                if self.is_global(before) != self.is_global(now) {
                    affected.extend(self.inside(&now.name));
                } else if self.pod_labels_of(before) != self.pod_labels_of(now) {
                    affected.extend(self.of_kind(Kind::Pod, &now.name).cloned());
                }
            }
            (Some(Object::Namespace(only)), _) | (_, Some(Object::Namespace(only))) => {
                affected.extend(self.inside(&only.name));
            }
            _ => {}
        }
        for version in before.into_iter().chain(now) {
            match version {
                Object::Node(node) => {
                    let on_it = |object: &Object| matches!(object, Object::Pod(pod) if *pod.node == *node.name);
                    let on_it = self.objects.iter().filter(|(_, object)| on_it(object));
                    affected.extend(on_it.map(|(key, _)| (**key).clone()));
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
                    affected.extend(self.label_sets.pods_with(&identity.labels));
                }
                Object::CiliumEndpoint(endpoint) => {
                    affected.insert(pod_key(endpoint));
                }
                Object::CiliumEndpointSlice(slice) => {
                    affected.extend(slice.endpoints.iter().map(pod_key));
                }
                Object::Pod(_)
                | Object::Endpoints(_)
                | Object::Namespace(_)
                | Object::Policy(_) => {}
            }
        }
        affected
    }

    /// All objects that belong to a namespace.
    fn inside(&self, namespace: &str) -> BTreeSet<ObjectKey> {
        let kinds = [Kind::Pod, Kind::Service, Kind::EndpointSlice].into_iter();
        let inside = kinds.flat_map(|kind| self.of_kind(kind, namespace)).cloned();
        inside.chain(self.of_cilium_in(namespace)).collect()
    }

    /// The objects of a kind in a namespace.
    fn of_kind(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &ObjectKey> {
        let first = ObjectKey { kind, namespace: namespace.into(), name: "".into() };
        let keys = self.objects.range::<ObjectKey, _>(&first..).map(|(key, _)| &**key);
        keys.take_while(move |key| key.kind == kind && key.namespace == first.namespace)
    }

    /// The labels that a namespace adds to its pods' label sets.
    fn pod_labels_of(&self, namespace: &object::Namespace) -> Labels {
        let pod =
            object::Pod { namespace: namespace.name.as_str().into(), ..object::Pod::default() };
        self.config.filter.identity(&pod, namespace, self.local.name.as_str())
    }

    /// The readers of a service's slices; none if there is no such service.
    pub(super) fn receivers_of(&self, service: Option<&Object>) -> Receivers {
        let Some(Object::Service(service)) = service else { return Receivers::default() };
        let shared = self.asked(service).shared;
        // An `ExternalName` service has neither frontends nor backends.
        Receivers { local: !service.external_name, shared: shared && !service.external_name }
    }

    /// The keys of a service's slices, in the order of their names.
    pub(super) fn slice_keys(&self, service: &Service) -> impl Iterator<Item = ObjectKey> {
        let name = ServiceName::new(&service.namespace, &service.name);
        let names = self.slices.get(&name).into_iter().flatten();
        names.map(|slice| ObjectKey {
            kind: Kind::EndpointSlice,
            namespace: service.namespace.as_str().into(),
            name: slice.as_str().into(),
        })
    }

    /// Updates the index of slices by service for an object's change.
    pub(super) fn index_slice(&mut self, key: &ObjectKey, before: Option<&Object>) {
        let service_of = |object: Option<&Object>| match object {
            Some(Object::EndpointSlice(slice)) => slice.service(),
            _ => None,
        };
        if let Some(service) = service_of(before)
            && let Some(names) = self.slices.get_mut(&service)
        {
            names.remove(&*key.name);
            if names.is_empty() {
                self.slices.remove(&service);
            }
        }
        if let Some(service) = service_of(self.objects.get(key)) {
            self.slices.entry(service).or_default().insert(key.name.to_string());
        }
    }
}

/// The key of a cluster-scoped object.
pub(super) fn named(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: "".into(), name: name.into() }
}

fn pod_key(endpoint: &CiliumEndpoint) -> ObjectKey {
    ObjectKey {
        kind: Kind::Pod,
        namespace: endpoint.namespace.as_str().into(),
        name: endpoint.name.as_str().into(),
    }
}

pub(super) fn service_key(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: Kind::Service,
        namespace: (*name.namespace).into(),
        name: (*name.name).into(),
    }
}
