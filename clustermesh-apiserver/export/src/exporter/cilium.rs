//! What a Cilium keeps about its own cluster: nodes, identities, endpoints. It is exported as it is, in place of what
//! would be made of Kubernetes' own objects of the same names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mesh_model::{
    Identity, Labels, Record,
    object::{CiliumEndpoint, CiliumIdentity, Kind, Object, ObjectKey},
};

use super::{Exporter, Made, dependents::named, namespaces::namespace_of};
use crate::records;

/// What a Cilium reports of pods and label sets.
#[derive(Debug, Default)]
pub(super) struct Cilium {
    /// The IDs that label sets have; the lowest counts.
    ids: HashMap<Labels, BTreeSet<Identity>>,
    /// The identities that pods have, by namespace and name, each as often as it is reported.
    pods: BTreeMap<(String, String), Vec<Identity>>,
}

impl Cilium {
    /// Takes note of an object that was and is.
    pub(super) fn index(&mut self, before: Option<&Object>, now: Option<&Object>) {
        match before {
            Some(Object::CiliumIdentity(CiliumIdentity { identity, labels })) => {
                if let Some(ids) = self.ids.get_mut(labels) {
                    ids.remove(identity);
                    if ids.is_empty() {
                        self.ids.remove(labels);
                    }
                }
            }
            Some(Object::CiliumEndpoint(endpoint)) => self.forget(endpoint),
            Some(Object::CiliumEndpointSlice(slice)) => {
                slice.endpoints.iter().for_each(|endpoint| self.forget(endpoint));
            }
            _ => {}
        }
        match now {
            Some(Object::CiliumIdentity(CiliumIdentity { identity, labels })) => {
                self.ids.entry(labels.clone()).or_default().insert(*identity);
            }
            Some(Object::CiliumEndpoint(endpoint)) => self.note(endpoint),
            Some(Object::CiliumEndpointSlice(slice)) => {
                slice.endpoints.iter().for_each(|endpoint| self.note(endpoint));
            }
            _ => {}
        }
    }

    fn note(&mut self, endpoint: &CiliumEndpoint) {
        let pod = (endpoint.namespace.clone(), endpoint.name.clone());
        self.pods.entry(pod).or_default().push(endpoint.identity);
    }

    fn forget(&mut self, endpoint: &CiliumEndpoint) {
        let pod = (endpoint.namespace.clone(), endpoint.name.clone());
        let Some(reported) = self.pods.get_mut(&pod) else { return };
        if let Some(at) = reported.iter().position(|identity| *identity == endpoint.identity) {
            reported.remove(at);
        }
        if reported.is_empty() {
            self.pods.remove(&pod);
        }
    }

    /// Who a pod is; the inner `None` where the Cilium knows it and not who it is.
    pub(super) fn identity_of(&self, namespace: &str, name: &str) -> Option<Option<Identity>> {
        let reported = self.pods.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(reported.first().copied().filter(|identity| *identity != Identity::UNKNOWN))
    }

    /// The ID that a label set has.
    pub(super) fn id_of(&self, labels: &Labels) -> Option<Identity> {
        self.ids.get(labels)?.first().copied()
    }
}

impl Exporter {
    pub(super) fn has_cilium_node(&self, name: &str) -> bool {
        self.objects.contains_key(&named(Kind::CiliumNode, name))
    }

    /// The identities and slices of endpoints that a namespace decides about: they have none in their keys.
    pub(super) fn of_cilium_in(&self, namespace: &str) -> Vec<ObjectKey> {
        let inside = |(key, object): (&ObjectKey, &Object)| {
            let of = match object {
                Object::CiliumIdentity(_)
                | Object::CiliumEndpoint(_)
                | Object::CiliumEndpointSlice(_) => namespace_of(object),
                _ => None,
            };
            (of == Some(namespace)).then(|| key.clone())
        };
        self.objects.iter().filter_map(inside).collect()
    }

    /// An identity is published with the ID and the labels that it has; one of no namespace is skipped, as by Cilium.
    pub(super) fn cilium_identity_records(&self, identity: &CiliumIdentity) -> Made {
        let CiliumIdentity { identity, labels } = identity;
        if *labels == Labels::default() {
            return Made { notes: vec!["it has no security-labels".into()], ..Made::default() };
        }
        let takes_part = labels.namespace().is_some_and(|namespace| self.takes_part(namespace));
        let record = takes_part.then(|| Record::Identity(*identity, labels.clone()));
        Made::of(record.into_iter().collect())
    }

    /// Addresses are published as the Cilium has them, in namespaces that take part.
    pub(super) fn cilium_endpoint_records(&self, endpoints: &[CiliumEndpoint]) -> Made {
        let mut made = Made::default();
        for endpoint in endpoints {
            let bad = endpoint.bad_ips.iter();
            let bad = bad.map(|text| format!("{}: {text:?} is no IP address", endpoint.name));
            made.notes.extend(bad);
            if self.takes_part(&endpoint.namespace) {
                let addresses = records::cilium_addresses(endpoint).into_iter();
                made.records.extend(addresses.map(|address| Record::Address(Box::new(address))));
            }
        }
        made
    }
}
