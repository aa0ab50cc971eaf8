//! What is counted.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The apiserver's metrics, `clustermesh_apiserver_…`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) errors: Counter,
    pub(crate) heartbeats: Counter,
    pub(crate) connected: Gauge,
    pub(crate) desired_keys: Gauge<u64, AtomicU64>,
    pub(crate) written_keys: Gauge<u64, AtomicU64>,
    pub(crate) objects: Gauge<u64, AtomicU64>,
    pub(crate) identities: Gauge<u64, AtomicU64>,
    pub(crate) manifest_problems: Gauge<u64, AtomicU64>,
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
        registry.register("identities", "Identity numbers given out", self.identities.clone());
        let help = "Manifests, or objects in them, that cannot be used";
        registry.register("manifest_problems", help, self.manifest_problems.clone());
    }
}
