//! Scenarios that must succeed on any mesh.

mod access;
mod agent_crashes;
mod attacks;
mod churn;
mod cni;
mod cold_start;
mod cut;
mod disconnect;
mod double_faults;
mod etcd_data_loss;
mod failover;
mod full;
mod hanging;
mod health;
mod identities;
mod kills;
mod leases;
mod policies;
mod quarantine;
mod replicas;
mod restarts;
mod routed;
mod services;
mod socket_lb_opt_out;
mod sockets;
mod spread;
mod start;
mod stop;
mod tables;
mod upgrade;

pub use access::peers_read_and_no_peer_writes;
pub use agent_crashes::traffic_outlives_ten_kills_of_an_agent;
pub use attacks::{
    false_records_are_rejected, floods_are_stopped, strangers_are_refused,
    what_is_not_confirmed_or_granted_is_left_out,
};
pub use churn::an_agent_starts_while_pods_are_removed;
pub use cni::{
    a_pod_starts_without_the_control_plane, an_agent_that_hangs_keeps_no_pod_from_starting,
    calls_by_hand_are_answered, check_notices_what_is_missing, pods_are_bound_as_they_are_attached,
};
pub use cold_start::a_node_starts_from_its_snapshot;
pub use cut::a_partition_outlasts_a_compaction;
pub use disconnect::disconnect_takes_everything_back;
pub use double_faults::traffic_outlives_pairs_of_daemons;
pub use etcd_data_loss::{History, an_etcd_loses_its_data};
pub use failover::the_other_cluster_takes_over_and_gives_back;
pub use full::an_etcd_is_full;
pub use health::{
    a_cluster_is_cut_off, a_deployment_is_drained, a_flapping_link_is_damped,
    a_node_and_a_cluster_are_drained, a_node_is_dead, agents_are_away,
    an_unreachable_peer_is_valid_for_its_staleness_budget, the_local_apiserver_is_unreachable,
    the_local_uplink_is_cut, three_blips_end_no_socket, wait_until_probed,
};
pub use identities::{a_journal_is_lost, pods_are_relabelled};
pub use kills::traffic_outlives_every_daemon;
pub use leases::an_expired_lease_removes_nothing;
pub use policies::{
    default_deny_and_allow_across_clusters, policies_outlive_their_agent,
    the_api_server_is_an_entity,
};
pub use quarantine::a_peer_over_its_budget_costs_nothing_more;
pub use replicas::{
    a_replica_is_killed, a_replica_that_is_behind_removes_nothing, replicas_agree_on_identities,
};
pub use restarts::restarts_end_no_connection;
pub use routed::a_router_between_all_nodes;
pub use services::{
    affinity_fails_over_and_back, clients_come_back_to_their_backend,
    connections_end_near_where_they_begin, only_what_is_global_is_shared,
    weights_tiers_and_a_minimum_spread_as_they_say,
};
pub use socket_lb_opt_out::a_pod_opts_out_of_socket_lb;
pub use sockets::{sockets_to_a_cluster_that_is_cut_off_end, sockets_to_vanished_backends_end};
pub use spread::connections_spread_over_both_clusters;
pub use start::an_agent_starts_without_its_local_etcd;
pub use stop::agents_that_are_stopped_leave_everything;
pub use tables::{
    a_full_table_is_named_and_filled_when_there_is_room, tables_get_other_sizes_under_load,
    tables_of_another_release_are_replaced_under_load,
};
pub use upgrade::agents_of_the_release_before_groups_take_turns;
