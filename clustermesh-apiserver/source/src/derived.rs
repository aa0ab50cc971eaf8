//! Makes endpoint slices for services without any, from pods or from Endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mesh_model::{
    EndpointSlice, ServiceName,
    object::{Endpoints, Node, Object, Pod, Service},
    service::SERVICE_NAME_LABEL,
};

use crate::endpoints as from_pods;

/// Pods by namespace, key and value of a label that some service selects.
type Labelled<'a> = HashMap<(&'a str, &'a str, &'a str), Vec<&'a Pod>>;

/// Endpoint slices for services without any, as the kube-controller-manager makes them: from the pods that a service selects,
/// or, for a service without a selector, from its Endpoints.
pub fn derived_slices<'a>(objects: impl Iterator<Item = &'a Object>) -> Vec<EndpointSlice> {
    let mut given = BTreeSet::new();
    let mut pods: Vec<&Pod> = Vec::new();
    let mut services: Vec<&Service> = Vec::new();
    let mut nodes = BTreeMap::<&str, &Node>::new();
    let mut endpoints = BTreeMap::<ServiceName, &Endpoints>::new();
    for object in objects {
        match object {
            Object::EndpointSlice(slice) => {
                let service = slice.labels.get(SERVICE_NAME_LABEL);
                given.extend(service.map(|name| ServiceName::new(&slice.namespace, name)));
            }
            Object::Pod(pod) => pods.push(pod),
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
            | Object::CiliumEndpointSlice(_)
            | Object::Policy(_) => {}
        }
    }
    services
        .retain(|service| !given.contains(&ServiceName::new(&service.namespace, &service.name)));
    let pods = labelled(&services, &pods);
    services
        .into_iter()
        .flat_map(|service| {
            let name = ServiceName::new(&service.namespace, &service.name);
            if service.selector.is_empty() {
                let mirrored = endpoints.get(&name).filter(|_| !service.external_name);
                return mirrored.map(|endpoints| endpoints.slices.clone()).unwrap_or_default();
            }
            let namespace = service.namespace.as_str();
            let candidates = service.selector.iter().map(|(label, value)| {
                let with = pods.get(&(namespace, label.as_str(), value.as_str()));
                with.map(Vec::as_slice).unwrap_or_default()
            });
            let fewest = candidates.min_by_key(|pods| pods.len()).unwrap_or_default();
            from_pods::slices(service, fewest.iter().copied(), &nodes)
        })
        .collect()
}

/// Indexes pods by the labels that services select, so that a service does not need to examine all pods.
fn labelled<'a>(services: &[&'a Service], pods: &[&'a Pod]) -> Labelled<'a> {
    let selected: HashSet<(&str, &str)> = services
        .iter()
        .flat_map(|service| &service.selector)
        .map(|(label, value)| (label.as_str(), value.as_str()))
        .collect();
    let mut labelled = Labelled::new();
    for pod in pods {
        let labels =
            pod.template.labels.iter().map(|(label, value)| (label.as_str(), value.as_str()));
        for (label, value) in labels.filter(|label| selected.contains(label)) {
            labelled.entry((&*pod.namespace, label, value)).or_default().push(pod);
        }
    }
    labelled
}
