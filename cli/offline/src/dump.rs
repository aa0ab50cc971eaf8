//! The decoded contents of an etcd, and their deviations from the wire format (`docs/wire.md`).

mod agreement;
mod config;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, Identity, Record, RecordKey, RecordKind,
};
use mesh_wire::{
    Key, Layout, Peer, Position, Prefix, Role, cluster_config, decode,
    key::{HISTORY, LOCAL},
    local_drain, timestamp,
};
use serde_json::Value;

use self::config::{config_deviations, configs, limit_of, owner, promised};
use crate::keys_file::KeysFile;

/// The contents of an etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdContent {
    /// Keys and values.
    pub entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The cluster of the etcd, if it is known from elsewhere than from its keys.
    pub cluster: Option<(ClusterName, ClusterId)>,
    /// Whether all keys of the etcd are in `entries`.
    pub whole: bool,
    /// Why `cluster` contradicts the keys, if it does.
    pub contradiction: Option<String>,
}

/// The decoded contents of an etcd.
#[derive(Clone, Debug)]
pub struct Dump {
    /// The cluster of the etcd, if it is known.
    pub cluster: Option<(ClusterName, ClusterId)>,
    /// All keys, sorted.
    pub entries: Vec<DumpEntry>,
    /// Deviations that do not belong to a single entry.
    pub deviations: Vec<Deviation>,
}

/// A decoded key with its value.
#[derive(Clone, Debug)]
pub struct DumpEntry {
    /// The key. What is not UTF-8 is replaced.
    pub key: String,
    /// The kind of the key: `node`, `identity`, …; `other` for an unknown one.
    pub what: &'static str,
    /// The cluster in the key, if there is one.
    pub cluster: Option<ClusterName>,
    /// The decoded value; if that is impossible, its text, or base64.
    pub value: Value,
    /// Deviations from the wire format.
    pub deviations: Vec<String>,
}

/// A deviation from the wire format.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deviation {
    /// The key that deviates, or is missing.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

/// The keys of one cluster in an etcd.
#[derive(Debug, Default)]
struct ClusterInKeys {
    config: Option<ClusterConfig>,
    layout: Option<Layout>,
    records: BTreeMap<RecordKey, Record>,
    canaries: BTreeSet<Prefix>,
}

// === impl EtcdContent ===

impl From<&KeysFile> for EtcdContent {
    /// A keys file may be written by hand and have only some of the keys.
    fn from(file: &KeysFile) -> Self {
        let entry = |(key, value): (&String, &Vec<u8>)| (key.clone().into_bytes(), value.clone());
        Self {
            entries: file.entries.iter().map(entry).collect(),
            cluster: Some((file.cluster.clone(), file.id)),
            whole: false,
            contradiction: file.contradiction(),
        }
    }
}

// === impl Dump ===

impl Dump {
    /// Decodes the contents of an etcd.
    pub fn new(holding: &EtcdContent) -> Self {
        let configs = configs(holding);
        let cluster = owner(holding, &configs);
        let mut found = BTreeMap::<ClusterName, ClusterInKeys>::new();
        for (name, config) in &configs {
            let found = found.entry(name.clone()).or_default();
            found.layout = Some(Layout::of(config));
            found.config = Some(config.clone());
        }
        let mut dump = Self { cluster, entries: Vec::new(), deviations: Vec::new() };
        for (key, value) in &holding.entries {
            let entry = dump.entry(key, value, &configs, &mut found);
            dump.entries.push(entry);
        }
        dump.check(holding, &found);
        dump
    }

    /// The number of all deviations.
    pub fn deviation_count(&self) -> usize {
        self.deviations.len()
            + self.entries.iter().map(|entry| entry.deviations.len()).sum::<usize>()
    }

    /// All deviations, each with its key.
    pub fn all_deviations(&self) -> Vec<Deviation> {
        let of_keys = self.entries.iter().flat_map(|entry| {
            entry
                .deviations
                .iter()
                .map(|reason| Deviation { key: entry.key.clone(), reason: reason.clone() })
        });
        let mut all: Vec<Deviation> = of_keys.chain(self.deviations.iter().cloned()).collect();
        all.sort();
        all
    }

