//! Converts objects to records.

use mesh_model::{
    EndpointSlice, Identity, Labels, Record,
    object::{self, Kind, Object, ObjectKey},
};

use super::{
    Exporter, Made,
    dependents::{named, service_key},
};
use crate::{
    annotations::{self, LbAnnotations},
    records,
};

impl Exporter {
    /// What follows from an object; nothing from one that is gone or does not take part, and nothing at all before all
    /// Namespaces are known, but for policies.
    pub(super) fn records(&self, key: &ObjectKey, identity: Option<(Identity, Labels)>) -> Made {
        if key.kind.policy().is_some() {
            return self.policy_records(key);
        }
        if !self.is_open() {
            return Made::default();
        }
        match self.objects.get(key) {
            Some(Object::Pod(pod)) => self.pod_records(pod, identity),
            // A Cilium knows more of a node than Kubernetes does.
            Some(Object::Node(node)) => {
                let record = Record::Node(Box::new(records::node(&self.local, node)));
                let used = !self.has_cilium_node(&node.name);
                let (_, notes) = annotations::is_drained(&node.annotations);
                Made { notes, ..Made::of(used.then_some(record).into_iter().collect()) }
            }
            Some(Object::CiliumNode(node)) => {
                let record = Record::Node(Box::new(records::cilium_node(&self.local, node)));
                let (_, notes) = annotations::is_drained(&node.annotations);
                Made { notes, ..Made::of(vec![record]) }
            }
            Some(Object::CiliumIdentity(identity)) => self.cilium_identity_records(identity),
            Some(Object::CiliumEndpoint(_)) if !self.cilium.counts_endpoints() => Made::default(),
            Some(Object::CiliumEndpoint(endpoint)) => {
                self.cilium_endpoint_records(std::slice::from_ref(&**endpoint))
            }
            Some(Object::CiliumEndpointSlice(slice)) => {
                self.cilium_endpoint_records(&slice.endpoints)
            }
            Some(Object::Service(service)) => self.service_records(service),
            Some(Object::Namespace(namespace)) => {
                let (_, notes) = annotations::is_global(namespace);
                let local = records::local_namespace(namespace, self.is_global(namespace));
                Made { notes, ..Made::of(vec![Record::Namespace(Box::new(local))]) }
            }
            Some(Object::EndpointSlice(slice)) => self.slice_records(slice),
            // The source reports the slices that are derived from them.
            Some(Object::Endpoints(_) | Object::Policy(_)) | None => Made::default(),
        }
    }

    /// Its own node gets a pod from the moment that it has one, and whether or not its namespace takes part; others
    /// when it has an address. `identity` is the ID that was allocated to its label set, if it needs one.
    fn pod_records(&self, pod: &object::Pod, identity: Option<(Identity, Labels)>) -> Made {
        let Some((id, _)) = &identity else {
            // Its addresses are the Cilium's to export.
            let known = self.cilium.identity_of(&pod.namespace, &pod.name);
            let known = known.filter(|_| self.has_identity(pod));
            let local = known.and_then(|identity| records::local_pod(pod, identity));
            return Made::of(local.into_iter().collect());
        };
        let records = self.records_of_pod(pod, *id);
        Made { identity, ..Made::of(records) }
    }

    /// The records of a pod with an identity.
    pub(super) fn records_of_pod(&self, pod: &object::Pod, id: Identity) -> Vec<Record> {
        let node = match self.objects.get(&named(Kind::Node, &pod.node)) {
            Some(Object::Node(node)) => Some(&**node),
            _ => None,
        };
        let mut made: Vec<Record> = records::local_pod(pod, Some(id)).into_iter().collect();
        if self.takes_part(&pod.namespace) {
            let addresses = records::addresses(pod, node, id).into_iter();
            made.extend(addresses.map(|address| Record::Address(Box::new(address))));
        }
        made
    }

    /// Every service is exported for local nodes, and shared ones for other clusters. `ExternalName` services are not
    /// exported: they have neither frontends nor backends, and readers reject what Cilium exports of them.
    fn service_records(&self, service: &object::Service) -> Made {
        if service.external_name {
            return Made::default();
        }
        let asked = self.asked(service);
        let (mut made, mut notes) = (Vec::new(), asked.problems.clone());
        if asked.shared {
            let keys: Vec<ObjectKey> = self.slice_keys(service).collect();
            let slices = keys.iter().filter_map(|key| match self.objects.get(key) {
                Some(Object::EndpointSlice(slice)) => Some(&**slice),
                _ => None,
            });
            let (record, lost) = records::service(&self.local, service, slices, &self.drained);
            made.push(Record::Service(Box::new(record)));
            notes.extend(lost);
        }
        made.push(Record::LocalService(Box::new(records::local_service(service, asked))));
        Made { notes, ..Made::of(made) }
    }

    /// Slices are exported like their service. FQDN slices are not exported: readers refuse them.
    fn slice_records(&self, slice: &EndpointSlice) -> Made {
        let service = slice.service();
        let service = service.and_then(|name| self.objects.get(&service_key(&name)));
        let receivers = self.receivers_of(service);
        if !receivers.local || slice.is_copy() || !records::has_addresses(slice) {
            return Made::default();
        }
        let (slice, notes) = records::slice(&self.local, slice, &self.drained);
        let slice = Box::new(slice);
        let mut made = Vec::new();
        if receivers.shared {
            made.push(Record::EndpointSlice(slice.clone()));
        }
        made.push(Record::LocalEndpointSlice(slice));
        Made { notes, ..Made::of(made) }
    }

    /// A service's settings from its annotations.
    pub(super) fn asked(&self, service: &object::Service) -> LbAnnotations {
        annotations::asked(&self.local.name, service, self.takes_part(&service.namespace))
    }
}

impl Made {
    pub(super) fn of(records: Vec<Record>) -> Self {
        Self { records, ..Self::default() }
    }
}
