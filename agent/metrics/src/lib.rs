//! The agent's metrics. `docs/metrics.md` has their names, which a test compares.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mesh_admin::metrics::{self, Counters, Gauges};
use mesh_layout::{COUNTERS, Counter as ProgramCounter};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
};

mod former;

/// A followed cluster.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PeerLabel {
    /// Its name.
    pub peer: String,
}

/// A name of what is counted.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabel {
    /// The name.
    pub kind: &'static str,
}

/// Sockets that were ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct SocketLabel {
    /// The name.
    pub kind: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// A certificate, or CAs, by which a cluster is followed.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CertificateLabel {
    /// The file's path.
    pub file: String,
    /// Its name.
    pub peer: String,
}

type Count = Gauge<u64, AtomicU64>;
type Seconds = Gauge<f64, AtomicU64>;

/// Durations from a tenth of a millisecond to ten seconds.
#[derive(Clone, Debug)]
pub struct Durations(Histogram);

/// The upper ends of its buckets, in seconds.
const DURATIONS: [f64; 11] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

impl Durations {
    /// Something took so long.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(DURATIONS))
    }
}

/// The agent's metrics, `clustermesh_agent_…`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// The metrics of each followed cluster.
    pub peers: PeerMetrics,
    /// The prober's.
    pub health: HealthMetrics,
    /// The tables in the kernel.
    pub tables: TableMetrics,
    /// Problems that `clustermesh status` shows of this agent.
    pub problems: Count,
    /// How long the last state of an unreachable cluster stays in use: --staleness-budget.
    pub staleness_budget: Count,
    /// Time since the local apiserver last reported, which it does every second.
    pub local_last_seen: Seconds,
    /// 1 while the local apiserver does not report: services without backends are not refused.
    pub local_stale: Gauge,
    /// 1 while folders cannot be watched and are read every second instead.
    pub file_watch_fallback: Gauge,
    /// Comparisons of the kernel's tables with what they should hold.
    pub audit_passes: Counter,
    /// Entries of tables and hooks that were not as they should be and were repaired: another program changed them, or
    /// a bug did.
    pub audit_repairs: Counter,
    /// Addresses that more than one cluster claims.
    pub addresses_contested: Count,
    /// Routes to other clusters' pods that this node should have.
    pub routes: Count,
    /// Those of these routes that the kernel did not accept.
    pub failed_routes: Count,
    /// Pods of this node: bound have their identity, waiting do not have it yet.
    pub pods: Gauges<KindLabel>,
    /// Sockets ended because their backend was removed or is unreachable, by protocol.
    pub sockets_ended: Counters<SocketLabel>,
    /// Scans of the node's network namespaces for sockets of such backends.
    pub socket_scans: Counter,
    /// Network namespaces that could not be scanned.
    pub socket_failures: Counter,
    connections: Counters<KindLabel>,
    connect_calls: Counter,
}

/// The metrics of each followed cluster.
#[derive(Clone, Debug, Default)]
pub struct PeerMetrics {
    /// 1 while the agent is connected to the cluster's etcd and has read everything from it.
    pub ready: Gauges<PeerLabel>,
    /// Connections to the cluster's etcd that broke.
    pub reconnects: Counters<PeerLabel>,
    /// Records of the cluster that were refused: malformed, or not the cluster's to claim.
    pub refused: Counters<PeerLabel>,
    /// Records of the cluster that the agent keeps.
    pub records: Gauges<PeerLabel>,
    /// Memory that these records take, about.
    pub record_bytes: Gauges<PeerLabel>,
    /// Addresses of the cluster's pods that are in no range that it announces.
    pub outside_ranges: Gauges<PeerLabel>,
    /// Backends of the cluster in the kernel's tables.
    pub backends: Gauges<PeerLabel>,
    /// 1 while the cluster is over its budget and nothing more of it is accepted.
    pub quarantined: Gauges<PeerLabel>,
    /// Time since there was a connection to the cluster's etcd; 0 while there is one.
    pub last_seen: Gauges<PeerLabel, f64>,
    /// 1 while the cluster has been away for longer than its staleness budget, so that its backends are not used.
    pub stale: Gauges<PeerLabel>,
    /// 1 while the local cluster is drained of the cluster, so that its backends are used only where nothing else answers.
    pub drained: Gauges<PeerLabel>,
    /// 1 while the cluster is drained by its own operator.
    pub drained_by_operator: Gauges<PeerLabel>,
    /// Nodes of the cluster that its own operator has drained.
    pub drained_nodes: Gauges<PeerLabel>,
    /// 1 while nothing of the cluster answers.
    pub unreachable: Gauges<PeerLabel>,
    /// When the certificate in the file ends, in seconds since 1970; of several CAs in one file, the last one.
    pub certificates: Gauges<CertificateLabel, f64>,
}