    fn entry(
        &self,
        key: &[u8],
        value: &[u8],
        configs: &BTreeMap<ClusterName, ClusterConfig>,
        found: &mut BTreeMap<ClusterName, ClusterInKeys>,
    ) -> DumpEntry {
        let text = String::from_utf8_lossy(key).into_owned();
        let mut entry = DumpEntry {
            key: text.clone(),
            what: "other",
            cluster: None,
            value: value::raw(value),
            deviations: Vec::new(),
        };
        let parsed = match Key::parse(key) {
            Ok(parsed) => parsed,
            Err(error) => {
                entry.what = "bad-key";
                entry.deviations.push(format!("bad key: {}", error.reason));
                return entry;
            }
        };
        let is_time = |entry: &mut DumpEntry| {
            if timestamp(value).is_none() {
                entry.deviations.push("the value is not a time in RFC 3339".into());
            }
        };
        match parsed {
            Key::ClusterConfig(name) => {
                entry.what = "cluster-config";
                entry.value = value::json(value);
                match cluster_config::decode(value) {
                    Ok(config) => entry.deviations.extend(config_deviations(&config)),
                    Err(error) => entry.deviations.push(format!("undecodable value: {error}")),
                }
                entry.cluster = Some(name);
            }
            Key::Canary(name, prefix) => {
                entry.what = "canary";
                is_time(&mut entry);
                if let Some((_, prefix)) = prefix {
                    found.entry(name.clone()).or_default().canaries.insert(prefix);
                }
                entry.cluster = Some(name);
            }
            Key::Heartbeat => {
                entry.what = "heartbeat";
                is_time(&mut entry);
            }
            Key::Position | Key::LocalPosition => {
                entry.what = "position";
                entry.value = value::json(value);
                if let Err(error) = Position::decode(value) {
                    entry.deviations.push(format!("undecodable value: {error}"));
                }
            }
            drain @ (Key::Drain | Key::LocalDrain) => {
                entry.what = if drain == Key::Drain { "drain" } else { "local-drain" };
                entry.value = value::json(value);
                if let Err(error) = local_drain::decode(value) {
                    entry.deviations.push(format!("undecodable value: {error}"));
                }
            }
            Key::Other if text == HISTORY => entry.what = "history",
            Key::Other => {}
            Key::Record { layout, cluster, record } => {
                entry.what = what(&record);
                entry.value = value::of_record(&record, value);
                entry.cluster = cluster.clone();
                let canonical = match &cluster {
                    Some(name) => Some(Key::of_record(layout, name, record.clone()).to_string()),
                    // These keys have no cluster's name.
                    None => self.cluster.as_ref().map(|(local, _)| {
                        Key::of_record(layout, local, record.clone()).to_string()
                    }),
                };
                if let Some(canonical) = canonical.filter(|canonical| *canonical != text) {
                    entry.deviations.push(format!("bad key: it should be written {canonical}"));
                }
                self.record(&mut entry, (layout, cluster), (key, value), configs, found);
            }
        }
        entry
    }

    /// Decodes a record as one of the cluster that it must belong to.
    fn record(
        &self,
        entry: &mut DumpEntry,
        (layout, named): (Layout, Option<ClusterName>),
        (key, value): (&[u8], &[u8]),
        configs: &BTreeMap<ClusterName, ClusterConfig>,
        found: &mut BTreeMap<ClusterName, ClusterInKeys>,
    ) {
        let local = self.cluster.as_ref();
        let of = match layout {
            Layout::State => local.map(|(name, _)| name.clone()),
            Layout::Cache => named.clone(),
        };
        let Some(of) = of.or(named) else {
            entry.deviations.push("its cluster is not known: there is no cluster config".into());
            return;
        };
        let config = configs.get(&of);
        let head = local.filter(|(name, _)| *name == of).map(|(_, id)| *id);
        let Some(id) = config.map(|config| config.id).or(head) else {
            entry.deviations.push(format!("there is no config of cluster {of}"));
            return;
        };
        // Without a config, the limit follows from the ID.
        let of_id = if u32::from(id.get()) > ClusterLimit::default().get() {
            ClusterLimit::Max511
        } else {
            ClusterLimit::default()
        };
        let limit = config.map_or(of_id, limit_of);
        let role = if layout == Layout::State { Role::Local } else { Role::Remote };
        let peer = Peer { name: of.clone(), role, id, limit, layout };
        match decode(&peer, key, value) {
            Ok(Some(record)) => {
                found.entry(of).or_default().records.insert(record.key(), record);
            }
            Ok(None) => {}
            Err(rejected) => {
                let kind = match &rejected.reason {
                    mesh_wire::DecodeError::Mismatch(_) => "contradiction",
                    mesh_wire::DecodeError::Key(_) => "bad key",
                    _ => "undecodable value",
                };
                entry.deviations.push(format!("{kind}: {}", rejected.reason));
            }
        }
    }

