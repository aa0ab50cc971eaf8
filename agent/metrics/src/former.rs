//! Names of the previous minor release, to be deleted with the next one.

use mesh_admin::metrics::Former;

/// All of them.
pub(crate) const FORMER: &[Former] = &[
    Former::name("clustermesh_agent_peer_reconnects", "clustermesh_agent_peer_reconnects_total"),
    Former::name("clustermesh_agent_peer_rejected", "clustermesh_agent_peer_records_refused_total"),
    Former::name(
        "clustermesh_agent_table_changes_failed",
        "clustermesh_agent_table_changes_failing",
    ),
    Former::name("clustermesh_agent_table_writes", "clustermesh_agent_table_writes_total"),
    Former::kind(
        "clustermesh_agent_table_entries",
        "clustermesh_agent_table_used_entries",
        "table",
    ),
    Former::kind(
        "clustermesh_agent_table_entries_limit",
        "clustermesh_agent_table_max_entries",
        "table",
    ),
    Former::kind(
        "clustermesh_agent_table_full_in_seconds",
        "clustermesh_agent_table_time_to_full_seconds",
        "table",
    ),
    Former::name("clustermesh_agent_held_frontends", "clustermesh_agent_inherited_frontends"),
    Former::name("clustermesh_agent_held_backends", "clustermesh_agent_inherited_backends"),
    Former::name("clustermesh_audit_passes_total", "clustermesh_agent_audit_passes_total"),
    Former::name("clustermesh_audit_repairs_total", "clustermesh_agent_audit_repairs_total"),
    Former::kind("clustermesh_pods", "clustermesh_agent_pods", "state"),
    Former::kind("clustermesh_sockets_ended", "clustermesh_agent_sockets_ended_total", "protocol"),
    Former::name("clustermesh_sockets_passes", "clustermesh_agent_socket_scans_total"),
    Former::name("clustermesh_sockets_failures", "clustermesh_agent_socket_scan_failures_total"),
    Former::name("clustermesh_health_probes_sent", "clustermesh_agent_probes_sent_total"),
    Former::name("clustermesh_health_probes_answered", "clustermesh_agent_probes_answered_total"),
    Former::name("clustermesh_health_probes_refused", "clustermesh_agent_probes_refused_total"),
    Former::name("clustermesh_health_node_deaths", "clustermesh_agent_node_deaths_total"),
    Former::name("clustermesh_health_node_returns", "clustermesh_agent_node_returns_total"),
    Former::name("clustermesh_health_node_relapses", "clustermesh_agent_node_relapses_total"),
    Former::name(
        "clustermesh_health_cluster_cuts",
        "clustermesh_agent_peer_unreachable_events_total",
    ),
    Former::name("clustermesh_health_cluster_cut", "clustermesh_agent_peer_unreachable"),
    Former::unit(
        "clustermesh_health_detection_milliseconds",
        "clustermesh_agent_node_detection_seconds",
        1_000,
    ),
    Former::name(
        "clustermesh_health_addresses_in_use",
        "clustermesh_agent_probed_addresses_in_use",
    ),
    Former::name("clustermesh_health_nodes_dead", "clustermesh_agent_peer_nodes_dead"),
    Former::name(
        "clustermesh_health_nodes_without_agent",
        "clustermesh_agent_peer_nodes_without_agent",
    ),
    Former::name("clustermesh_health_nodes_damped", "clustermesh_agent_peer_nodes_damped"),
];
