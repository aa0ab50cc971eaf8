//! Keys files: the contents of an etcd as a JSON object.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use mesh_model::{ClusterConfig, ClusterId, ClusterName, cluster::InvalidClusterName};
use mesh_wire::{Key, Layout, cluster_config};
use serde::{Deserialize, Serialize, Serializer};

/// The keys and values of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysFile {
    /// The cluster of the keys.
    pub cluster: ClusterName,
    /// The ID of the cluster.
    pub id: ClusterId,
    /// Keys and values, sorted.
    pub entries: BTreeMap<String, Vec<u8>>,
}

/// A file that is not a keys file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct KeysFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: KeysFileProblem,
}

/// Why a file is not a keys file.
#[derive(Debug, thiserror::Error)]
pub enum KeysFileProblem {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is not text.
    #[error("not a keys file: it is not UTF-8")]
    Text,
    /// It is not JSON, or has other fields. The message has the line.
    #[error("not a keys file, as `clustermesh export` prints it: {0}")]
    Json(#[from] serde_json::Error),
    /// Neither the file nor its keys name the cluster.
    #[error(
        "it has no `cluster` {{name, id}}, and there is no cilium/cluster-config/<name> among its keys to name their cluster: add one of them"
    )]
    Nobody,
    /// The cluster's name is invalid.
    #[error("cluster.name: {0}")]
    Name(#[from] InvalidClusterName),
    /// The cluster's ID is invalid.
    #[error("cluster.id: {0} is not a cluster ID: it is 1 to 511")]
    Id(u32),
    /// It has no list of keys.
    #[error("it has no list `entries` (nor `source`)")]
    NoEntries,
    /// An entry lacks a field, or has two that exclude each other.
    #[error("{list}[{index}] ({key:?}): {reason}")]
    Entry {
        /// The list.
        list: &'static str,
        /// The index of the entry, counted from 0.
        index: usize,
        /// Its key.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// The format of the file. Other fields are ignored.
#[derive(Serialize, Deserialize)]
struct KeysJson<'a> {
    /// Optional if the keys show their cluster.
    #[serde(default)]
    cluster: Option<ClusterJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<EntryJson<'a>>>,
    /// The name of the list in recorded scenarios.
    #[serde(default, skip_serializing)]
    source: Option<Vec<EntryJson<'a>>>,
}

#[derive(Serialize, Deserialize)]
struct ClusterJson {
    id: u32,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct EntryJson<'a> {
    key: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_b64: Option<String>,
}

// === impl KeysFile ===

impl KeysFile {
    /// Reads a keys file.
    pub fn read(path: &Path) -> Result<Self, KeysFileError> {
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => KeysFileProblem::Text,
            _ => KeysFileProblem::Read(error),
        });
        text.and_then(|text| Self::parse(&text))
            .map_err(|problem| KeysFileError { path: path.into(), problem })
    }

    /// Parses the text of a keys file.
    pub fn parse(text: &str) -> Result<Self, KeysFileProblem> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let KeysJson { cluster, entries, source } = serde_json::from_str(text)?;
        let head = cluster.map(ClusterJson::checked).transpose()?;
        let (list, given) = match (entries, source) {
            (Some(entries), _) => ("entries", entries),
            (None, Some(source)) => ("source", source),
            (None, None) => return Err(KeysFileProblem::NoEntries),
        };
        let mut entries = BTreeMap::new();
        for (index, entry) in given.into_iter().enumerate() {
            let EntryJson { key, value, value_b64 } = entry;
            let wrong = |reason: String| KeysFileProblem::Entry {
                list,
                index,
                key: key.to_string(),
                reason,
            };
            let value = match (value, value_b64) {
                (Some(value), None) => value.into_owned().into_bytes(),
                (None, Some(text)) => {
                    BASE64.decode(&text).map_err(|error| wrong(format!("value_b64: {error}")))?
                }
                (None, None) => return Err(wrong("it has neither `value` nor `value_b64`".into())),
                (Some(_), Some(_)) => {
                    return Err(wrong("it has both `value` and `value_b64`".into()));
                }
            };
            if entries.contains_key(&*key) {
                return Err(wrong("the key occurs twice".into()));
            }
            entries.insert(key.into_owned(), value);
        }
        let (cluster, id) = match head.or_else(|| owner(&entries)) {
            Some(owner) => owner,
            None => return Err(KeysFileProblem::Nobody),
        };
        Ok(Self { cluster, id, entries })
    }

    /// The cluster config among the keys, if it can be decoded.
    pub(crate) fn config(&self) -> Option<ClusterConfig> {
        let value = self.entries.get(&Key::ClusterConfig(self.cluster.clone()).to_string())?;
        cluster_config::decode(value).ok()
    }

    /// Why the cluster of the file is not that of the keys, if it is not.
    pub fn contradiction(&self) -> Option<String> {
        let Self { cluster, id, entries } = self;
        let key = Key::ClusterConfig(cluster.clone());
        match self.config() {
            Some(config) if config.id != *id => {
                Some(format!("cluster.id: {id}, and {key} says {}", config.id))
            }
            Some(_) => None,
            None if entries.contains_key(&key.to_string()) => None,
            None => owner(entries).map(|(other, _)| {
                format!("cluster.name: {cluster}, and the keys are of {other}: there is a config of it, and none of {cluster}")
            }),
        }
    }

    /// A warning if the keys have no cluster config: an agent would refuse them all.
    pub fn lacks_config(&self) -> Option<String> {
        let key = Key::ClusterConfig(self.cluster.clone()).to_string();
        (!self.entries.contains_key(&key)).then(|| {
            format!(
                "cluster {}: there is no {key} among its keys: they are used as if there were one with ID {}, but an agent refuses such a cluster",
                self.cluster, self.id
            )
        })
    }

    /// The layout of the keys, for a cluster without a config.
    pub(crate) fn layout(&self) -> Layout {
        let has = |tree: &str| self.entries.keys().any(|key| key.starts_with(tree));
        match has("cilium/cache/") && !has("cilium/state/") {
            true => Layout::Cache,
            false => Layout::State,
        }
    }
}

