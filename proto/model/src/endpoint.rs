//! Pod addresses and the identity behind each.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{identity::Identity, service::Port};

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its number and protocol.
    pub port: Port,
}

/// An address record (`cilium/state/ip/v1/default/<ip>`): who is behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointAddress {
    /// A host address; a shorter prefix only from foreign writers.
    pub net: IpNet,
    /// The node it is on, where known.
    pub host: Option<IpAddr>,
    /// Who it is; [`Identity::UNKNOWN`] while the writer does not know.
    pub identity: Identity,
    /// IPsec key index; 0 is plain text.
    pub encryption_key: u8,
    /// Free text of the writer, normally empty.
    pub metadata: String,
    /// The pod's namespace, or empty.
    pub namespace: String,
    /// The pod's name, or empty.
    pub pod: String,
    /// The pod's service account, or empty.
    pub service_account: String,
    /// The pod's named ports.
    pub named_ports: Vec<NamedPort>,
}
