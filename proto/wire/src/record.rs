//! Decodes keys and values into records, and encodes records.

use mesh_model::{Record, RecordKey};

use crate::{
    check::{expect, identity_of},
    endpoint_slice,
    error::{DecodeError, Rejected},
    excerpt::shown,
    identity, ip,
    key::{Key, Prefix},
    limits::{self, Limit},
    local, local_policy, local_service, local_slice, node,
    peer::{Peer, Role},
    service,
};

/// The result of decoding a key and its value.
#[derive(Debug)]
pub struct Decoded {
    /// The record; `None` if the key is not that of a record (a canary, a lock, a key of a later version).
    pub record: Result<Option<Record>, Rejected>,
    /// The size of the value in bytes, decompressed if it is compressed.
    pub bytes: usize,
}

/// Decodes a key of `peer` and its value. `None`: the key is not that of a record (a canary, a lock, a key of a later
/// version).
///
/// # Errors
/// If the key or the value is invalid, or they do not agree with each other or with `peer`.
pub fn decode(peer: &Peer, key: &[u8], value: &[u8]) -> Result<Option<Record>, Rejected> {
    decode_counting(peer, key, value).record
}

/// Like [`decode`], and also returns the size of the value.
pub fn decode_counting(peer: &Peer, key: &[u8], value: &[u8]) -> Decoded {
    let mut bytes = value.len();
    let record =
        decode_record(peer, key, value, &mut bytes).map_err(|reason| rejected(key, reason));
    Decoded { record, bytes }
}

fn decode_record(
    peer: &Peer,
    key: &[u8],
    value: &[u8],
    bytes: &mut usize,
) -> Result<Option<Record>, DecodeError> {
    let Some(record_key) = record_key(peer, key)? else {
        return Ok(None);
    };
    value_limit(&record_key).check(value.len())?;
    let record = match &record_key {
        RecordKey::Node(name) => node::decode(peer, name, value),
        RecordKey::Identity(id) => identity::decode(peer, *id, value),
        RecordKey::Address(net) => ip::decode(peer, *net, value),
        RecordKey::Service(name) => service::decode(peer, name, value),
        RecordKey::EndpointSlice(name) => endpoint_slice::decode(peer, name, value, bytes),
        RecordKey::Namespace(name) => local::decode_namespace(name, value),
        RecordKey::Pod { node, namespace, name } => {
            local::decode_pod(peer, node, namespace, name, value)
        }
        RecordKey::LocalService(name) => local_service::decode(name, value),
        RecordKey::LocalEndpointSlice(name) => local_slice::decode(peer, name, value),
        RecordKey::Policy(policy) => local_policy::decode(policy, value),
    };
    record.map(Some)
}

/// The maximum size of a record's value.
fn value_limit(key: &RecordKey) -> Limit {
    match key {
        RecordKey::Node(_) => limits::NODE_VALUE,
        RecordKey::Identity(_) => limits::IDENTITY,
        RecordKey::Address(_) | RecordKey::Pod { .. } => limits::SMALL_VALUE,
        RecordKey::Namespace(_) => limits::NODE_VALUE,
        RecordKey::Service(_)
        | RecordKey::EndpointSlice(_)
        | RecordKey::LocalService(_)
        | RecordKey::LocalEndpointSlice(_) => limits::SERVICE_VALUE,
        RecordKey::Policy(_) => limits::POLICY_VALUE,
    }
}

/// Decodes the key of a deleted record. `None`: the key is not that of a record.
///
/// # Errors
/// If the key is invalid, or does not belong to `peer`.
pub fn decode_removal(peer: &Peer, key: &[u8]) -> Result<Option<RecordKey>, Rejected> {
    record_key(peer, key).map_err(|reason| rejected(key, reason))
}

/// Encodes a record's value.
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
        Record::Policy(policy) => local_policy::encode(policy),
    }
}

fn record_key(peer: &Peer, key: &[u8]) -> Result<Option<RecordKey>, DecodeError> {
    let Key::Record { layout, cluster, record } = Key::parse(key)? else {
        return Ok(None);
    };
    if Prefix::of(record.kind()) == Prefix::Local && peer.role == Role::Remote {
        return Err(DecodeError::NotLocal);
    }
    if layout != peer.layout {
        return Ok(None);
    }
    if let Some(cluster) = cluster {
        expect("the cluster in the key", cluster.as_str(), peer.name.as_str())?;
    }
    if let RecordKey::Identity(id) = &record {
        identity_of(peer, *id)?;
    }
    Ok(Some(record))
}

fn rejected(key: &[u8], reason: DecodeError) -> Rejected {
    Rejected { key: shown(&String::from_utf8_lossy(key)), reason }
}