/// As JSON, values that are not UTF-8 are in `value_b64`.
impl Serialize for KeysFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let cluster =
            Some(ClusterJson { name: self.cluster.to_string(), id: self.id.get().into() });
        let entries = Some(self.entries.iter().map(EntryJson::of).collect());
        KeysJson { cluster, entries, source: None }.serialize(serializer)
    }
}

// === impl EntryJson ===

impl<'a> EntryJson<'a> {
    fn of((key, value): (&'a String, &'a Vec<u8>)) -> Self {
        let text = std::str::from_utf8(value).ok();
        let value_b64 = text.is_none().then(|| BASE64.encode(value));
        Self { key: key.into(), value: text.map(Into::into), value_b64 }
    }
}

// === impl ClusterJson ===

impl ClusterJson {
    fn checked(self) -> Result<(ClusterName, ClusterId), KeysFileProblem> {
        let id = ClusterId::from_wire(self.id).filter(|id| *id != ClusterId::NONE);
        let id = id.ok_or(KeysFileProblem::Id(self.id))?;
        Ok((ClusterName::new(&self.name)?, id))
    }
}

/// The cluster of the keys: the only one whose config is not a copy, or the only copied one.
fn owner(entries: &BTreeMap<String, Vec<u8>>) -> Option<(ClusterName, ClusterId)> {
    let configs = entries.iter().filter_map(|(key, value)| match Key::parse(key.as_bytes()) {
        Ok(Key::ClusterConfig(name)) => Some((name, cluster_config::decode(value).ok()?)),
        _ => None,
    });
    let (copied, own): (Vec<_>, Vec<_>) = configs.partition(|(_, config)| config.cached);
    match (own.as_slice(), copied.as_slice()) {
        ([(name, config)], _) | ([], [(name, config)]) if config.id != ClusterId::NONE => {
            Some((name.clone(), config.id))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text = r#"{"cluster":{"name":"b","id":2},"entries":[{"key":"x/text","value":"{}"},{"key":"x/binary","value_b64":"KLUv/Q=="}]}"#;
        let file = KeysFile::parse(text).unwrap();
        assert_eq!(file.entries["x/binary"], [0x28, 0xb5, 0x2f, 0xfd]);
        let json = serde_json::to_string(&file).unwrap();
        // Entries are sorted by key.
        assert_eq!(
            json,
            r#"{"cluster":{"id":2,"name":"b"},"entries":[{"key":"x/binary","value_b64":"KLUv/Q=="},{"key":"x/text","value":"{}"}]}"#
        );
        assert_eq!(KeysFile::parse(&json).unwrap(), file);
        let recorded = text.replace("entries", "description\":\"by a Cilium\",\"source");
        assert_eq!(KeysFile::parse(&recorded).unwrap(), file);
    }

    #[test]
    fn whose_keys_they_are_follows_from_the_config_and_may_not_contradict_it() {
        let config = |name: &str, id: u32, cached: bool| {
            format!(
                r#"{{"key":"cilium/cluster-config/{name}","value":"{{\"id\":{id},\"capabilities\":{{\"cached\":{cached}}}}}"}}"#
            )
        };
        let file = |head: &str, entries: &[String]| {
            let text = format!(r#"{{{head}"entries":[{}]}}"#, entries.join(","));
            KeysFile::parse(&text)
        };
        let of = |entries: &[String]| {
            file("", entries).ok().map(|file| (file.cluster.to_string(), file.id.get()))
        };
        assert_eq!(of(&[config("b", 2, false)]), Some(("b".into(), 2)));
        assert_eq!(of(&[config("b", 2, true)]), Some(("b".into(), 2)));
        assert_eq!(of(&[config("a", 1, false), config("b", 2, true)]), Some(("a".into(), 1)));
        assert_eq!(of(&[config("a", 1, true), config("b", 2, true)]), None);
        let said = |entries: &[String]| {
            let file = file(r#""cluster":{"name":"b","id":2},"#, entries).unwrap();
            (file.contradiction().unwrap_or_default(), file.lacks_config().is_some())
        };
        assert_eq!(said(&[config("b", 2, false)]), (String::new(), false));
        assert_eq!(said(&[config("a", 1, false), config("b", 2, true)]), (String::new(), false));
        assert_eq!(said(&[]), (String::new(), true));
        assert_eq!(
            said(&[config("b", 3, false)]),
            ("cluster.id: 2, and cilium/cluster-config/b says 3".into(), false)
        );
        assert_eq!(
            said(&[config("c", 2, false)]),
            (
                "cluster.name: b, and the keys are of c: there is a config of it, and none of b"
                    .into(),
                true
            )
        );
    }

    #[test]
    fn mistakes_name_their_place() {
        let with =
            |entries: &str| format!(r#"{{"cluster":{{"name":"b","id":2}},"entries":{entries}}}"#);
        for (text, says) in [
            ("[".to_owned(), "not a keys file, as `clustermesh export` prints it: EOF"),
            ("{}".to_owned(), "no list `entries`"),
            (r#"{"entries":[]}"#.to_owned(), "it has no `cluster` {name, id}, and"),
            (r#"{"cluster":{"name":"b"}}"#.to_owned(), "missing field `id`"),
            (r#"{"cluster":{"name":"b","id":2}}"#.to_owned(), "no list `entries`"),
            (r#"{"cluster":{"name":"B","id":2},"entries":[]}"#.to_owned(), "cluster.name: \"B\""),
            (r#"{"cluster":{"name":"b","id":0},"entries":[]}"#.to_owned(), "cluster.id: 0"),
            (r#"{"cluster":{"name":"b","id":512},"entries":[]}"#.to_owned(), "cluster.id: 512"),
            (with(r#"[{"key":"k"}]"#), "entries[0] (\"k\"): it has neither"),
            (with(r#"[{"key":"k","value":"","value_b64":""}]"#), "entries[0] (\"k\"): it has both"),
            (with(r#"[{"key":"k","value_b64":"%"}]"#), "entries[0] (\"k\"): value_b64"),
            (
                with(r#"[{"key":"k","value":""},{"key":"k","value":""}]"#),
                "entries[1] (\"k\"): the key occurs twice",
            ),
            (with(r#"[{"value":""}]"#), "missing field `key`"),
        ] {
            let error = KeysFile::parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
