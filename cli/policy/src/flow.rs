//! Flows as users write them.

use std::net::IpAddr;

use mesh_model::{NamedPort, Protocol};
use mesh_policy::Traffic;
use mesh_policy_rules::{IcmpFamily, icmp_type};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::problem::Problem;

/// One question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Flow {
    /// The end that sends: an endpoint's name, `cluster/namespace/pod`, `namespace/pod`, or an address.
    pub from: String,
    /// The end that receives.
    pub to: String,
    /// TCP where it is absent, or ICMP where there is an ICMP type.
    #[serde(default)]
    pub protocol: Option<FlowProtocol>,
    /// The port of the end that receives; a number, also as text.
    #[serde(default, deserialize_with = "port")]
    pub port: Option<u16>,
    /// The port's name in its place.
    #[serde(default)]
    pub port_name: Option<String>,
    /// The ICMP type, as number or name.
    #[serde(default)]
    pub icmp_type: Option<IcmpType>,
}

/// The protocols of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum FlowProtocol {
    /// TCP.
    #[serde(rename = "TCP", alias = "tcp")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP", alias = "udp")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP", alias = "sctp")]
    Sctp,
    /// ICMP, or ICMPv6 between ends that have IPv6 only.
    #[serde(rename = "ICMP", alias = "icmp", alias = "ICMPv4")]
    Icmp,
    /// ICMPv6.
    #[serde(rename = "ICMPv6", alias = "icmpv6", alias = "ICMPV6")]
    Icmpv6,
}

/// An ICMP type.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "an ICMP type is a number of 0 to 255, or a name")]
pub enum IcmpType {
    /// By number (IANA, "ICMP Parameters").
    Number(u8),
    /// By Cilium's name, or a number as text.
    Name(String),
}

/// The ports that are asked for, before the ends are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Port(Protocol, u16),
    Name(Option<Protocol>, String),
    Icmp(Option<IcmpFamily>, IcmpType),
}

/// A port as a number or as its text.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a port is a number from 0 to 65535")]
    enum Port {
        Number(u16),
        Text(String),
    }
    match Option::<Port>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Port::Number(number)) => Ok(Some(number)),
        Some(Port::Text(text)) => text.parse().map(Some).map_err(|_| {
            D::Error::custom(format!("{text:?} is no port number; a name is a portName"))
        }),
    }
}

// === impl Flow ===

impl Flow {
    /// Its protocol and port for people.
    pub fn port_text(&self) -> String {
        let protocol = match self.protocol {
            Some(FlowProtocol::Udp) => "UDP",
            Some(FlowProtocol::Sctp) => "SCTP",
            Some(FlowProtocol::Icmp) => "ICMP",
            Some(FlowProtocol::Icmpv6) => "ICMPv6",
            None if self.icmp_type.is_some() => "ICMP",
            Some(FlowProtocol::Tcp) | None => "TCP",
        };
        let port = match (&self.icmp_type, self.port, &self.port_name) {
            (Some(IcmpType::Number(number)), ..) => number.to_string(),
            (Some(IcmpType::Name(name)), ..) => name.clone(),
            (None, Some(port), _) => port.to_string(),
            (None, None, name) => name.clone().unwrap_or_default(),
        };
        format!("{port}/{protocol}")
    }

    /// Checks that the fields go together.
    pub(crate) fn asked(&self, part: &str) -> Result<Asked, Problem> {
        let refuse = |field: &str, reason: &str| Err(Problem::new(part, field, reason));
        let protocol = match self.protocol {
            Some(FlowProtocol::Tcp) => Some(Protocol::Tcp),
            Some(FlowProtocol::Udp) => Some(Protocol::Udp),
            Some(FlowProtocol::Sctp) => Some(Protocol::Sctp),
            Some(FlowProtocol::Icmp | FlowProtocol::Icmpv6) | None => None,
        };
        let is_icmp = matches!(self.protocol, Some(FlowProtocol::Icmp | FlowProtocol::Icmpv6));
        match (&self.icmp_type, self.port, &self.port_name) {
            (Some(kind), None, None) if is_icmp || self.protocol.is_none() => {
                let v6 = self.protocol == Some(FlowProtocol::Icmpv6);
                Ok(Asked::Icmp(v6.then_some(IcmpFamily::V6), kind.clone()))
            }
            (Some(_), None, None) => refuse("icmpType", "the protocol has no ICMP types"),
            (Some(_), ..) => refuse("icmpType", "ICMP has no ports"),
            (None, ..) if is_icmp => refuse("icmpType", "it is missing; 8 is an echo request"),
            (None, Some(_), Some(_)) => refuse("portName", "give port or portName"),
            (None, Some(port), None) => Ok(Asked::Port(protocol.unwrap_or(Protocol::Tcp), port)),
            (None, None, Some(name)) => Ok(Asked::Name(protocol, name.clone())),
            (None, None, None) => refuse("port", "it is missing; or give portName or icmpType"),
        }
    }
}

// === impl Asked ===

impl Asked {
    /// What the flow carries to an end with these named ports.
    pub(crate) fn traffic(
        &self,
        ports: &[NamedPort],
        v6: bool,
        part: &str,
    ) -> Result<Traffic, Problem> {
        match self {
            Self::Port(protocol, port) => Ok(Traffic::Port(*protocol, *port)),
            Self::Icmp(family, kind) => {
                let by_address = if v6 { IcmpFamily::V6 } else { IcmpFamily::V4 };
                let family = family.unwrap_or(by_address);
                Ok(Traffic::Icmp(family, kind.number(family, part)?))
            }
            Self::Name(protocol, name) => {
                let meant = |port: &&NamedPort| {
                    port.name == *name && protocol.is_none_or(|one| one == port.port.protocol)
                };
                let mut found = ports.iter().filter(meant);
                let refuse = |reason: &str| {
                    let reason = format!("the receiving end has {reason} of the name {name:?}");
                    Err(Problem::new(part, "portName", reason))
                };
                match (found.next(), found.next()) {
                    (Some(one), None) => Ok(Traffic::Port(one.port.protocol, one.port.number)),
                    (None, _) => refuse("no port"),
                    (Some(_), Some(_)) => refuse("several ports"),
                }
            }
        }
    }

    /// The families that it can have: IPv4, IPv6.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        match self {
            Self::Icmp(Some(IcmpFamily::V6), _) => address.is_ipv6(),
            Self::Icmp(Some(IcmpFamily::V4), _) => address.is_ipv4(),
            Self::Icmp(None, _) | Self::Port(..) | Self::Name(..) => true,
        }
    }
}

// === impl IcmpType ===

impl IcmpType {
    fn number(&self, family: IcmpFamily, part: &str) -> Result<u8, Problem> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Name(name) => {
                let number = name.parse().ok().or_else(|| icmp_type(family, name));
                number.ok_or_else(|| {
                    Problem::new(part, "icmpType", format!("{name:?} is no ICMP type"))
                })
            }
        }
    }
}