/// The prober's counters.
#[derive(Clone, Debug, Default)]
pub struct HealthMetrics {
    /// Probes sent to nodes.
    pub probes_sent: Counter,
    /// Probes that a node answered.
    pub probes_answered: Counter,
    /// Probes that a node without an agent sent back.
    pub probes_refused: Counter,
    /// Addresses of nodes that stopped answering.
    pub deaths: Counter,
    /// Addresses of nodes that answered again.
    pub returns: Counter,
    /// Deaths soon after a return: such an address must answer for longer before it counts as back.
    pub relapses: Counter,
    /// How often a cluster became unreachable.
    pub unreachable: Counter,
    /// A node in use that dies is noticed within this time.
    pub detection: Seconds,
    /// Addresses of nodes that have backends in use: these are probed most often.
    pub addresses_in_use: Count,
    /// Probed nodes of the cluster that do not answer.
    pub dead: Gauges<PeerLabel>,
    /// Probed nodes of the cluster that answer, and on which no agent runs.
    pub without_agent: Gauges<PeerLabel>,
    /// Dead nodes of the cluster that come and go: they must answer for longer before they count as back.
    pub damped: Gauges<PeerLabel>,
}

/// The tables in the kernel.
#[derive(Clone, Debug, Default)]
pub struct TableMetrics {
    /// Changes made to the kernel's tables.
    pub changes: Counter,
    /// From the arrival of what a cluster reports until the tables have it; of several that come together, the first.
    pub programming: Durations,
    /// Frontends of services that lead to no backend.
    pub frontends_without_backends: Count,
    /// Changes that failed, mostly because a table is full, and are tried again.
    pub failing: Count,
    /// Single writes to the kernel's tables: system calls, and stores to mapped memory.
    pub writes: Counter,
    /// Entries of the table in use.
    pub used: Gauges<KindLabel>,
    /// Entries that the table has room for.
    pub max: Gauges<KindLabel>,
    /// When the table will be full at the present rate; absent where it did not grow all the time, and before it was
    /// watched for 15 minutes.
    pub time_to_full: Gauges<KindLabel>,
    /// Frontends that the previous run left in the tables and no synced cluster has claimed yet.
    pub inherited_frontends: Count,
    /// Backends that the previous run left in the tables and no synced cluster has claimed yet.
    pub inherited_backends: Count,
}

// === impl Metrics ===

impl Metrics {
    /// All of them, as they are exported.
    pub fn exported(&self) -> metrics::Metrics {
        let mut all = metrics::Metrics::new("clustermesh_agent", former::FORMER);
        self.peers.register(&mut all);
        self.health.register(&mut all);
        self.tables.register(&mut all);
        let help = "Problems that `clustermesh status` shows of this agent";
        all.register("problems", help, self.problems.clone());
        let help =
            "How long the last state of an unreachable cluster stays in use: --staleness-budget";
        all.register("staleness_budget_seconds", help, self.staleness_budget.clone());
        let help = "Time since the local apiserver last reported, which it does every second";
        all.register("local_last_seen_seconds", help, self.local_last_seen.clone());
        let help = "1 while the local apiserver does not report, so that connections to services without backends are not refused";
        all.register("local_stale", help, self.local_stale.clone());
        let help = "1 while folders cannot be watched and are read every second instead";
        all.register("file_watch_fallback", help, self.file_watch_fallback.clone());
        let help = "Comparisons of the kernel's tables with what they should hold";
        all.register("audit_passes", help, self.audit_passes.clone());
        let help = "Entries of tables and hooks that were not as they should be and were repaired: another program changed them, or a bug did";
        all.register("audit_repairs", help, self.audit_repairs.clone());
        let help = "Addresses that more than one cluster claims";
        all.register("addresses_contested", help, self.addresses_contested.clone());
        let help = "Routes to other clusters' pods that this node should have";
        all.register("routes", help, self.routes.clone());
        let help = "Of these, routes that the kernel did not accept";
        all.register("routes_failed", help, self.failed_routes.clone());
        let help = "Pods of this node: bound have their identity, waiting do not have it yet";
        all.register("pods", help, self.pods.clone());
        let help = "Sockets ended because their backend was removed or is unreachable, by protocol";
        all.register("sockets_ended", help, self.sockets_ended.clone());
        let help = "Scans of the node's network namespaces for sockets of such backends";
        all.register("socket_scans", help, self.socket_scans.clone());
        let help = "Network namespaces that could not be scanned";
        all.register("socket_scan_failures", help, self.socket_failures.clone());
        let help = "Connections and datagrams to services as the kernel programs counted them, by what became of them";
        all.register("connections", help, self.connections.clone());
        let help = "Calls of connect by processes outside of the agent's cgroup, to whatever address, as the kernel programs counted them";
        all.register("connect_calls", help, self.connect_calls.clone());
        all
    }

