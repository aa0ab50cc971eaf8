//! Compares two etcds, key by key.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::dump::{Dump, DumpEntry, is_mark};

/// A key whose values differ, or that exists on one side only.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// The kind of the key, as in [`DumpEntry::what`].
    pub what: &'static str,
    /// The decoded value of the first etcd; `None` if it does not have the key.
    pub left: Option<Value>,
    /// The decoded value of the second etcd.
    pub right: Option<Value>,
    /// Paths of the fields that differ, as `backends.10.1.1.1`; empty if a side does not have the key.
    pub fields: BTreeSet<String>,
}

/// The keys that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All keys. Of canaries, heartbeats and positions only the existence is compared: their values are times.
    All,
    /// Keys that follow from objects: no canaries, heartbeats, positions and unknown keys. UUIDs are not compared.
    Objects,
}

/// The field of a cluster config with the UUID.
const UUID: &str = "clustermesh";

/// Compares two etcds.
pub fn diff(left: &Dump, right: &Dump, scope: Scope) -> Vec<Difference> {
    let (left, right) = (by_key(left, scope), by_key(right, scope));
    let keys: BTreeSet<&str> = left.keys().chain(right.keys()).copied().collect();
    let mut differences = Vec::new();
    for key in keys {
        let (one, other) = (left.get(key), right.get(key));
        let what = one.or(other).map_or("other", |entry| entry.what);
        let value = |entry: Option<&&DumpEntry>| {
            let mut value = entry?.value.clone();
            if let (Scope::Objects, "cluster-config", Some(config)) =
                (scope, what, value.as_object_mut())
            {
                config.remove(UUID);
            }
            Some(value)
        };
        let (one, other) = (value(one), value(other));
        let mut fields = BTreeSet::new();
        if let (Some(one), Some(other)) = (&one, &other) {
            if one == other || is_mark(key) {
                continue;
            }
            differing(one, other, String::new(), &mut fields);
        }
        differences.push(Difference { key: key.into(), what, left: one, right: other, fields });
    }
    differences
}

fn by_key(dump: &Dump, scope: Scope) -> BTreeMap<&str, &DumpEntry> {
    let compared =
        |entry: &&DumpEntry| scope == Scope::All || !(is_mark(&entry.key) || entry.what == "other");
    dump.entries.iter().filter(compared).map(|entry| (entry.key.as_str(), entry)).collect()
}

fn differing(one: &Value, other: &Value, path: String, found: &mut BTreeSet<String>) {
    let below = |field: &str| {
        if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
    };
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let fields: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for field in fields {
                match (one.get(field), other.get(field)) {
                    (Some(one), Some(other)) => differing(one, other, below(field), found),
                    _ => {
                        found.insert(below(field));
                    }
                }
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for index in 0..one.len().max(other.len()) {
                match (one.get(index), other.get(index)) {
                    (Some(one), Some(other)) => {
                        differing(one, other, below(&index.to_string()), found);
                    }
                    _ => {
                        found.insert(below(&index.to_string()));
                    }
                }
            }
        }
        (one, other) if one != other => {
            found.insert(path);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::EtcdContent;

    const CONFIG: &str = r#"{"id":7,"capabilities":{},"clustermesh":{"uuid":"5b0f2a54-8a77-4f0e-9d6f-3c1d2e4b7a90","version":1}}"#;
    const BARE: &str = r#"{"id":7,"capabilities":{}}"#;

    fn dump(entries: &[(&str, &str)]) -> Dump {
        let entry =
            |(key, value): &(&str, &str)| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        let entries = entries.iter().map(entry).collect();
        Dump::new(&EtcdContent { entries, cluster: None, whole: false, contradiction: None })
    }

    fn differences(left: &Dump, right: &Dump, scope: Scope) -> Vec<String> {
        let lines = |d: &Difference| {
            let fields: Vec<&str> = d.fields.iter().map(String::as_str).collect();
            match (&d.left, &d.right) {
                (Some(_), None) => format!("-{}", d.key),
                (None, _) => format!("+{}", d.key),
                _ => format!("{} {}", d.key, fields.join(",")),
            }
        };
        diff(left, right, scope).iter().map(lines).collect()
    }

    #[test]
    fn what_differs_is_named_to_the_field() {
        let left = dump(&[
            ("cilium/cluster-config/alpha", CONFIG),
            ("cilium/.heartbeat", "2027-02-03T04:05:06Z"),
            ("cilium/synced/alpha/cilium/state/nodes/v1", "2027-02-03T04:05:06Z"),
            (
                "cilium/state/ip/v1/default/10.0.0.1",
                r#"{"IP":"10.0.0.1","ID":0,"NamedPorts":[{"Port":1}]}"#,
            ),
            ("cilium/state/ip/v1/default/10.0.0.2", r#"{"IP":"10.0.0.2","ID":0}"#),
            ("elsewhere", "x"),
        ]);
        let right = dump(&[
            ("cilium/cluster-config/alpha", BARE),
            ("cilium/.heartbeat", "2027-02-03T04:06:06Z"),
            // Different whitespace is no difference.
            (
                "cilium/state/ip/v1/default/10.0.0.1",
                r#"{"ID": 0, "IP": "10.0.0.1", "HostIP": "", "NamedPorts": [{"Port": 2}]}"#,
            ),
            ("cilium/state/ip/v1/default/10.0.0.3", r#"{"IP":"10.0.0.3","ID":0}"#),
        ]);
        let addresses = [
            "cilium/state/ip/v1/default/10.0.0.1 HostIP,NamedPorts.0.Port",
            "-cilium/state/ip/v1/default/10.0.0.2",
            "+cilium/state/ip/v1/default/10.0.0.3",
        ];
        assert_eq!(differences(&left, &right, Scope::Objects), addresses);
        let mut all = vec!["cilium/cluster-config/alpha clustermesh"];
        all.extend(addresses);
        all.extend(["-cilium/synced/alpha/cilium/state/nodes/v1", "-elsewhere"]);
        assert_eq!(differences(&left, &right, Scope::All), all);
        assert!(diff(&left, &left, Scope::All).is_empty());
    }
}
