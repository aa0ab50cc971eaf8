//! Endpoints, the API that endpoint slices replaced, and their conversion to slices.

use std::collections::BTreeMap;

use mesh_model::{
    EndpointSlice, SliceEndpoint,
    object::{self, Object},
    service::{MANAGED_BY_LABEL, SERVICE_NAME_LABEL, SlicePort},
};
use serde::Deserialize;

use super::{Metadata, parse_ip, services::EndpointPort};

#[derive(Debug, Deserialize)]
pub(crate) struct Endpoints {
    metadata: Metadata,
    #[serde(default)]
    subsets: Vec<Subset>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subset {
    addresses: Vec<Address>,
    not_ready_addresses: Vec<Address>,
    ports: Vec<EndpointPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Address {
    ip: String,
    hostname: Option<String>,
    node_name: Option<String>,
}

/// The controller that makes slices of Endpoints.
const MIRRORED_BY: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label are not converted to slices.
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints with this annotation are a leader election lock.
const LOCK_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

// === impl Endpoints ===

impl Endpoints {
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let Self { metadata, subsets } = self;
        let (namespace, name) = (metadata.namespace(), metadata.name);
        let mut labels = metadata.labels.unwrap_or_default();
        let skip = labels.get(SKIP_LABEL).is_some_and(|skip| skip == "true")
            || metadata.annotations.is_some_and(|all| all.contains_key(LOCK_ANNOTATION));
        labels.insert(SERVICE_NAME_LABEL.into(), name.clone());
        labels.insert(MANAGED_BY_LABEL.into(), MIRRORED_BY.into());
        // Each address family and set of ports becomes one slice.
        let mut by_sort = BTreeMap::<(bool, Vec<SlicePort>), Vec<SliceEndpoint>>::new();
        for (index, subset) in (0..).zip(subsets) {
            let mut ports = Vec::new();
            let several = subset.ports.len() > 1;
            for (n, port) in (0..).zip(subset.ports) {
                let n: usize = n;
                let field = || format!("subsets[{index}].ports[{n}]");
                if several && !port.is_named() {
                    return Err(format!("{}.name: each of several ports needs a name", field()));
                }
                port.add_to(&mut ports, field)?;
            }
            if subset.addresses.is_empty() && subset.not_ready_addresses.is_empty() {
                return Err(format!("subsets[{index}].addresses: it needs one"));
            }
            let ready = subset.addresses.into_iter().map(|address| (address, true));
            let not_ready = subset.not_ready_addresses.into_iter().map(|address| (address, false));
            for (address, ready) in ready.chain(not_ready) {
                let index: usize = index;
                let ip = parse_ip(&address.ip, || format!("subsets[{index}].addresses"))?;
                let endpoint = SliceEndpoint {
                    addresses: vec![ip.to_string()],
                    ready: Some(ready),
                    hostname: address.hostname.filter(|name| !name.is_empty()),
                    node: address.node_name.filter(|name| !name.is_empty()),
                    ..SliceEndpoint::default()
                };
                by_sort.entry((ip.is_ipv6(), ports.clone())).or_default().push(endpoint);
            }
        }
        let slices = (1..).zip(by_sort).map(|(number, ((v6, ports), endpoints))| EndpointSlice {
            namespace: namespace.clone(),
            name: format!("{name}-mirrored-{number}"),
            labels: labels.clone(),
            address_type: if v6 { "IPv6" } else { "IPv4" }.into(),
            endpoints,
            ports,
            ..EndpointSlice::default()
        });
        let slices = slices.collect();
        Ok(Object::from(object::Endpoints { namespace, name, skip, slices }))
    }
}
