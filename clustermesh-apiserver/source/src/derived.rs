//! Endpoint slices for services that have none.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{
    EndpointSlice, ServiceName,
    object::{Node, Object, ObjectKey, Pod, Service},
    service::SERVICE_NAME_LABEL,
};

use crate::endpoints;

/// The endpoint slices of the services that have none of their own, as the kube-controller-manager would make them.
pub fn derived_slices(objects: &BTreeMap<ObjectKey, Object>) -> Vec<EndpointSlice> {
    let mut given = BTreeSet::new();
    let mut pods = BTreeMap::<&str, Vec<&Pod>>::new();
    let mut services: Vec<&Service> = Vec::new();
    let mut nodes = BTreeMap::<&str, &Node>::new();
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
            let pods = pods.get(service.namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
            endpoints::slices(service, pods.iter().copied(), &nodes)
        })
        .collect()
}
