//! Pod addresses and their identities.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{identity::Identity, service::Port};

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its port number and protocol.
    pub port: Port,
}

/// An address record (`cilium/state/ip/v1/default/<ip>`): the identity of an address, and the pod that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointAddress {
    /// The address as a prefix of full length. Only other writers than ours use shorter prefixes.
    pub net: IpNet,
    /// The address of the node that it is on, if known.
    pub host: Option<IpAddr>,
    /// Its identity; [`Identity::UNKNOWN`] while the writer does not know it.
    pub identity: Identity,
    /// The IPsec key index; 0: not encrypted.
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
