//! The last reported state of one cluster.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh_model::{ClusterId, ClusterLimit, ClusterName, KnownIdentities, Record, excerpt};
use mesh_wire::{Key, Layout, Peer, Role, decode, encode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    head::Head,
    header::{self, HeaderError},
};

/// The last reported state of a cluster, as far as tables, routes and policies need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its ID then.
    pub id: ClusterId,
    /// Which cluster it was, if it reported that.
    pub uuid: Option<Uuid>,
    /// Its nodes and services.
    pub records: Vec<Record>,
    /// Its identities and addresses.
    pub known: KnownIdentities,
}

/// How much of a file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// Identities and addresses. The records are not looked at.
    Identities,
}

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// All that could be read.
    pub snapshot: Snapshot,
    /// The first record that could not be read and why, with the number of such records.
    pub rejected: Option<(usize, String)>,
}

/// Why a file is no snapshot of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is not whole, or none of ours.
    #[error(transparent)]
    HeaderError(#[from] HeaderError),
    /// Whole, and not what it should be.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It does not name its cluster.
    #[error("it names no cluster")]
    Headless,
    /// It is another cluster's.
    #[error("it is of cluster {found}")]
    Cluster {
        /// The cluster in the file.
        found: String,
    },
    /// The ID is none that this mesh allows.
    #[error("{0} is not a cluster ID here")]
    Id(u32),
}

/// Every other line: a key with its value, in base64 where it is no text.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(flatten)]
    value: Value,
}

#[derive(Serialize, Deserialize)]
enum Value {
    #[serde(rename = "value")]
    Text(String),
    #[serde(rename = "value_b64")]
    Bytes(String),
}

// === impl Snapshot ===

impl Snapshot {
    /// The snapshot as a file.
    pub fn encode(&self) -> Vec<u8> {
        let Self { cluster, id, uuid, records, known } = self;
        let head = Head::new(cluster, *id, *uuid, known);
        let mut content = serde_json::to_vec(&head).unwrap_or_default();
        for record in records {
            let key = Key::of_record(Layout::State, cluster, record.key()).to_string();
            let value = match String::from_utf8(encode(record)) {
                Ok(text) => Value::Text(text),
                Err(error) => Value::Bytes(STANDARD.encode(error.as_bytes())),
            };
            content.push(b'\n');
            content.extend(serde_json::to_vec(&Line { key, value }).unwrap_or_default());
        }
        header::seal(&content)
    }

    /// The snapshot of a cluster in a file. Records that cannot be read are left out; in another cluster's snapshot
    /// these include all that are for local nodes only.
    ///
    /// # Errors
    /// When the file is not as [`Snapshot::encode`] makes one of that cluster.
    pub fn decode(
        cluster: &ClusterName,
        role: Role,
        limit: ClusterLimit,
        part: Part,
        file: &[u8],
    ) -> Result<Loaded, SnapshotError> {
        let mut lines = header::open(file)?.split(|byte| *byte == b'\n');
        let head = lines.next().filter(|line| !line.is_empty()).ok_or(SnapshotError::Headless)?;
        let head: Head<'_> = serde_json::from_slice(head)?;
        if head.cluster != cluster.as_str() {
            return Err(SnapshotError::Cluster { found: excerpt(&head.cluster, 64).into_owned() });
        }
        let id = ClusterId::new(head.id, limit).map_err(|_| SnapshotError::Id(head.id))?;
        let uuid = head.uuid;
        let (name, layout) = (cluster.clone(), Layout::State);
        let peer = Peer { name, role, id, limit, layout };
        let mut records = Vec::new();
        let mut rejected: Option<(usize, String)> = None;
        let mut reject = |reason: String| {
            let (count, last) = rejected.get_or_insert((0, String::new()));
            *count += 1;
            *last = reason;
        };
        let known = head.known(&peer, &mut reject);
        for line in lines.take_while(|_| part == Part::All) {
            let Line { key, value } = serde_json::from_slice(line)?;
            match record(&peer, &key, value) {
                Ok(found) => records.extend(found),
                Err(reason) => reject(reason),
            }
        }
        let snapshot = Self { cluster: cluster.clone(), id, uuid, records, known };
        Ok(Loaded { snapshot, rejected })
    }
}

/// The record in a line, or what is wrong with it.
fn record(peer: &Peer, key: &str, value: Value) -> Result<Option<Record>, String> {
    let bytes = match value {
        Value::Text(text) => text.into_bytes(),
        Value::Bytes(text) => {
            STANDARD.decode(text).map_err(|error| format!("{key}: base64: {error}"))?
        }
    };
    decode(peer, key.as_bytes(), &bytes).map_err(|rejected| rejected.to_string())
}

#[cfg(test)]
mod tests;