    /// Sets the kernel programs' counters, by [`ProgramCounter`]; empty if the map cannot be read.
    pub fn set_connections(&self, counted: &[u64]) {
        let called = counted.get(ProgramCounter::Called as usize);
        self.connect_calls.inner().store(called.copied().unwrap_or_default(), Ordering::Relaxed);
        let counted = PROGRAM_COUNTERS.iter().zip(counted);
        self.connections.set(counted.map(|((_, kind), count)| (KindLabel { kind }, *count)));
    }
}

/// The programs' counters of what became of connections, in their order, and what each is called here. The last counter is
/// of another kind.
const PROGRAM_COUNTERS: [(ProgramCounter, &str); COUNTERS - 1] = [
    (ProgramCounter::Translated, "translated"),
    (ProgramCounter::Retried, "retried"),
    (ProgramCounter::Scanned, "scanned"),
    (ProgramCounter::TookCut, "unreachable"),
    (ProgramCounter::NoBackend, "no_backend"),
    (ProgramCounter::Passed, "passed"),
    (ProgramCounter::Affine, "affine"),
    (ProgramCounter::Datagram, "datagram"),
    (ProgramCounter::Overflowed, "overflowed"),
];

// === impl PeerMetrics ===

impl PeerMetrics {
    fn register(&self, all: &mut metrics::Metrics) {
        let help =
            "1 while the agent is connected to the cluster's etcd and has read everything from it";
        all.register("peer_ready", help, self.ready.clone());
        let help = "Connections to the cluster's etcd that broke";
        all.register("peer_reconnects", help, self.reconnects.clone());
        let help =
            "Records of the cluster that were refused: malformed, or not the cluster's to claim";
        all.register("peer_records_refused", help, self.refused.clone());
        let help = "Records of the cluster that the agent keeps";
        all.register("peer_records", help, self.records.clone());
        let help = "Memory that these records take, about";
        all.register("peer_record_bytes", help, self.record_bytes.clone());
        let help = "Addresses of the cluster's pods that are in no range that it announces";
        all.register("peer_addresses_outside_ranges", help, self.outside_ranges.clone());
        let help = "Backends of the cluster in the kernel's tables";
        all.register("peer_backends", help, self.backends.clone());
        let help = "1 while the cluster is over its budget and nothing more of it is accepted";
        all.register("peer_quarantined", help, self.quarantined.clone());
        let help = "Time since there was a connection to the cluster's etcd; 0 while there is one";
        all.register("peer_last_seen_seconds", help, self.last_seen.clone());
        let help = "1 while the cluster has been away for longer than its staleness budget, so that its backends are not used";
        all.register("peer_stale", help, self.stale.clone());
        let help = "1 while the local cluster is drained of the cluster, so that its backends are used only where nothing else answers";
        all.register("peer_drained", help, self.drained.clone());
        let help = "1 while the cluster is drained by its own operator, so that new connections go elsewhere where others answer";
        all.register("peer_drained_by_operator", help, self.drained_by_operator.clone());
        let help = "Nodes of the cluster that its own operator has drained";
        all.register("peer_drained_nodes", help, self.drained_nodes.clone());
        let help = "1 while neither a node nor the etcd of the cluster answers, so that its backends are used only where there are no others";
        all.register("peer_unreachable", help, self.unreachable.clone());
        let help = "When the certificate in the file ends, in seconds since 1970; of several CAs in one file, the last one";
        all.register("certificate_not_after_timestamp_seconds", help, self.certificates.clone());
    }
}

