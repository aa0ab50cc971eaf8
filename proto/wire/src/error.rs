//! Why a record is rejected.

use std::str::Utf8Error;

use crate::{excerpt, key::InvalidKey};

/// A rejected record. A reader keeps the previous value of its key.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {}", excerpt::reason(&reason.to_string()))]
pub struct Rejected {
    /// Its key, shortened if it is long.
    pub key: String,
    /// What is wrong.
    #[source]
    pub reason: DecodeError,
}

/// What is wrong with a value or its key.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The key is invalid.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// Not JSON of the expected shape.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A text is not UTF-8.
    #[error("not UTF-8: {0}")]
    Utf8(#[from] Utf8Error),
    /// Not a zstd frame, or truncated.
    #[error("zstd: {0}")]
    Zstd(String),
    /// Not the expected protobuf message.
    #[error("protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// Larger than the limit.
    #[error("{what}: more than {limit}")]
    TooLarge {
        /// What is counted, with its unit.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A number is out of range.
    #[error("{field} is {found}: it is {allowed}")]
    Range {
        /// The field.
        field: &'static str,
        /// The number.
        found: u32,
        /// The valid range.
        allowed: &'static str,
    },
    /// A cluster ID is above 511.
    #[error("{id} is not a cluster ID")]
    ClusterId {
        /// The number.
        id: u32,
    },
    /// The cluster's UUID is not a UUID.
    #[error("{uuid:?} is not a UUID: {source}")]
    Uuid {
        /// The text.
        uuid: String,
        /// Why.
        source: uuid::Error,
    },
    /// An address, prefix or mask is invalid.
    #[error("{field}: {text:?} is {reason}")]
    Address {
        /// The field.
        field: &'static str,
        /// The text, shortened if it is long.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An identity of a peer has a label that says that it is no pod.
    #[error("the label {of}:{key}: a peer may not give its pods labels of the source {of}")]
    LabelSource {
        /// The label's source.
        of: String,
        /// Its key.
        key: String,
    },
    /// A value of an enumeration, or a name, is invalid.
    #[error("{field}: {text:?} is not allowed here")]
    Word {
        /// The field.
        field: &'static str,
        /// The text, shortened if it is long.
        text: String,
    },
    /// A field is missing.
    #[error("{field}: it is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// The record has an unknown version.
    #[error("version {0} is not known")]
    Version(u32),
    /// The key is only for nodes of the writer's cluster.
    #[error("the key is only for the local cluster's nodes")]
    NotLocal,
    /// The value does not agree with its key or with the peer.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

/// A field of a record does not have the expected value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}, expected {expected}")]
pub struct Mismatch {
    /// The field.
    pub field: &'static str,
    /// The value in the record.
    pub found: String,
    /// The expected value.
    pub expected: String,
}
