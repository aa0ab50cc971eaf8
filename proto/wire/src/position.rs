//! The position of a replica: up to where it has written its source to its etcd (`docs/wire.md`, "Position").
//!
//! Each replica of a cluster has its own etcd, and revisions of different etcds cannot be compared. The positions in the
//! source, which all replicas share, can: `{"v":1,"source":{"Service":"4711"},"unixNano":1795223765000000000}`.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{error::DecodeError, limits};

/// A replica's position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// For each kind of object, the resource version up to which the etcd has everything.
    pub source: BTreeMap<String, String>,
    /// When the replica wrote it, in nanoseconds since the epoch.
    pub unix_nano: u64,
}

/// Why a value cannot be decoded as a position.
#[derive(Debug, thiserror::Error)]
pub enum PositionError {
    /// Not JSON, or not of this shape.
    #[error("not a position: {0}")]
    Json(#[from] serde_json::Error),
    /// Larger than a limit.
    #[error("{0}")]
    TooLarge(DecodeError),
    /// The position has an unknown version.
    #[error("a position of version {0}; known is version {VERSION}")]
    Version(u32),
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    v: u32,
    source: BTreeMap<String, String>,
    unix_nano: u64,
}

impl Position {
    /// A position that is written at `now`.
    pub fn new(source: BTreeMap<String, String>, now: SystemTime) -> Self {
        let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Self { source, unix_nano: u64::try_from(nanos).unwrap_or(u64::MAX) }
    }

    /// Decodes a value.
    pub fn decode(value: &[u8]) -> Result<Self, PositionError> {
        let limits = |json: &Json| {
            limits::POSITION_KINDS.check(json.source.len())?;
            limits::NAME.texts(json.source.keys().chain(json.source.values()))
        };
        limits::SMALL_VALUE.check(value.len()).map_err(PositionError::TooLarge)?;
        let json: Json = serde_json::from_slice(value)?;
        limits(&json).map_err(PositionError::TooLarge)?;
        if json.v != VERSION {
            return Err(PositionError::Version(json.v));
        }
        Ok(Self { source: json.source, unix_nano: json.unix_nano })
    }

    /// Encodes the value.
    pub fn encode(&self) -> Vec<u8> {
        let json = Json { v: VERSION, source: self.source.clone(), unix_nano: self.unix_nano };
        // It cannot fail: the keys of the map are strings.
        serde_json::to_vec(&json).unwrap_or_default()
    }

    /// Whether this position is at or after `other` for each kind.
    pub fn has_reached(&self, other: &Self) -> bool {
        other
            .source
            .iter()
            .all(|(kind, theirs)| self.source.get(kind).is_some_and(|ours| !is_later(theirs, ours)))
    }

    /// Advances each kind to the version in `other` if that is later. If this exceeds the maximum number of kinds, because
    /// a peer reports different ones each time, the kinds of `other` replace all.
    pub fn advance(&mut self, other: &Self) {
        for (kind, version) in &other.source {
            match self.source.get(kind) {
                Some(ours) if !is_later(version, ours) => {}
                _ => {
                    self.source.insert(kind.clone(), version.clone());
                }
            }
        }
        if limits::POSITION_KINDS.check(self.source.len()).is_err() {
            self.source.clone_from(&other.source);
        }
        self.unix_nano = self.unix_nano.max(other.unix_nano);
    }
}

/// Whether a resource version is later than another. In Kubernetes they are increasing numbers (KEP-5504). If one is not a
/// number, a different one counts as later.
fn is_later(version: &str, than: &str) -> bool {
    match (version.parse::<u128>(), than.parse::<u128>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(source: &[(&str, &str)]) -> Position {
        let source = source.iter().map(|(kind, v)| ((*kind).into(), (*v).into())).collect();
        Position { source, unix_nano: 7 }
    }

    #[test]
    fn round_trip() {
        let all = position(&[("Pod", "10"), ("Service", "4711")]);
        let text = r#"{"v":1,"source":{"Pod":"10","Service":"4711"},"unixNano":7}"#;
        assert_eq!(String::from_utf8(all.encode()).unwrap(), text);
        assert_eq!(Position::decode(text.as_bytes()).unwrap(), all);
        for bad in ["", "{}", r#"{"v":2,"source":{},"unixNano":7}"#, r#"{"v":1,"source":{"a":1}}"#]
        {
            assert!(Position::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_number_of_kinds_is_limited() {
        let kinds = |from: usize, count: usize| Position {
            source: (from..from + count).map(|n| (format!("kind{n}"), "1".into())).collect(),
            unix_nano: 7,
        };
        assert!(Position::decode(&kinds(0, 16).encode()).is_ok());
        let error = Position::decode(&kinds(0, 17).encode()).unwrap_err().to_string();
        assert!(error.contains("kinds in a position"), "{error}");
        let mut seen = kinds(0, 16);
        for from in 1..100 {
            seen.advance(&kinds(from * 16, 16));
            assert_eq!(seen, kinds(from * 16, 16));
        }
        seen.advance(&kinds(99 * 16, 3));
        assert_eq!(seen, kinds(99 * 16, 16));
    }

    #[test]
    fn positions_are_compared_by_kind() {
        for (one, other, reached) in [
            (&[("Pod", "10")][..], &[("Pod", "9")][..], true),
            (&[("Pod", "10")], &[("Pod", "10")], true),
            (&[("Pod", "9")], &[("Pod", "10")], false),
            (&[("Pod", "10"), ("Service", "1")], &[("Pod", "9"), ("Service", "2")], false),
            (&[("Pod", "10")], &[("Pod", "9"), ("Service", "2")], false),
            (&[("Pod", "10"), ("Node", "1")], &[("Pod", "9")], true),
            (&[("Pod", "x")], &[("Pod", "y")], false),
            (&[], &[], true),
        ] {
            assert_eq!(position(one).has_reached(&position(other)), reached, "{one:?} {other:?}");
            let mut both = position(one);
            both.advance(&position(other));
            assert!(both.has_reached(&position(other)), "{one:?} {other:?}");
        }
    }
}
