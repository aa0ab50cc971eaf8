//! The state that an agent keeps on disk for a start that finds nothing else: the last reported state of each cluster
//! ([`Snapshot`]), and the addresses of the etcds ([`encode_addresses`]).
//!
//! A file is lines of JSON behind a header: its version, its length and a checksum of everything after it. If it is
//! torn, damaged, of a later version or of another cluster, it is an error with its reason, and never half of a state.
//! The first line has the identities and addresses; each other one is a record, in the form that clusters export to each other (`docs/wire.md`), so that they are checked like any
//! others when they are restored.
//!
//! Architecture invariant: bytes in, values out, and back. No IO, no time.

mod head;
mod header;
mod snapshot;

use std::{collections::BTreeMap, net::IpAddr};

pub use header::HeaderError;
pub use snapshot::{Loaded, Part, Snapshot, SnapshotError};

/// Where hosts were when they were last reached.
pub type HostAddresses = BTreeMap<String, Vec<IpAddr>>;

/// The addresses as a file.
pub fn encode_addresses(addresses: &HostAddresses) -> Vec<u8> {
    header::seal(&serde_json::to_vec(addresses).unwrap_or_default())
}

/// The addresses of a file.
///
/// # Errors
/// When it is not as [`encode_addresses`] makes one.
pub fn decode_addresses(file: &[u8]) -> Result<HostAddresses, SnapshotError> {
    Ok(serde_json::from_slice(header::open(file)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        let addresses = HostAddresses::from([(
            "etcd.example".into(),
            vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        )]);
        let file = encode_addresses(&addresses);
        assert_eq!(decode_addresses(&file).unwrap(), addresses);
        assert!(decode_addresses(&file[..file.len() - 1]).is_err());
    }
}
