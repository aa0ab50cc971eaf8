//! Cilium's objects in Kubernetes. Their values are used unchanged, also the IDs of identities.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use mesh_model::{
    AddressKind, Identity, Label, NamedPort, NodeAddress, Port,
    node::FamilyPair,
    object::{self, Object},
};
use serde::{Deserialize, Deserializer};

use super::Metadata;

#[derive(Debug, Deserialize)]
pub(crate) struct CiliumNode {
    metadata: Metadata,
    #[serde(default)]
    spec: NodeSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(deserialize_with = "or_default")]
    addresses: Vec<NodeAddressJson>,
    bootid: String,
    encryption: Encryption,
    health: Pair,
    ingress: Pair,
    ipam: Ipam,
}

#[derive(Debug, Deserialize)]
struct NodeAddressJson {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Encryption {
    key: i64,
}

/// At most one address of each family.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pair {
    ipv4: String,
    ipv6: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "podCIDRs", deserialize_with = "or_default")]
    pod_cidrs: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CiliumIdentity {
    metadata: Metadata,
    #[serde(rename = "security-labels", default)]
    security_labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CiliumEndpoint {
    metadata: Metadata,
    #[serde(default)]
    status: EndpointStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct EndpointStatus {
    identity: Option<IdentityJson>,
    networking: Option<Networking>,
    encryption: Option<Encryption>,
    #[serde(deserialize_with = "or_default")]
    named_ports: Vec<NamedPortJson>,
    service_account: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IdentityJson {
    id: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Networking {
    #[serde(deserialize_with = "or_default")]
    addressing: Vec<Pair>,
    node: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamedPortJson {
    name: String,
    port: i64,
    protocol: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CiliumEndpointSlice {
    metadata: Metadata,
    #[serde(default)]
    namespace: String,
    #[serde(default, deserialize_with = "or_default")]
    endpoints: Vec<CoreEndpoint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct CoreEndpoint {
    name: String,
    /// The identity's ID.
    id: i64,
    networking: Option<Networking>,
    encryption: Option<Encryption>,
    #[serde(deserialize_with = "or_default")]
    named_ports: Vec<NamedPortJson>,
    service_account: String,
}

// === impl CiliumNode ===

impl CiliumNode {
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let Self { metadata, spec } = self;
        let NodeSpec { addresses, bootid, encryption, health, ingress, ipam } = spec;
        let mut known = Vec::new();
        for NodeAddressJson { kind, ip } in addresses {
            let kind = match kind.as_str() {
                "InternalIP" => AddressKind::Internal,
                "ExternalIP" => AddressKind::External,
                "CiliumInternalIP" => AddressKind::CiliumInternal,
                // Host names.
                _ => continue,
            };
            known.push(NodeAddress { kind, ip: address(&ip)? });
        }
        let cidr = |text: &String| {
            let net: Result<IpNet, _> = text.parse();
            net.map(|net| net.trunc()).map_err(|_| format!("{text:?} is not a CIDR"))
        };
        Ok(Object::from(object::CiliumNode {
            name: metadata.name,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            addresses: known,
            pod_cidrs: ipam.pod_cidrs.iter().map(cidr).collect::<Result<_, _>>()?,
            health_ips: health.addresses()?,
            ingress_ips: ingress.addresses()?,
            encryption_key: encryption.index()?,
            boot_id: bootid,
        }))
    }
}

// === impl CiliumIdentity ===

impl CiliumIdentity {
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let name = &self.metadata.name;
        let number = name.parse().ok().filter(|number: &u32| number.to_string() == *name);
        let number = number.ok_or("its name is not an identity ID")?;
        let labels = self.security_labels.unwrap_or_default();
        Ok(Object::from(object::CiliumIdentity {
            identity: Identity::new(number),
            labels: labels.iter().map(|(name, value)| Label::with_name(name, value)).collect(),
        }))
    }
}

// === impl CiliumEndpoint ===

impl CiliumEndpoint {
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let Self { metadata, status } = self;
        let EndpointStatus { identity, networking, encryption, named_ports, service_account } =
            status;
        let id = identity.unwrap_or_default().id;
        let core = CoreEndpoint {
            name: metadata.name.clone(),
            id,
            networking,
            encryption,
            named_ports,
            service_account,
        };
        core.endpoint(&metadata.namespace()).map(Object::from)
    }
}

// === impl CiliumEndpointSlice ===

impl CiliumEndpointSlice {
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let Self { metadata, namespace, endpoints } = self;
        if namespace.is_empty() {
            return Err("it has no namespace".into());
        }
        let endpoint = |core: CoreEndpoint| {
            let name = core.name.clone();
            let endpoint = core.endpoint(&namespace);
            endpoint.map_err(|reason| format!("endpoint {name:?}: {reason}"))
        };
        let endpoints = endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?;
        Ok(Object::from(object::CiliumEndpointSlice { name: metadata.name, namespace, endpoints }))
    }
}

impl CoreEndpoint {
    fn endpoint(self, namespace: &str) -> Result<object::CiliumEndpoint, String> {
        let Self { name, id, networking, encryption, named_ports, service_account } = self;
        let Networking { addressing, node } = networking.unwrap_or_default();
        let texts = addressing.iter().flat_map(|Pair { ipv4, ipv6 }| [ipv4, ipv6]);
        let (mut ips, mut bad_ips) = (Vec::new(), Vec::new());
        for text in texts.filter(|text| !text.is_empty()) {
            match address(text) {
                Ok(ip) => ips.push(ip),
                Err(_) => bad_ips.push(text.clone()),
            }
        }
        let number = u32::try_from(id).map_err(|_| format!("{id} is not an identity ID"))?;
        let node_ip = match node.as_str() {
            "" => None,
            node => Some(address(node)?),
        };
        Ok(object::CiliumEndpoint {
            namespace: namespace.into(),
            name,
            identity: Identity::new(number),
            ips,
            bad_ips,
            node_ip,
            encryption_key: encryption.unwrap_or_default().index()?,
            service_account,
            named_ports: named_ports.into_iter().filter_map(NamedPortJson::into_model).collect(),
        })
    }
}

impl NamedPortJson {
    /// `None` for an unknown protocol or an invalid number. The endpoint is used without this port.
    fn into_model(self) -> Option<NamedPort> {
        let Self { name, port, protocol } = self;
        let port = Port { protocol: protocol.parse().ok()?, number: u16::try_from(port).ok()? };
        Some(NamedPort { name, port })
    }
}

impl Encryption {
    fn index(&self) -> Result<u8, String> {
        u8::try_from(self.key).map_err(|_| format!("encryption.key {}: it is 0 to 255", self.key))
    }
}

impl Pair {
    fn addresses(&self) -> Result<FamilyPair, String> {
        let one = |text: &String| match text.as_str() {
            "" => Ok(None),
            text => address(text).map(Some),
        };
        Ok(FamilyPair { v4: one(&self.ipv4)?, v6: one(&self.ipv6)? })
    }
}

/// An API server may write an empty list as `null`.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn address(text: &str) -> Result<IpAddr, String> {
    let address: Result<IpAddr, _> = text.parse();
    address.map(|ip| ip.to_canonical()).map_err(|_| format!("{text:?} is not an IP address"))
}
