//! Cilium's objects: nodes, identities and endpoints. They are exported unchanged, and replace what would be made of the
//! Kubernetes objects with the same names.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mesh_model::{
    Identity, Labels, Record,
    object::{CiliumEndpoint, CiliumIdentity, Kind, Object, ObjectKey},
};

use super::{Exporter, Made, dependents::named, namespaces::namespace_of};
use crate::records;

/// What Cilium's objects report about pods and label sets.
#[derive(Debug, Default)]
pub(super) struct Cilium {
    /// The IDs of each label set. The lowest one is used.
    ids: HashMap<Labels, BTreeSet<Identity>>,
    /// The identities of pods in CiliumEndpoints, and in CiliumEndpointSlices. If there is a slice, only slices are used,
    /// as in Cilium.
    by_endpoint: Pods,
    by_slice: Pods,
    /// The number of CiliumEndpointSlices.
    slices: usize,
}

/// Identities of pods by namespace and name. An identity that several objects report occurs several times.
#[derive(Debug, Default)]
struct Pods(BTreeMap<(String, String), Vec<Identity>>);

impl Cilium {
    /// Updates the index for an object's change.
    pub(super) fn index(&mut self, before: Option<&Object>, now: Option<&Object>) {
        match before {
            Some(Object::CiliumIdentity(of)) => {
                let CiliumIdentity { identity, labels } = &**of;
                if let Some(ids) = self.ids.get_mut(labels) {
                    ids.remove(identity);
                    if ids.is_empty() {
                        self.ids.remove(labels);
                    }
                }
            }
            Some(Object::CiliumEndpoint(endpoint)) => self.by_endpoint.forget(endpoint),
            Some(Object::CiliumEndpointSlice(slice)) => {
                self.slices -= 1;
                slice.endpoints.iter().for_each(|endpoint| self.by_slice.forget(endpoint));
            }
            _ => {}
        }
        match now {
            Some(Object::CiliumIdentity(of)) => {
                let CiliumIdentity { identity, labels } = &**of;
                self.ids.entry(labels.clone()).or_default().insert(*identity);
            }
            Some(Object::CiliumEndpoint(endpoint)) => self.by_endpoint.note(endpoint),
            Some(Object::CiliumEndpointSlice(slice)) => {
                self.slices += 1;
                slice.endpoints.iter().for_each(|endpoint| self.by_slice.note(endpoint));
            }
            _ => {}
        }
    }

    /// Whether CiliumEndpoints are used: there is no slice.
    pub(super) fn counts_endpoints(&self) -> bool {
        self.slices == 0
    }

    /// A pod's identity; the inner `None` if Cilium has the pod, but not its identity.
    pub(super) fn identity_of(&self, namespace: &str, name: &str) -> Option<Option<Identity>> {
        let pods = if self.counts_endpoints() { &self.by_endpoint } else { &self.by_slice };
        let reported = pods.0.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(reported.first().copied().filter(|identity| *identity != Identity::UNKNOWN))
    }

    /// The ID of a label set.
    pub(super) fn id_of(&self, labels: &Labels) -> Option<Identity> {
        self.ids.get(labels)?.first().copied()
    }
}

// === impl Pods ===

impl Pods {
    fn note(&mut self, endpoint: &CiliumEndpoint) {
        let pod = (endpoint.namespace.clone(), endpoint.name.clone());
        self.0.entry(pod).or_default().push(endpoint.identity);
    }

    fn forget(&mut self, endpoint: &CiliumEndpoint) {
        let pod = (endpoint.namespace.clone(), endpoint.name.clone());
        let Some(reported) = self.0.get_mut(&pod) else { return };
        if let Some(at) = reported.iter().position(|identity| *identity == endpoint.identity) {
            reported.remove(at);
        }
        if reported.is_empty() {
            self.0.remove(&pod);
        }
    }
}

// === impl Exporter ===

impl Exporter {
    pub(super) fn has_cilium_node(&self, name: &str) -> bool {
        self.objects.contains_key(&named(Kind::CiliumNode, name))
    }

    /// The Cilium objects that belong to a namespace. Not all of them have it in their keys.
    pub(super) fn of_cilium_in(&self, namespace: &str) -> Vec<ObjectKey> {
        let inside = |(key, object): (&Arc<ObjectKey>, &Object)| {
            let of = match object {
                Object::CiliumIdentity(_)
                | Object::CiliumEndpoint(_)
                | Object::CiliumEndpointSlice(_) => namespace_of(object),
                _ => None,
            };
            (of == Some(namespace)).then(|| (**key).clone())
        };
        self.objects.iter().filter_map(inside).collect()
    }

    /// An identity is published with its ID and labels. One without a namespace is skipped, as in Cilium.
    pub(super) fn cilium_identity_records(&self, identity: &CiliumIdentity) -> Made {
        let CiliumIdentity { identity, labels } = identity;
        if *labels == Labels::default() {
            return Made { notes: vec!["it has no security-labels".into()], ..Made::default() };
        }
        let takes_part = labels.namespace().is_some_and(|namespace| self.takes_part(namespace));
        let record = takes_part.then(|| Record::Identity(*identity, labels.clone()));
        Made::of(record.into_iter().collect())
    }

    /// The objects that are affected when the first CiliumEndpointSlice is added or the last one is removed.
    pub(super) fn with_endpoints(&self) -> impl Iterator<Item = ObjectKey> {
        let kinds = [Kind::Pod, Kind::CiliumEndpoint];
        self.objects.keys().filter(move |key| kinds.contains(&key.kind)).map(|key| (**key).clone())
    }

    /// Cilium's addresses are published if their namespace is part of the mesh.
    pub(super) fn cilium_endpoint_records(&self, endpoints: &[CiliumEndpoint]) -> Made {
        let mut made = Made::default();
        for endpoint in endpoints {
            let bad = endpoint.bad_ips.iter();
            let bad = bad.map(|text| format!("{}: {text:?} is not an IP address", endpoint.name));
            made.notes.extend(bad);
            if self.takes_part(&endpoint.namespace) {
                let addresses = records::cilium_addresses(endpoint).into_iter();
                made.records.extend(addresses.map(|address| Record::Address(Box::new(address))));
            }
        }
        made
    }
}
