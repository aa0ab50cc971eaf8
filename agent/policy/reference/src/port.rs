//! What flows carry, and the ports and ICMP types of rules.

use serde_json::Value;

use crate::{
    json::{items, text},
    unsupported::Unsupported,
    world::Place,
};

/// What a flow carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Protocol and port.
    Port(String, u64),
    /// ICMP or ICMPv6, and the type.
    Icmp { v6: bool, kind: u64 },
}

/// Kubernetes API reference, NetworkPolicyPort. No ports: all, whatever the protocol.
pub(crate) fn network_policy(rule: &Value, traffic: &Traffic, receiver: &Place) -> bool {
    let ports = items(rule, "ports");
    let matches = |port: &Value| {
        let Traffic::Port(protocol, number) = traffic else { return false };
        let of = match text(port, "protocol") {
            "" => "TCP",
            other => other,
        };
        let is_port = match port.get("port") {
            None => true,
            Some(Value::String(name)) => is_named(name, traffic, receiver),
            Some(first) => {
                let first = first.as_u64().unwrap_or_default();
                let last = port.get("endPort").and_then(Value::as_u64).unwrap_or(first);
                (first..=last).contains(number)
            }
        };
        of == protocol && is_port
    };
    ports.is_empty() || ports.iter().any(matches)
}

/// Cilium documentation, "Layer 4 Policies". `None`: the rule says nothing of ports.
pub(crate) fn cilium(rule: &Value, traffic: &Traffic, receiver: &Place) -> Option<bool> {
    let (ports, icmps) = (items(rule, "toPorts"), items(rule, "icmps"));
    if ports.is_empty() && icmps.is_empty() {
        return None;
    }
    let mut ports = ports.iter().flat_map(|one| items(one, "ports"));
    let mut icmps = icmps.iter().flat_map(|one| items(one, "fields"));
    Some(
        ports.any(|port| cilium_port(port, traffic, receiver))
            || icmps.any(|field| icmp_field(field, traffic)),
    )
}

/// Cilium, pkg/policy/api/l4.go, PortProtocol: without a protocol, or with ANY, those that have ports; port 0 is all ports.
fn cilium_port(port: &Value, traffic: &Traffic, receiver: &Place) -> bool {
    let Traffic::Port(protocol, number) = traffic else { return false };
    let of = text(port, "protocol");
    let is_protocol = ["", "ANY"].contains(&of) || of == protocol;
    let is_port = match text(port, "port").parse::<u64>() {
        Ok(0) => true,
        Ok(first) => {
            let last = port.get("endPort").and_then(Value::as_u64).filter(|last| *last > 0);
            (first..=last.unwrap_or(first)).contains(number)
        }
        // rule_validation.go: names are made lower-case.
        Err(_) => is_named(&text(port, "port").to_lowercase(), traffic, receiver),
    };
    is_protocol && is_port
}

/// The end that receives names its ports.
fn is_named(name: &str, traffic: &Traffic, receiver: &Place) -> bool {
    let (Traffic::Port(protocol, number), Place::Pod { ports, .. }) = (traffic, receiver) else {
        return false;
    };
    ports.iter().any(|(one, of, port)| one == name && of == protocol && port == number)
}

/// Cilium, pkg/policy/api/icmp.go, ICMPField.
fn icmp_field(field: &Value, traffic: &Traffic) -> bool {
    let Traffic::Icmp { v6, kind } = traffic else { return false };
    let is_v6 = text(field, "family") == "IPv6";
    is_v6 == *v6 && field.get("type").and_then(|one| icmp_type(one, is_v6)) == Some(*kind)
}

/// An ICMP type, by number or by name.
pub(crate) fn icmp_type(value: &Value, v6: bool) -> Option<u64> {
    let Some(name) = value.as_str() else { return value.as_u64() };
    let named = match v6 {
        false => ICMP.iter().find(|(_, one)| *one == name),
        true => ICMPV6.iter().find(|(_, one)| *one == name),
    };
    named.map(|(number, _)| *number).or_else(|| name.parse().ok())
}

/// IANA, "Internet Control Message Protocol (ICMP) Parameters"; the names are those of Cilium's schema.
const ICMP: [(u64, &str); 16] = [
    (0, "EchoReply"),
    (3, "DestinationUnreachable"),
    (5, "Redirect"),
    (8, "Echo"),
    (8, "EchoRequest"),
    (9, "RouterAdvertisement"),
    (10, "RouterSelection"),
    (11, "TimeExceeded"),
    (12, "ParameterProblem"),
    (13, "Timestamp"),
    (14, "TimestampReply"),
    (40, "Photuris"),
    (42, "ExtendedEcho Request"),
    (42, "ExtendedEchoRequest"),
    (43, "ExtendedEcho Reply"),
    (43, "ExtendedEchoReply"),
];

/// IANA, "Internet Control Message Protocol version 6 (ICMPv6) Parameters".
const ICMPV6: [(u64, &str); 27] = [
    (1, "DestinationUnreachable"),
    (2, "PacketTooBig"),
    (3, "TimeExceeded"),
    (4, "ParameterProblem"),
    (128, "EchoRequest"),
    (129, "EchoReply"),
    (130, "MulticastListenerQuery"),
    (131, "MulticastListenerReport"),
    (132, "MulticastListenerDone"),
    (133, "RouterSolicitation"),
    (134, "RouterAdvertisement"),
    (135, "NeighborSolicitation"),
    (136, "NeighborAdvertisement"),
    (137, "RedirectMessage"),
    (138, "RouterRenumbering"),
    (139, "ICMPNodeInformationQuery"),
    (140, "ICMPNodeInformationResponse"),
    (141, "InverseNeighborDiscoverySolicitation"),
    (142, "InverseNeighborDiscoveryAdvertisement"),
    (144, "HomeAgentAddressDiscoveryRequest"),
    (145, "HomeAgentAddressDiscoveryReply"),
    (146, "MobilePrefixSolicitation"),
    (147, "MobilePrefixAdvertisement"),
    (157, "DuplicateAddressRequestCodeSuffix"),
    (158, "DuplicateAddressConfirmationCodeSuffix"),
    (160, "ExtendedEchoRequest"),
    (161, "ExtendedEchoReply"),
];

/// What a flow carries to this end.
pub(crate) fn traffic(flow: &Value, v6: bool, receiver: &Place) -> Result<Traffic, Unsupported> {
    let unsupported = || Unsupported(format!("the flow {flow}"));
    let protocol = text(flow, "protocol");
    if let Some(kind) = flow.get("icmpType") {
        let v6 = v6 || protocol == "ICMPv6";
        return icmp_type(kind, v6).map(|kind| Traffic::Icmp { v6, kind }).ok_or_else(unsupported);
    }
    if let Some(port) = flow.get("port").and_then(Value::as_u64) {
        let protocol = if protocol.is_empty() { "TCP" } else { protocol };
        return Ok(Traffic::Port(protocol.to_owned(), port));
    }
    let Place::Pod { ports, .. } = receiver else { return Err(unsupported()) };
    let name = text(flow, "portName");
    let meant = |(one, of, _): &&(String, String, u64)| {
        one == name && (protocol.is_empty() || of == protocol)
    };
    let found: Vec<_> = ports.iter().filter(meant).collect();
    match found.as_slice() {
        [(_, protocol, port)] => Ok(Traffic::Port(protocol.clone(), *port)),
        _ => Err(unsupported()),
    }
}
