//! Endpoint slices for services that have none: from pods, or from Endpoints.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{
    EndpointSlice, ServiceName,
    object::{Endpoints, Node, Object, ObjectKey, Pod, Service},
    service::SERVICE_NAME_LABEL,
};

use crate::endpoints as from_pods;

/// The endpoint slices of the services that have none of their own, as the kube-controller-manager would make them: from
/// the pods that a service selects, and from the Endpoints of one that selects none.
pub fn derived_slices(objects: &BTreeMap<ObjectKey, Object>) -> Vec<EndpointSlice> {
    let mut given = BTreeSet::new();
    let mut pods = BTreeMap::<&str, Vec<&Pod>>::new();
    let mut services: Vec<&Service> = Vec::new();
    let mut nodes = BTreeMap::<&str, &Node>::new();
    let mut endpoints = BTreeMap::<ServiceName, &Endpoints>::new();
    for object in objects.values() {
        match object {
            Object::EndpointSlice(slice) => {
                let service = slice.labels.get(SERVICE_NAME_LABEL);
                given.extend(service.map(|name| ServiceName::new(&slice.namespace, name)));
            }
            Object::Pod(pod) => pods.entry(pod.namespace.as_str()).or_default().push(pod),
            Object::Service(service) => services.push(service),
            Object::Node(node) => {
                nodes.insert(node.name.as_str(), node);
            }
            Object::Endpoints(of) if of.skip => {}
            Object::Endpoints(of) => {
                endpoints.insert(ServiceName::new(&of.namespace, &of.name), of);
            }
            Object::Namespace(_)
            | Object::CiliumNode(_)
            | Object::CiliumIdentity(_)
            | Object::CiliumEndpoint(_)
            | Object::CiliumEndpointSlice(_) => {}
        }
    }
    services
        .retain(|service| !given.contains(&ServiceName::new(&service.namespace, &service.name)));
    services
        .into_iter()
        .flat_map(|service| {
            let name = ServiceName::new(&service.namespace, &service.name);
            if service.selector.is_empty() {
                let mirrored = endpoints.get(&name).filter(|_| !service.external_name);
                return mirrored.map(|endpoints| endpoints.slices.clone()).unwrap_or_default();
            }
            let pods = pods.get(service.namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
            from_pods::slices(service, pods.iter().copied(), &nodes)
        })
        .collect()
}