// === impl HealthMetrics ===

impl HealthMetrics {
    fn register(&self, all: &mut metrics::Metrics) {
        for (name, help, counter) in [
            ("probes_sent", "Probes sent to nodes", &self.probes_sent),
            ("probes_answered", "Probes that a node answered", &self.probes_answered),
            (
                "probes_refused",
                "Probes that a node without an agent sent back",
                &self.probes_refused,
            ),
            ("node_deaths", "Addresses of nodes that stopped answering", &self.deaths),
            ("node_returns", "Addresses of nodes that answered again", &self.returns),
            (
                "node_relapses",
                "Deaths soon after a return: such an address must answer for longer before it counts as back",
                &self.relapses,
            ),
            (
                "peer_unreachable_events",
                "How often a cluster became unreachable",
                &self.unreachable,
            ),
        ] {
            all.register(name, help, counter.clone());
        }
        let help = "A node in use that dies is noticed within this time";
        all.register("node_detection_seconds", help, self.detection.clone());
        let help = "Addresses of nodes that have backends in use: these are probed most often";
        all.register("probed_addresses_in_use", help, self.addresses_in_use.clone());
        let help = "Probed nodes of the cluster that do not answer";
        all.register("peer_nodes_dead", help, self.dead.clone());
        let help = "Probed nodes of the cluster that answer, and on which no agent runs";
        all.register("peer_nodes_without_agent", help, self.without_agent.clone());
        let help = "Dead nodes of the cluster that come and go: they must answer for longer before they count as back";
        all.register("peer_nodes_damped", help, self.damped.clone());
    }
}

// === impl TableMetrics ===

impl TableMetrics {
    fn register(&self, all: &mut metrics::Metrics) {
        let help = "Changes made to the kernel's tables";
        all.register("table_changes", help, self.changes.clone());
        let help = "Time from the arrival of what a cluster reports until the kernel's tables have it; of several that come together, the first";
        all.register("programming_duration_seconds", help, self.programming.0.clone());
        let help = "Frontends of services that lead to no backend";
        all.register("frontends_without_backends", help, self.frontends_without_backends.clone());
        let help = "Changes that failed, mostly because a table is full, and are tried again";
        all.register("table_changes_failing", help, self.failing.clone());
        let help =
            "Single writes to the kernel's tables: system calls, and stores to mapped memory";
        all.register("table_writes", help, self.writes.clone());
        let help = "Entries of the table in use";
        all.register("table_used_entries", help, self.used.clone());
        let help = "Entries that the table has room for";
        all.register("table_max_entries", help, self.max.clone());
        let help = "When the table is full if it goes on to grow as it did; absent where it did not grow all the time, and before it was watched for 15 minutes";
        all.register("table_time_to_full_seconds", help, self.time_to_full.clone());
        let help = "Frontends that the previous run left in the tables and no synced cluster has claimed yet";
        all.register("inherited_frontends", help, self.inherited_frontends.clone());
        let help = "Backends that the previous run left in the tables and no synced cluster has claimed yet";
        all.register("inherited_backends", help, self.inherited_backends.clone());
    }
}

#[cfg(test)]
mod tests {
    use mesh_admin::metrics::conventions::violations;

    use super::*;

    #[test]
    fn metrics_are_as_their_table_says() {
        let metrics = Metrics::default();
        metrics.set_connections(&[1; COUNTERS]);
        metrics.tables.programming.observe(Duration::from_millis(2));
        let text = metrics.exported().text().unwrap();
        let documentation = include_str!("../../../docs/metrics.md");
        assert_eq!(violations(&text, "clustermesh_agent", documentation), Vec::<String>::new());
        assert!(text.contains("clustermesh_agent_connections_total{kind=\"no_backend\"} 1\n"));
        for (end, count) in [("0.001", 0), ("0.003", 1), ("+Inf", 1)] {
            let bucket = format!(
                "clustermesh_agent_programming_duration_seconds_bucket{{le=\"{end}\"}} {count}\n"
            );
            assert!(text.contains(&bucket), "{bucket}: {text}");
        }
    }

    #[test]
    fn counters_of_programs_are_in_their_order() {
        for (at, (counter, _)) in PROGRAM_COUNTERS.into_iter().enumerate() {
            assert_eq!(counter as usize, at);
        }
    }
}
