//! Nodes, `cilium/state/nodes/v1/<cluster>/<name>`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use mesh_model::{AddressKind, ClusterId, Node, NodeAddress, Record, node::FamilyPair};

use crate::{
    check::{address, expect, expect_cluster, optional_address},
    error::DecodeError,
    excerpt::shown,
    go_json::{self, go_struct},
    key::net,
    limits,
    peer::Peer,
};

go_struct! {
    /// The JSON of the value.
    struct NodeJson {
        "Name" => name: String;
        "Cluster" => cluster: String;
        "IPAddresses" => addresses: Vec<AddressJson>, null;
        "IPv4AllocCIDR" => v4_cidr: Option<CidrJson>;
        "IPv4SecondaryAllocCIDRs" => v4_secondary: Vec<CidrJson>, null;
        "IPv6AllocCIDR" => v6_cidr: Option<CidrJson>;
        "IPv6SecondaryAllocCIDRs" => v6_secondary: Vec<CidrJson>, null;
        "IPv4HealthIP" => v4_health: String;
        "IPv6HealthIP" => v6_health: String;
        "IPv4IngressIP" => v4_ingress: String;
        "IPv6IngressIP" => v6_ingress: String;
        "ClusterID" => cluster_id: u32;
        "Source" => source: String;
        "EncryptionKey" => encryption_key: u8;
        "Labels" => labels: BTreeMap<String, String>, null;
        "Annotations" => annotations: BTreeMap<String, String>, null;
        "WireguardPubKey" => wireguard_public_key: String;
        "BootID" => boot_id: String;
    }
}

go_struct! {
    /// One address.
    struct AddressJson {
        "Type" => kind: String;
        "IP" => ip: String;
    }
}

go_struct! {
    /// A prefix: its first address, and the bytes of the mask in base64.
    struct CidrJson {
        "IP" => ip: String;
        "Mask" => mask: String;
    }
}

pub(crate) fn encode(node: &Node) -> Vec<u8> {
    let Node {
        name,
        cluster,
        cluster_id,
        addresses,
        pod_cidrs,
        health_ips,
        ingress_ips,
        source,
        encryption_key,
        labels,
        annotations,
        wireguard_public_key,
        boot_id,
    } = node;
    let family = |v4: bool| pod_cidrs.iter().filter(move |net| net.addr().is_ipv4() == v4);
    let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    go_json::to_vec(&NodeJson {
        name: name.clone(),
        cluster: cluster.to_string(),
        addresses: addresses
            .iter()
            .map(|a| AddressJson { kind: kind_word(a.kind).into(), ip: a.ip.to_string() })
            .collect(),
        v4_cidr: family(true).next().map(cidr_json),
        v4_secondary: family(true).skip(1).map(cidr_json).collect(),
        v6_cidr: family(false).next().map(cidr_json),
        v6_secondary: family(false).skip(1).map(cidr_json).collect(),
        v4_health: text(health_ips.v4),
        v6_health: text(health_ips.v6),
        v4_ingress: text(ingress_ips.v4),
        v6_ingress: text(ingress_ips.v6),
        cluster_id: cluster_id.get().into(),
        source: source.clone(),
        encryption_key: *encryption_key,
        labels: labels.clone(),
        annotations: annotations.clone(),
        wireguard_public_key: wireguard_public_key.clone(),
        boot_id: boot_id.clone(),
    })
}

