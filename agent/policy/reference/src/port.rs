//! Ports and ICMP types of rules.

use serde_json::Value;

use crate::{items, text, world::End};

/// What a flow carries.
pub(crate) struct Traffic {
    /// TCP, UDP, SCTP, ICMP or ICMPv6.
    pub(crate) protocol: String,
    /// The port, or the ICMP type.
    pub(crate) number: u64,
}

/// Kubernetes API reference, NetworkPolicyPort: no port means all of the protocol, which is TCP if it is absent.
pub(crate) fn of_network_policy(rule: &Value, receiver: &End, traffic: &Traffic) -> bool {
    let ports = items(rule, "/ports");
    ports.is_empty()
        || ports.iter().any(|port| {
            let protocol = match text(port, "/protocol") {
                "" => "TCP",
                other => other,
            };
            protocol == traffic.protocol
                && match (port.get("port"), port.get("endPort").and_then(Value::as_u64)) {
                    (None, _) => true,
                    (Some(Value::String(name)), _) => is_named(name, protocol, receiver, traffic),
                    (Some(first), last) => {
                        let first = first.as_u64().unwrap_or(0);
                        (first..=last.unwrap_or(first)).contains(&traffic.number)
                    }
                }
        })
}

/// Cilium docs, "Layer 4 Examples": an absent list is all ports, `"0"` all of a protocol, `ANY` TCP, UDP and SCTP.
pub(crate) fn of_cilium(rule: &Value, receiver: &End, traffic: &Traffic) -> bool {
    let (ports, icmps) = (items(rule, "/toPorts"), items(rule, "/icmps"));
    if ports.is_empty() && icmps.is_empty() {
        return true;
    }
    let in_ports = ports.iter().flat_map(|entry| items(entry, "/ports")).any(|port| {
        let protocol = match text(port, "/protocol") {
            "" => "ANY",
            other => other,
        };
        let any = ["TCP", "UDP", "SCTP"].contains(&traffic.protocol.as_str());
        let meant = if protocol == "ANY" { any } else { protocol == traffic.protocol };
        meant
            && match text(port, "/port").parse::<u64>() {
                Ok(0) => true,
                Ok(first) => {
                    let last = port.get("endPort").and_then(Value::as_u64).filter(|last| *last > 0);
                    (first..=last.unwrap_or(first)).contains(&traffic.number)
                }
                Err(_) => is_named(text(port, "/port"), &traffic.protocol, receiver, traffic),
            }
    });
    // Cilium docs, "Limit ICMP/ICMPv6 types": the family is IPv4 if it is absent.
    let in_types = icmps.iter().flat_map(|entry| items(entry, "/fields")).any(|field| {
        let protocol = if text(field, "/family") == "IPv6" { "ICMPv6" } else { "ICMP" };
        protocol == traffic.protocol
            && field.get("type").and_then(Value::as_u64) == Some(traffic.number)
    });
    in_ports || in_types
}

/// A name is a port of the end that receives.
fn is_named(name: &str, protocol: &str, receiver: &End, traffic: &Traffic) -> bool {
    let has = |(one, of, number): &(String, String, u64)| {
        one == name && of == protocol && of == &traffic.protocol && *number == traffic.number
    };
    receiver.ports.iter().any(has)
}
