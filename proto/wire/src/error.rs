//! Why a record is not taken.

use std::str::Utf8Error;

use crate::{excerpt, key::InvalidKey};

/// A record that was not taken, and why. The value that was there before stays.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {}", excerpt::reason(&reason.to_string()))]
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
        /// The field it is in.
        field: &'static str,
        /// The number.
        found: u32,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A cluster id outside every limit.
    #[error("{id} is not a cluster ID")]
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
        /// The field it is in.
        field: &'static str,
        /// The text, shortened where it is long.
        text: String,
        /// What it is instead.
        reason: &'static str,
    },
    /// A word that is none of those allowed.
    #[error("{field}: {text:?} is not allowed here")]
    Word {
        /// The field it is in.
        field: &'static str,
        /// The text, shortened where it is long.
        text: String,
    },
    /// Of a version that is not known.
    #[error("version {0} is not known")]
    Version(u32),
    /// A key that is for the writer's own nodes, and is read from no other cluster.
    #[error("only the local cluster's nodes get that")]
    NotLocal,
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