pub(crate) fn decode(peer: &Peer, name: &str, value: &[u8]) -> Result<Record, DecodeError> {
    let json: NodeJson = serde_json::from_slice(value)?;
    expect("Name", json.name.as_str(), name)?;
    expect_cluster(peer, &json.cluster, json.cluster_id)?;
    limits::labels(&json.labels)?;
    limits::annotations(&json.annotations)?;
    limits::NAME.texts([&json.source, &json.wireguard_public_key, &json.boot_id])?;
    limits::NODE_RANGES.check(json.addresses.len())?;
    let ranges = json.v4_cidr.iter().count() + json.v6_cidr.iter().count();
    limits::NODE_RANGES.check(ranges + json.v4_secondary.len() + json.v6_secondary.len())?;
    let primary = json.v4_cidr.into_iter().chain(json.v4_secondary);
    let pod_cidrs = primary.chain(json.v6_cidr).chain(json.v6_secondary);
    Ok(Record::Node(Box::new(Node {
        name: json.name,
        cluster: peer.name.clone(),
        cluster_id: ClusterId::from_wire(json.cluster_id).unwrap_or(peer.id),
        addresses: json
            .addresses
            .iter()
            .filter_map(|a| node_address(a).transpose())
            .collect::<Result<_, _>>()?,
        pod_cidrs: pod_cidrs.map(|cidr| cidr_net(&cidr)).collect::<Result<_, _>>()?,
        health_ips: FamilyPair {
            v4: optional_address("IPv4HealthIP", &json.v4_health)?,
            v6: optional_address("IPv6HealthIP", &json.v6_health)?,
        },
        ingress_ips: FamilyPair {
            v4: optional_address("IPv4IngressIP", &json.v4_ingress)?,
            v6: optional_address("IPv6IngressIP", &json.v6_ingress)?,
        },
        source: json.source,
        encryption_key: json.encryption_key,
        labels: json.labels,
        annotations: json.annotations,
        wireguard_public_key: json.wireguard_public_key,
        boot_id: json.boot_id,
    })))
}

fn kind_word(kind: AddressKind) -> &'static str {
    match kind {
        AddressKind::Internal => "InternalIP",
        AddressKind::External => "ExternalIP",
        AddressKind::CiliumInternal => "CiliumInternalIP",
    }
}

/// `None` for kinds that are not addresses, such as host names, and for unknown kinds.
fn node_address(json: &AddressJson) -> Result<Option<NodeAddress>, DecodeError> {
    let kind = match json.kind.as_str() {
        "InternalIP" => AddressKind::Internal,
        "ExternalIP" => AddressKind::External,
        "CiliumInternalIP" => AddressKind::CiliumInternal,
        _ => return Ok(None),
    };
    Ok(Some(NodeAddress { kind, ip: address("IPAddresses", &json.ip)? }))
}

fn cidr_json(net: &IpNet) -> CidrJson {
    CidrJson { ip: net.network().to_string(), mask: mask_bytes(net) }
}

fn cidr_net(cidr: &CidrJson) -> Result<IpNet, DecodeError> {
    let ip = address("AllocCIDR", &cidr.ip)?;
    let length = mask_length("AllocCIDR", &cidr.mask)?;
    net(&format!("{ip}/{length}")).map_err(|reason| DecodeError::Address {
        field: "AllocCIDR",
        text: shown(&cidr.ip),
        reason,
    })
}

/// The mask as Go encodes it: 4 or 16 bytes in base64.
pub(crate) fn mask_bytes(net: &IpNet) -> String {
    match net.netmask() {
        IpAddr::V4(mask) => STANDARD.encode(mask.octets()),
        IpAddr::V6(mask) => STANDARD.encode(mask.octets()),
    }
}

/// The prefix length of a mask in base64.
pub(crate) fn mask_length(field: &'static str, mask: &str) -> Result<u8, DecodeError> {
    let invalid = |reason| DecodeError::Address { field, text: shown(mask), reason };
    let bytes = STANDARD.decode(mask).map_err(|_| invalid("not base64"))?;
    let mask = match (<[u8; 4]>::try_from(bytes.as_slice()), <[u8; 16]>::try_from(bytes.as_slice()))
    {
        (Ok(v4), _) => IpAddr::from(Ipv4Addr::from(v4)),
        (_, Ok(v6)) => IpAddr::from(Ipv6Addr::from(v6)),
        _ => return Err(invalid("not a mask of 4 or 16 bytes")),
    };
    ipnet::ip_mask_to_prefix(mask).map_err(|_| invalid("a mask with holes"))
}
