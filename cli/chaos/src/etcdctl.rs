//! Parses what `etcdctl --write-out=json` prints for `get` and for `watch --prev-kv`.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use mesh_model::excerpt;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::guarantees::{Event, PreviousValue, Response, Stored};

/// All keys of a range, at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The ID of the etcd cluster.
    pub cluster_id: u64,
    /// The store's revision at the time of the answer.
    pub revision: i64,
    /// Each key with its value and revisions.
    pub keys: BTreeMap<Vec<u8>, Stored>,
}

/// A line that is not the expected JSON.
#[derive(Debug, thiserror::Error)]
#[error("etcdctl printed {text:?}: {source}")]
pub struct NotEtcdctl {
    text: String,
    source: serde_json::Error,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Header {
    cluster_id: u64,
    revision: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RangeAnswer {
    header: Header,
    kvs: Vec<Kv>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct WatchAnswer {
    header: Header,
    events: Vec<WatchEvent>,
    compact_revision: i64,
    created: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WatchEvent {
    /// 0 is a put, 1 a deletion.
    r#type: i64,
    kv: Kv,
    prev_kv: Option<Kv>,
}

/// etcdctl leaves out fields that are empty or 0.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Kv {
    #[serde(deserialize_with = "bytes")]
    key: Vec<u8>,
    #[serde(deserialize_with = "bytes")]
    value: Vec<u8>,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
}

/// Parses the answer to `get`.
pub fn range(text: &str) -> Result<Range, NotEtcdctl> {
    let RangeAnswer { header, kvs } = read(text)?;
    let keys = kvs.into_iter().map(|kv| {
        let Kv { key, value, create_revision: created, mod_revision: modified, version } = kv;
        (key, Stored { value, created, modified, version })
    });
    Ok(Range { cluster_id: header.cluster_id, revision: header.revision, keys: keys.collect() })
}

/// Parses one line of `watch`. `None` if it reports only that the watch was created.
pub fn response(line: &str) -> Result<Option<Response>, NotEtcdctl> {
    let WatchAnswer { header, events, compact_revision, created } = read(line)?;
    Ok(match (events.is_empty(), compact_revision) {
        (false, _) => Some(Response::Events(events.into_iter().map(event).collect())),
        (true, 0) if created => None,
        (true, 0) => Some(Response::Progress(header.revision)),
        (true, compacted) => Some(Response::Compacted(compacted)),
    })
}

fn event(event: WatchEvent) -> Event {
    let WatchEvent { r#type, kv, prev_kv } = event;
    let put = r#type == 0;
    Event {
        key: kv.key,
        value: put.then_some(kv.value),
        revision: kv.mod_revision,
        created: put && kv.create_revision == kv.mod_revision,
        previous: prev_kv.map(|kv| PreviousValue { value: kv.value, modified: kv.mod_revision }),
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, NotEtcdctl> {
    serde_json::from_str(text)
        .map_err(|source| NotEtcdctl { text: excerpt(text, 200).into_owned(), source })
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64_STANDARD.decode(text).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Printed by etcdctl 3.4.23.
    const WATCHED: &str = r#"{"Header":{"cluster_id":324952591200643719,"member_id":3319814642761637952,"revision":5,"raft_term":2},"Events":[{"type":1,"kv":{"key":"eC8x","mod_revision":4},"prev_kv":{"key":"eC8x","create_revision":2,"mod_revision":3,"version":2,"value":"Yg=="}},{"kv":{"key":"eC8y","create_revision":5,"mod_revision":5,"version":1}}],"CompactRevision":0,"Canceled":false,"Created":false}"#;
    const COMPACTED: &str = r#"{"Header":{"cluster_id":324952591200643719,"member_id":3319814642761637952,"raft_term":2},"Events":[],"CompactRevision":4,"Canceled":true,"Created":false}"#;
    const RANGED: &str = r#"{"header":{"cluster_id":324952591200643719,"member_id":3319814642761637952,"revision":5,"raft_term":2},"kvs":[{"key":"eC8x","create_revision":2,"mod_revision":3,"version":2,"value":"Yg=="}],"count":1}"#;

    #[test]
    fn events_are_read() {
        let before = PreviousValue { value: b"b".into(), modified: 3 };
        let removed = Event {
            key: b"x/1".into(),
            value: None,
            revision: 4,
            created: false,
            previous: Some(before),
        };
        let put = Event {
            key: b"x/2".into(),
            value: Some(Vec::new()),
            revision: 5,
            created: true,
            previous: None,
        };
        assert_eq!(response(WATCHED).unwrap(), Some(Response::Events(vec![removed, put])));
        assert_eq!(response(COMPACTED).unwrap(), Some(Response::Compacted(4)));
    }

    #[test]
    fn ranges_are_read() {
        let Range { cluster_id, revision, keys } = range(RANGED).unwrap();
        assert_eq!((cluster_id, revision), (324_952_591_200_643_719, 5));
        let stored = Stored { value: b"b".into(), created: 2, modified: 3, version: 2 };
        assert_eq!(keys, BTreeMap::from([(b"x/1".to_vec(), stored)]));
    }

    #[test]
    fn anything_else_is_reported() {
        let error = response("watch was canceled").unwrap_err().to_string();
        assert!(error.contains("watch was canceled"), "{error}");
        assert!(range(r#"{"kvs":[{"key":"?"}]}"#).is_err());
    }
}
