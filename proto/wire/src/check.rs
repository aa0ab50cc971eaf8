//! Checks of values: against their key, against their cluster, and of single fields.

use std::fmt;

use mesh_model::Identity;

use crate::{
    error::{DecodeError, Mismatch},
    excerpt::shown,
    peer::Peer,
};

/// Checks that a field has the expected value.
pub(crate) fn expect<T: fmt::Display + PartialEq>(
    field: &'static str,
    found: T,
    expected: T,
) -> Result<(), Mismatch> {
    if found == expected {
        return Ok(());
    }
    Err(Mismatch { field, found: shown(&found.to_string()), expected: expected.to_string() })
}

/// Checks the cluster name and cluster ID in a value.
pub(crate) fn expect_cluster(peer: &Peer, name: &str, id: u32) -> Result<(), Mismatch> {
    expect("the cluster", name, peer.name.as_str())?;
    expect("the cluster ID", id, u32::from(peer.id.get()))
}

/// Checks that an identity is in the range of the peer.
pub(crate) fn identity_of(peer: &Peer, identity: Identity) -> Result<(), Mismatch> {
    let range = peer.limit.identities(peer.id);
    if range.contains(&identity.get()) {
        return Ok(());
    }
    Err(Mismatch {
        field: "the identity",
        found: identity.to_string(),
        expected: format!("{} to {} (cluster {})", range.start(), range.end(), peer.id),
    })
}

/// Parses an address; an IPv4-mapped one becomes IPv4.
pub(crate) fn address(field: &'static str, text: &str) -> Result<std::net::IpAddr, DecodeError> {
    let address: Result<std::net::IpAddr, _> = text.parse();
    address.map(|a| a.to_canonical()).map_err(|_| DecodeError::Address {
        field,
        text: shown(text),
        reason: "not an IP address",
    })
}

/// The same for a field that may be empty.
pub(crate) fn optional_address(
    field: &'static str,
    text: &str,
) -> Result<Option<std::net::IpAddr>, DecodeError> {
    if text.is_empty() { Ok(None) } else { address(field, text).map(Some) }
}
