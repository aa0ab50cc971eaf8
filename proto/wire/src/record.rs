//! From a key and its value to a record that both agree with, and back.

use std::{fmt, str::Utf8Error};

use mesh_model::{ClusterId, ClusterLimit, ClusterName, Identity, Record, RecordKey};

use crate::{
    endpoint_slice, identity, ip,
    key::{InvalidKey, Key, Layout, Prefix},
    local, local_service, local_slice, node, service,
};

/// Whether a followed cluster is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ours: it must have our number, and tells its own nodes more than others.
    Own,
    /// Another: it must have another number.
    Remote,
}

/// Whom a reader believes to be talking to: every record is checked against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The peer's name, that of its configuration file.
    pub name: ClusterName,
    /// Whether it is the reader's own.
    pub role: Role,
    /// The number in its cluster config.
    pub id: ClusterId,
    /// The limit the whole mesh shares.
    pub limit: ClusterLimit,
    /// The tree its data is in.
    pub layout: Layout,
}

/// A record that was not taken, and why. The value that was there before stays.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Rejected {
    /// Its key, shortened where it is long.
    pub key: String,
    /// What is wrong.
    #[source]
    pub reason: DecodeError,
}

/// What is wrong with a value or its key.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The key means nothing.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// Not the JSON that belongs there.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Text that is none.
    #[error("not UTF-8: {0}")]
    Utf8(#[from] Utf8Error),
    /// Not a zstd frame, or cut short.
    #[error("zstd: {0}")]
    Zstd(String),
    /// Not the protobuf message that belongs there.
    #[error("protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// More than any valid value of its kind.
    #[error("{what}: more than {limit}")]
    TooLarge {
        /// What is counted, with its unit.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// A number outside of what is allowed.
    #[error("{field} is {found}: it is {allowed}")]
    Range {
        /// The field it stands in.
        field: &'static str,
        /// The number.
        found: u32,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A cluster id outside every limit.
    #[error("{id} is no cluster id")]
    ClusterId {
        /// The number.
        id: u32,
    },
    /// A cluster UUID that is none.
    #[error("{uuid:?} is no UUID: {source}")]
    Uuid {
        /// The text.
        uuid: String,
        /// Why.
        source: uuid::Error,
    },
    /// An address, prefix or mask that is none.
    #[error("{field}: {text:?} is {reason}")]
    Address {
        /// The field it stands in.
        field: &'static str,
        /// The text, shortened where it is long.
        text: String,
        /// What it is instead.
        reason: &'static str,
    },
    /// A word that is none of those allowed.
    #[error("{field}: {text:?} is not allowed here")]
    Word {
        /// The field it stands in.
        field: &'static str,
        /// The text, shortened where it is long.
        text: String,
    },
    /// Of a version that is not known.
    #[error("version {0} is not known")]
    Version(u32),
    /// A key that is for the writer's own nodes, and is read from nobody else.
    #[error("only the own cluster's nodes are told that")]
    NotOwn,
    /// The value contradicts its key, or the peer.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

/// A contradiction between a record and what it should agree with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}, expected {expected}")]
pub struct Mismatch {
    /// What is contradicted.
    pub field: &'static str,
    /// What the record says.
    pub found: String,
    /// What it should say.
    pub expected: String,
}

/// How much of a peer's text an error repeats.
const SHOWN: usize = 120;

/// Reads a key of `peer` and its value. `None`: the key is no record (a canary, a lock, something newer).
pub fn decode(peer: &Peer, key: &[u8], value: &[u8]) -> Result<Option<Record>, Rejected> {
    let Some(record_key) = decode_removal(peer, key)? else {
        return Ok(None);
    };
    let record = match &record_key {
        RecordKey::Node(name) => node::decode(peer, name, value),
        RecordKey::Identity(number) => identity::decode(peer, *number, value),
        RecordKey::Address(net) => ip::decode(peer, *net, value),
        RecordKey::Service(name) => service::decode(peer, name, value),
        RecordKey::EndpointSlice(name) => endpoint_slice::decode(peer, name, value),
        RecordKey::Namespace(name) => local::decode_namespace(name, value),
        RecordKey::Pod { node, namespace, name } => {
            local::decode_pod(peer, node, namespace, name, value)
        }
        RecordKey::LocalService(name) => local_service::decode(name, value),
        RecordKey::LocalEndpointSlice(name) => local_slice::decode(peer, name, value),
    };
    record.map(Some).map_err(|reason| rejected(key, reason))
}

/// Reads the key of a removed record. `None`: the key is no record.
pub fn decode_removal(peer: &Peer, key: &[u8]) -> Result<Option<RecordKey>, Rejected> {
    record_key(peer, key).map_err(|reason| rejected(key, reason))
}

/// The value of a record, as a cluster writes it about itself.
pub fn encode(record: &Record) -> Vec<u8> {
    match record {
        Record::Node(node) => node::encode(node),
        Record::Identity(_, labels) => identity::encode(labels),
        Record::Address(address) => ip::encode(address),
        Record::Service(service) => service::encode(service),
        Record::EndpointSlice(slice) => endpoint_slice::encode(slice),
        Record::Namespace(namespace) => local::encode_namespace(namespace),
        Record::Pod(pod) => local::encode_pod(pod),
        Record::LocalService(service) => local_service::encode(service),
        Record::LocalEndpointSlice(slice) => local_slice::encode(slice),
    }
}

fn record_key(peer: &Peer, key: &[u8]) -> Result<Option<RecordKey>, DecodeError> {
    let Key::Record { layout, cluster, record } = Key::parse(key)? else {
        return Ok(None);
    };
    if Prefix::of(record.kind()) == Prefix::Local && peer.role == Role::Remote {
        return Err(DecodeError::NotOwn);
    }
    if layout != peer.layout {
        return Ok(None);
    }
    if let Some(cluster) = cluster {
        expect("the cluster in the key", cluster.as_str(), peer.name.as_str())?;
    }
    if let RecordKey::Identity(number) = &record {
        identity_of(peer, *number)?;
    }
    Ok(Some(record))
}

fn rejected(key: &[u8], reason: DecodeError) -> Rejected {
    Rejected { key: shown(&String::from_utf8_lossy(key)), reason }
}

/// Text of a peer as an error repeats it.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.into(),
        Some((end, _)) => format!("{}…", text.split_at(end).0),
    }
}

/// Checks that a record says what it must.
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

/// Checks the cluster and number that a value carries.
pub(crate) fn expect_cluster(peer: &Peer, name: &str, id: u32) -> Result<(), Mismatch> {
    expect("the cluster", name, peer.name.as_str())?;
    expect("the cluster id", id, u32::from(peer.id.get()))
}

/// Checks that an identity is the peer's to number.
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

/// Reads an address field.
pub(crate) fn address(field: &'static str, text: &str) -> Result<std::net::IpAddr, DecodeError> {
    let address: Result<std::net::IpAddr, _> = text.parse();
    address.map(|a| a.to_canonical()).map_err(|_| DecodeError::Address {
        field,
        text: shown(text),
        reason: "not an IP address",
    })
}

/// Reads an address field that may be empty.
pub(crate) fn optional_address(
    field: &'static str,
    text: &str,
) -> Result<Option<std::net::IpAddr>, DecodeError> {
    if text.is_empty() { Ok(None) } else { address(field, text).map(Some) }
}
