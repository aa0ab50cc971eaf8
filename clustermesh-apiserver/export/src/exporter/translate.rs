//! Converts objects to records.

use mesh_model::{
    EndpointSlice, Labels, Record,
    object::{self, Kind, Object, ObjectKey},
};

use super::{
    Allocate, Exporter, Made,
    dependents::{named, service_key},
};
use crate::{
    annotations::{self, LbAnnotations},
    records,
};

impl Exporter {
    /// The records of an object. There are none for a deleted object, or before all Namespaces are known.
    pub(super) fn records<A: Allocate>(
        &self,
        key: &ObjectKey,
        labels: Option<Labels>,
        allocate: &mut A,
    ) -> Result<Made, String> {
        if !self.is_open() {
            return Ok(Made::default());
        }
        Ok(match self.objects.get(key) {
            Some(Object::Pod(pod)) => return self.pod_records(pod, labels, allocate),
            // A CiliumNode has more information about a node, and replaces it.
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
                self.cilium_endpoint_records(std::slice::from_ref(endpoint))
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
            Some(Object::Endpoints(_)) | None => Made::default(),
        })
    }

    /// A pod is exported for its node as soon as it is scheduled, even if its namespace is not part of the mesh, and for
    /// other clusters when it has an address. `labels` is the label set for which it needs an ID.
    fn pod_records<A: Allocate>(
        &self,
        pod: &object::Pod,
        labels: Option<Labels>,
        allocate: &mut A,
    ) -> Result<Made, String> {
        let Some(labels) = labels else {
            // Its addresses are exported from Cilium's objects.
            let known = self.cilium.identity_of(&pod.namespace, &pod.name);
            let known = known.filter(|_| self.has_identity(pod));
            let local = known.and_then(|identity| records::local_pod(pod, identity));
            return Ok(Made::of(local.into_iter().collect()));
        };
        let identity = match self.cilium.id_of(&labels) {
            Some(identity) => identity,
            None => allocate.identity(&labels).map_err(|error| error.to_string())?,
        };
        let node = match self.objects.get(&named(Kind::Node, &pod.node)) {
            Some(Object::Node(node)) => Some(node),
            _ => None,
        };
        let mut made: Vec<Record> = records::local_pod(pod, Some(identity)).into_iter().collect();
        if self.takes_part(&pod.namespace) {
            let addresses = records::addresses(pod, node, identity).into_iter();
            made.extend(addresses.map(|address| Record::Address(Box::new(address))));
        }
        Ok(Made { identity: Some((identity, labels)), ..Made::of(made) })
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
                Some(Object::EndpointSlice(slice)) => Some(slice),
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