    /// Adds the deviations that do not belong to a single entry.
    fn check(&mut self, holding: &EtcdContent, found: &BTreeMap<ClusterName, ClusterInKeys>) {
        if holding.whole && !found.values().any(|found| found.config.is_some()) {
            let name = self.cluster.as_ref().map_or("<cluster>", |(name, _)| name.as_str());
            self.deviations.push(Deviation {
                key: format!("cilium/cluster-config/{name}"),
                reason: "it is missing: no cluster can be a peer without it".into(),
            });
        }
        self.deviations.extend(holding.contradiction.iter().map(|reason| Deviation {
            key: "cluster".into(),
            reason: format!("contradiction: {reason}"),
        }));
        let local_cluster = self.cluster.as_ref().map(|(name, _)| name);
        for (name, found) in found {
            let layout = found.layout.unwrap_or(Layout::State);
            // A keys file that was written by hand has no canaries.
            if holding.whole || !found.canaries.is_empty() {
                let promised = found.config.as_ref().map(promised);
                let promised = promised.map(|all| found.copied(all));
                let local = local_cluster == Some(name) && found.has_local();
                let all =
                    promised.unwrap_or_default().into_iter().chain(local.then_some(Prefix::Local));
                for prefix in all.filter(|prefix| !found.canaries.contains(prefix)) {
                    self.deviations.push(Deviation {
                        key: Key::canary(name, layout, prefix).to_string(),
                        reason: "missing canary: the cluster config promises it".into(),
                    });
                }
            }
            self.deviations.extend(found.missing_identities(name, layout));
            self.deviations.extend(found.disagreements(name, layout));
        }
        self.deviations.sort();
    }
}

// === impl ClusterInKeys ===

impl ClusterInKeys {
    /// The prefixes of those that a config promises that a copy has: the config is that of the source, and a copy has one
    /// of the two formats of services only.
    fn copied(&self, mut promised: Vec<Prefix>) -> Vec<Prefix> {
        if self.layout == Some(Layout::Cache) {
            promised.retain(|prefix| match prefix {
                Prefix::Services | Prefix::EndpointSlices => self.has_form(*prefix),
                _ => true,
            });
        }
        promised
    }

    /// Whether there are keys of one of the two formats of services.
    fn has_form(&self, form: Prefix) -> bool {
        self.canaries.contains(&form)
            || self.records.keys().any(|key| Prefix::of(key.kind()) == form)
    }

    fn has_local(&self) -> bool {
        self.records.keys().any(|key| Prefix::of(key.kind()) == Prefix::Local)
    }

    /// Addresses whose identity does not exist.
    fn missing_identities(&self, name: &ClusterName, layout: Layout) -> Vec<Deviation> {
        let missing = |record: &Record| match record {
            Record::Address(address) if !address.identity.is_reserved() => {
                let known = self.records.contains_key(&RecordKey::Identity(address.identity));
                (!known).then_some((record.key(), address.identity))
            }
            _ => None,
        };
        let deviation = |(key, identity): (RecordKey, Identity)| Deviation {
            key: Key::of_record(layout, name, key).to_string(),
            reason: format!("missing identity: there is no identity {identity}"),
        };
        self.records.values().filter_map(missing).map(deviation).collect()
    }
}

fn what(record: &RecordKey) -> &'static str {
    match record.kind() {
        RecordKind::Node => "node",
        RecordKind::Identity => "identity",
        RecordKind::Address => "address",
        RecordKind::Service => "service",
        RecordKind::EndpointSlice => "endpoint-slice",
        RecordKind::Namespace => "local-namespace",
        RecordKind::Pod => "local-pod",
        RecordKind::LocalService => "local-service",
        RecordKind::LocalEndpointSlice => "local-endpoint-slice",
        RecordKind::Policy => "local-policy",
    }
}

/// Whether the value of a key is only a time.
pub(crate) fn is_mark(key: &str) -> bool {
    let of_local = key == format!("{LOCAL}position");
    of_local || key.starts_with("cilium/.") || key.starts_with("cilium/synced/")
}

#[cfg(test)]
mod tests;
