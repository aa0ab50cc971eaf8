//! What is counted.

use std::{collections::BTreeSet, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::writer::{ForeignWrite, Reason};

/// Why something is as it is, in a word.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    reason: &'static str,
}

/// The apiserver's metrics, `clustermesh_apiserver_…`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) errors: Counter,
    trouble: Family<ReasonLabel, Gauge>,
    troubles: Family<ReasonLabel, Counter>,
    foreign: Family<ReasonLabel, Counter>,
    pub(crate) foreign_repairs: Counter,
    pub(crate) refused_keys: Gauge<u64, AtomicU64>,
    pub(crate) heartbeats: Counter,
    pub(crate) connected: Gauge,
    pub(crate) desired_keys: Gauge<u64, AtomicU64>,
    pub(crate) written_keys: Gauge<u64, AtomicU64>,
    pub(crate) objects: Gauge<u64, AtomicU64>,
    pub(crate) identities: Gauge<u64, AtomicU64>,
    pub(crate) manifest_problems: Gauge<u64, AtomicU64>,
    pub(crate) file_watch_fallback: Gauge,
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("clustermesh_apiserver");
        registry.register("etcd_puts", "Keys written to the etcd", self.puts.clone());
        registry.register("etcd_deletes", "Keys removed from the etcd", self.deletes.clone());
        registry.register(
            "etcd_errors",
            "Connections and requests that failed",
            self.errors.clone(),
        );
        registry.register(
            "etcd_trouble",
            "1 for what keeps the etcd from being written to now",
            self.trouble.clone(),
        );
        registry.register(
            "etcd_troubles",
            "How often the etcd was not as it should be, by what it was",
            self.troubles.clone(),
        );
        registry.register(
            "etcd_foreign_writes",
            "Writes by another program to keys that are this cluster's, by what they did",
            self.foreign.clone(),
        );
        registry.register(
            "etcd_foreign_repairs",
            "Keys that were put right after them",
            self.foreign_repairs.clone(),
        );
        registry.register(
            "etcd_refused_keys",
            "Keys whose value the etcd does not take",
            self.refused_keys.clone(),
        );
        for reason in Reason::ALL {
            // What never happened is there too, as 0.
            for label in labels(reason) {
                let _ = (self.trouble.get_or_create(&label), self.troubles.get_or_create(&label));
            }
        }
        registry.register("heartbeats", "Heartbeats written", self.heartbeats.clone());
        registry.register(
            "etcd_connected",
            "1 while the etcd can be written to",
            self.connected.clone(),
        );
        registry.register(
            "desired_keys",
            "Keys that the etcd should hold",
            self.desired_keys.clone(),
        );
        registry.register(
            "written_keys",
            "Keys that it holds as it should",
            self.written_keys.clone(),
        );
        registry.register("objects", "Objects exported from", self.objects.clone());
        registry.register("identities", "Identities that are allocated", self.identities.clone());
        let help = "Manifests, or objects in them, that cannot be used";
        registry.register("manifest_problems", help, self.manifest_problems.clone());
        let help = "1 while folders cannot be watched and are looked at every second";
        registry.register("file_watch_fallback", help, self.file_watch_fallback.clone());
    }

    /// The etcd was not as it should be.
    pub(crate) fn count_trouble(&self, reason: Reason) {
        for label in labels(reason) {
            self.troubles.get_or_create(&label).inc();
        }
    }

    /// What keeps it from being written to now.
    pub(crate) fn set_trouble(&self, now: &BTreeSet<Reason>) {
        for reason in Reason::ALL {
            for label in labels(reason) {
                self.trouble.get_or_create(&label).set(now.contains(&reason).into());
            }
        }
    }

    /// Another writer touched a key of ours.
    pub(crate) fn count_foreign(&self, write: ForeignWrite) {
        self.foreign.get_or_create(&ReasonLabel { reason: write.as_str() }).inc();
    }
}

/// A reason, under its former name too.
fn labels(reason: Reason) -> impl Iterator<Item = ReasonLabel> {
    [Some(reason.as_str()), reason.former_str()]
        .into_iter()
        .flatten()
        .map(|reason| ReasonLabel { reason })
}
