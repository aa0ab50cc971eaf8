//! Addresses, `cilium/state/ip/v1/default/<ip>`.

use ipnet::IpNet;
use mesh_model::{EndpointAddress, Identity, NamedPort, Port, Record};

use crate::{
    check::{address, expect, identity_of, optional_address},
    error::DecodeError,
    excerpt::shown,
    go_json::{self, go_struct},
    key::net,
    limits,
    node::{mask_bytes, mask_length},
    peer::Peer,
};

go_struct! {
    /// The JSON of the value.
    struct AddressJson {
        "IP" => ip: String;
        "Mask" => mask: Option<String>;
        "HostIP" => host_ip: String;
        "ID" => id: u32;
        "Key" => key: u8;
        "Metadata" => metadata: String;
        "K8sNamespace" => namespace: String, omit;
        "K8sPodName" => pod: String, omit;
        "K8sServiceAccount" => service_account: String, omit;
        "NamedPorts" => named_ports: Vec<NamedPortJson>, omit;
    }
}

go_struct! {
    /// A named container port.
    struct NamedPortJson {
        "Name" => name: String;
        "Port" => port: u16;
        "Protocol" => protocol: String;
    }
}

pub(crate) fn encode(record: &EndpointAddress) -> Vec<u8> {
    let EndpointAddress {
        net,
        host,
        identity,
        encryption_key,
        metadata,
        namespace,
        pod,
        service_account,
        named_ports,
    } = record;
    let is_host = net.prefix_len() == net.max_prefix_len();
    go_json::to_vec(&AddressJson {
        ip: net.addr().to_string(),
        mask: (!is_host).then(|| mask_bytes(net)),
        host_ip: host.map(|ip| ip.to_string()).unwrap_or_default(),
        id: identity.get(),
        key: *encryption_key,
        metadata: metadata.clone(),
        namespace: namespace.clone(),
        pod: pod.clone(),
        service_account: service_account.clone(),
        named_ports: encode_ports(named_ports),
    })
}

pub(crate) fn encode_ports(ports: &[NamedPort]) -> Vec<NamedPortJson> {
    let port = |NamedPort { name, port }: &NamedPort| NamedPortJson {
        name: name.clone(),
        port: port.number,
        protocol: port.protocol.as_str().into(),
    };
    ports.iter().map(port).collect()
}

/// One with an unknown protocol is left out.
pub(crate) fn decode_ports(ports: Vec<NamedPortJson>) -> Result<Vec<NamedPort>, DecodeError> {
    limits::NAMED_PORTS.check(ports.len())?;
    limits::PORT_NAME.texts(ports.iter().map(|port| &port.name))?;
    let port = |NamedPortJson { name, port, protocol }| {
        let port = Port { protocol: protocol.parse().ok()?, number: port };
        Some(NamedPort { name, port })
    };
    Ok(ports.into_iter().filter_map(port).collect())
}

pub(crate) fn decode(peer: &Peer, key: IpNet, value: &[u8]) -> Result<Record, DecodeError> {
    let json: AddressJson = serde_json::from_slice(value)?;
    let AddressJson { metadata, namespace, pod, service_account, .. } = &json;
    limits::NAME.texts([metadata, namespace, pod, service_account])?;
    let ip = address("IP", &json.ip)?;
    let found = match &json.mask {
        None => IpNet::from(ip),
        Some(mask) => {
            let length = mask_length("Mask", mask)?;
            net(&format!("{ip}/{length}")).map_err(|reason| DecodeError::Address {
                field: "Mask",
                text: shown(mask),
                reason,
            })?
        }
    };
    expect("IP", found, key)?;
    let identity = Identity::new(json.id);
    if !identity.is_reserved() {
        identity_of(peer, identity)?;
    }
    Ok(Record::Address(Box::new(EndpointAddress {
        net: key,
        host: optional_address("HostIP", &json.host_ip)?,
        identity,
        encryption_key: json.key,
        metadata: json.metadata,
        namespace: json.namespace,
        pod: json.pod,
        service_account: json.service_account,
        named_ports: decode_ports(json.named_ports)?,
    })))
}
