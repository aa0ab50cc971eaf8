//! Identities and addresses of a cluster, as a node keeps them for its next start.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::identity::Identity;

/// What was known of a cluster's identities and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownIdentities {
    /// Identities with their labels as text.
    pub identities: Vec<(Identity, Arc<str>)>,
    /// Addresses, as the cluster reported them.
    pub addresses: Vec<KnownAddress>,
    /// Addresses that the cluster claims, and another one had.
    pub second: Vec<IpAddr>,
}

/// An address of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownAddress {
    /// The address as a prefix, normally of full length.
    pub net: IpNet,
    /// Its identity.
    pub identity: Identity,
    /// The address of the node that it is on, if known.
    pub host: Option<IpAddr>,
}
