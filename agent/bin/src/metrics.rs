//! What is counted.

use std::sync::atomic::AtomicU64;

use mesh_model::ClusterName;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// A followed cluster.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PeerLabel {
    pub(crate) peer: String,
}

/// The state of pods.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PodLabel {
    pub(crate) state: &'static str,
}

/// Sockets that were ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct SocketLabel {
    pub(crate) protocol: &'static str,
    pub(crate) reason: &'static str,
}

/// A table in the kernel.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct TableLabel {
    pub(crate) table: &'static str,
}

type Count = Gauge<u64, AtomicU64>;

/// The agent's metrics, `clustermesh_agent_…`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) peer_ready: Family<PeerLabel, Gauge>,
    pub(crate) peer_reconnects: Family<PeerLabel, Count>,
    pub(crate) peer_rejected: Family<PeerLabel, Count>,
    pub(crate) peer_records: Family<PeerLabel, Count>,
    pub(crate) peer_record_bytes: Family<PeerLabel, Count>,
    pub(crate) peer_quarantined: Family<PeerLabel, Gauge>,
    pub(crate) file_watch_fallback: Gauge,
    pub(crate) audit_passes: Counter,
    pub(crate) audit_repairs: Counter,
    pub(crate) changes: Counter,
    pub(crate) failed_changes: Count,
    pub(crate) table_used: Family<TableLabel, Count>,
    pub(crate) table_writes: Count,
    pub(crate) table_size: Family<TableLabel, Count>,
    pub(crate) table_full_in: Family<TableLabel, Count>,
    pub(crate) inherited_frontends: Count,
    pub(crate) inherited_backends: Count,
    pub(crate) routes: Count,
    pub(crate) failed_routes: Count,
    pub(crate) pods: Family<PodLabel, Count>,
    pub(crate) sockets_ended: Family<SocketLabel, Count>,
    pub(crate) socket_passes: Count,
    pub(crate) socket_failures: Count,
    pub(crate) probes_sent: Count,
    pub(crate) probes_answered: Count,
    pub(crate) probes_refused: Count,
    pub(crate) node_deaths: Count,
    pub(crate) node_returns: Count,
    pub(crate) node_relapses: Count,
    pub(crate) cluster_cuts: Count,
    pub(crate) detection: Count,
    pub(crate) addresses_in_use: Count,
    pub(crate) nodes_dead: Family<PeerLabel, Count>,
    pub(crate) nodes_without_agent: Family<PeerLabel, Count>,
    pub(crate) nodes_damped: Family<PeerLabel, Count>,
    pub(crate) cut: Family<PeerLabel, Gauge>,
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let audit = registry.sub_registry_with_prefix("clustermesh_audit");
        audit.register(
            "passes",
            "Comparisons of the tables with what they should be",
            self.audit_passes.clone(),
        );
        let help = "Entries that were not what they should be: a bug, or a stranger at the tables";
        audit.register("repairs", help, self.audit_repairs.clone());
        let help = "Pods of this node, by whether it is known who they are";
        registry.register("clustermesh_pods", help, self.pods.clone());
        let sockets = registry.sub_registry_with_prefix("clustermesh_sockets");
        let help = "Sockets ended because their backend was removed, or cannot be reached";
        sockets.register("ended", help, self.sockets_ended.clone());
        let help = "Times that sockets of vanished backends were looked for";
        sockets.register("passes", help, self.socket_passes.clone());
        let help = "Network namespaces in which they could not be";
        sockets.register("failures", help, self.socket_failures.clone());
        self.register_health(registry.sub_registry_with_prefix("clustermesh_health"));
        let registry = registry.sub_registry_with_prefix("clustermesh_agent");
        registry.register(
            "peer_ready",
            "1 while every step of the connection to the cluster is ok",
            self.peer_ready.clone(),
        );
        registry.register(
            "peer_reconnects",
            "Connections to the cluster's etcd that broke",
            self.peer_reconnects.clone(),
        );
        registry.register(
            "peer_rejected",
            "Records of the cluster that were refused",
            self.peer_rejected.clone(),
        );
        registry.register("peer_records", "Records held of the cluster", self.peer_records.clone());
        let help = "Bytes that the cluster's records take, about";
        registry.register("peer_record_bytes", help, self.peer_record_bytes.clone());
        let help = "1 while the cluster is over its budget and nothing more is taken of it";
        registry.register("peer_quarantined", help, self.peer_quarantined.clone());
        let help = "1 while folders cannot be watched and are looked at every second";
        registry.register("file_watch_fallback", help, self.file_watch_fallback.clone());
        registry.register(
            "table_changes",
            "Changes made to the kernel's tables",
            self.changes.clone(),
        );
        let help = "Changes that the kernel's tables have no room for; tried again";
        registry.register("table_changes_failed", help, self.failed_changes.clone());
        let help = "Single writes to the kernel's tables, stores and system calls alike";
        registry.register("table_writes", help, self.table_writes.clone());
        registry.register("table_entries", "Entries of a table in use", self.table_used.clone());
        let help = "Entries that a table has room for";
        registry.register("table_entries_limit", help, self.table_size.clone());
        let help =
            "When a table is full at the rate of the last hour; absent where it is not to be";
        registry.register("table_full_in_seconds", help, self.table_full_in.clone());
        let help = "Frontends of the previous run that no synced cluster has claimed yet";
        registry.register("inherited_frontends", help, self.inherited_frontends.clone());
        let help = "Backends of the previous run that no synced cluster has claimed yet";
        registry.register("inherited_backends", help, self.inherited_backends.clone());
        let help = "The former name of inherited_frontends, for one more minor release";
        registry.register("held_frontends", help, self.inherited_frontends.clone());
        let help = "The former name of inherited_backends, for one more minor release";
        registry.register("held_backends", help, self.inherited_backends.clone());
        registry.register("routes", "Routes to other clusters' pods", self.routes.clone());
        registry.register(
            "routes_failed",
            "Routes that the kernel did not take",
            self.failed_routes.clone(),
        );
    }

    /// A cluster is no longer followed: its values are no one's.
    pub(crate) fn forget(&self, name: &ClusterName) {
        let label = PeerLabel { peer: name.to_string() };
        for gauge in [&self.peer_ready, &self.peer_quarantined, &self.cut] {
            gauge.remove(&label);
        }
        for count in [
            &self.peer_reconnects,
            &self.peer_rejected,
            &self.peer_records,
            &self.peer_record_bytes,
            &self.nodes_dead,
            &self.nodes_without_agent,
            &self.nodes_damped,
        ] {
            count.remove(&label);
        }
    }

    fn register_health(&self, health: &mut Registry) {
        for (name, help, counted) in [
            ("probes_sent", "Probes sent to nodes", &self.probes_sent),
            ("probes_answered", "Probes that were answered", &self.probes_answered),
            (
                "probes_refused",
                "Probes that came back: the node is there, and no agent",
                &self.probes_refused,
            ),
            ("node_deaths", "Addresses of nodes that answered no more", &self.node_deaths),
            ("node_returns", "Addresses of nodes that answered again", &self.node_returns),
            (
                "node_relapses",
                "Deaths so soon after a return that the next return is damped",
                &self.node_relapses,
            ),
            (
                "addresses_in_use",
                "Addresses of nodes that own backends in use, which are probed the most",
                &self.addresses_in_use,
            ),
            ("cluster_cuts", "Clusters whose nodes and etcd answered no more", &self.cluster_cuts),
            (
                "detection_milliseconds",
                "A node in use that dies is noticed within this time",
                &self.detection,
            ),
        ] {
            health.register(name, help, counted.clone());
        }
        let help = "Probed nodes of the cluster that do not answer";
        health.register("nodes_dead", help, self.nodes_dead.clone());
        let help = "Probed nodes of the cluster that answer without an agent";
        health.register("nodes_without_agent", help, self.nodes_without_agent.clone());
        let help = "Dead nodes of the cluster whose return is damped";
        health.register("nodes_damped", help, self.nodes_damped.clone());
        health.register("cluster_cut", "1 while the cluster is cut", self.cut.clone());
    }
}
