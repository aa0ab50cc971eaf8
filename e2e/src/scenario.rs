//! What must be true of any mesh.

mod access;
mod agent_crashes;
mod attacks;
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
mod quarantine;
mod replicas;
mod services;
mod socket_lb_opt_out;
mod sockets;
mod spread;
mod start;
mod stop;
mod tables;
mod upgrade;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

pub use access::only_peers_read_and_nobody_writes;
pub use agent_crashes::traffic_outlives_ten_kills_of_an_agent;
pub use attacks::{floods_and_strangers_are_stopped, nothing_false_is_believed};
pub use cni::{
    a_pod_starts_without_the_control_plane, an_agent_that_hangs_keeps_no_pod_from_starting,
    calls_by_hand_are_answered, check_notices_what_is_missing, pods_are_bound_as_they_are_attached,
};
pub use cold_start::a_node_starts_with_what_it_knew;
pub use cut::a_cut_outlasts_the_history;
pub use disconnect::disconnect_takes_everything_back;
pub use double_faults::traffic_outlives_pairs_of_daemons;
pub use etcd_data_loss::{History, an_etcd_begins_anew};
pub use failover::the_other_cluster_takes_over_and_gives_back;
pub use full::an_etcd_is_full;
pub use health::{
    a_cluster_is_cut_off, a_deployment_is_drained, a_flapping_link_is_damped,
    a_node_and_a_cluster_are_drained, a_node_is_dead, a_silent_peer_is_believed_for_so_long,
    agents_are_away, our_own_uplink_is_cut, the_own_apiserver_is_silent, three_blips_end_no_socket,
};
pub use identities::{a_journal_is_lost, pods_are_relabelled};
pub use kills::traffic_outlives_every_daemon;
pub use leases::an_expired_lease_is_silence;
pub use quarantine::a_peer_over_its_budget_costs_nothing_more;
pub use replicas::{
    a_replica_is_killed, a_replica_that_is_behind_is_not_believed, replicas_agree_on_identities,
};
pub use services::{
    affinity_fails_over_and_back, clients_come_back_to_their_backend,
    only_what_is_global_is_shared, weights_tiers_and_a_minimum_spread_as_they_say,
};
pub use socket_lb_opt_out::a_pod_is_left_alone;
pub use sockets::{sockets_to_a_cluster_that_is_cut_off_end, sockets_to_vanished_backends_end};
pub use spread::connections_spread_over_both_clusters;
pub use start::an_agent_starts_without_its_own_etcd;
pub use stop::agents_told_to_stop_leave_everything;
pub use tables::{
    a_full_table_is_named_and_filled_when_there_is_room, tables_get_other_sizes_under_load,
    tables_of_another_release_are_replaced_under_load,
};
pub use upgrade::agents_of_the_release_before_groups_take_turns;

use serde_json::Value;

use crate::{
    json,
    kernel::{Destination, Services},
    mesh::{Mesh, connect, eventually, frontends},
};

/// The service of `deploy/examples/echo.yaml`, and where its pods listen.
pub const ECHO: &str = "default/echo";
const ECHO_PORT: u16 = 8080;
/// The pod of `deploy/examples/client.yaml`.
pub const CLIENT: &str = "client";
/// IP protocol numbers, by their names.
const PROTOCOLS: [(&str, u8); 2] = [("TCP", 6), ("UDP", 17)];

/// Two connected clusters with a global service in each, and a client in the first.
pub fn two_with_echo(mesh: &impl Mesh) -> (String, String) {
    let [one, other] = mesh.clusters().try_into().expect("two clusters");
    for cluster in [&one, &other] {
        mesh.apply(cluster, "echo", None);
    }
    mesh.apply(&one, "client", None);
    connect(mesh, &one, &other);
    wait_for_backends(mesh, &[&one, &other]);
    (one, other)
}

/// Waits until every kernel is what the manifests say, through neither the agents nor their tables.
fn wait_for_history(mesh: &impl Mesh) {
    eventually("the kernels are what the manifests say", || {
        match json::run(mesh.check_history()) {
            (0, ..) => Ok(()),
            (_, history, complaint) => Err(format!("{history:#} {complaint}")),
        }
    });
}

/// Waits until every node of every cluster balances over the pods of `clusters` and no others.
pub fn wait_for_backends(mesh: &impl Mesh, clusters: &[&str]) {
    for cluster in mesh.clusters() {
        wait_for_backends_in(mesh, &cluster, clusters);
    }
}

/// Waits until every node of one cluster balances over the pods of `clusters` and no others.
pub fn wait_for_backends_in(mesh: &impl Mesh, cluster: &str, clusters: &[&str]) {
    let wanted = wanted(mesh, cluster, clusters);
    for node in mesh.nodes(cluster) {
        let pins = mesh.pins(cluster, &node);
        eventually(&format!("the kernel of {cluster}/{node} is what the manifests say"), || {
            let found = crate::kernel::services(&pins);
            if found == wanted { Ok(()) } else { Err(format!("{found:#?}, not {wanted:#?}")) }
        });
    }
}

/// What the manifests say about the services that clients in `cluster` have, if `clusters` are in the mesh: each address
/// leads to all pods of its family.
fn wanted(mesh: &impl Mesh, cluster: &str, clusters: &[&str]) -> Services {
    let all = mesh.clusters();
    let number = |name: &str| {
        // The lab counts its clusters from 1.
        let index = all.iter().position(|other| other == name).expect("a cluster of the mesh");
        u16::try_from(index + 1).expect("a cluster's number")
    };
    let destinations = |v4: bool| -> BTreeSet<Destination> {
        let of = |name: &&str| {
            let cluster = number(name);
            let ips = mesh.pod_ips(name, "echo").into_iter().filter(move |ip| ip.is_ipv4() == v4);
            ips.map(move |ip| Destination { address: SocketAddr::new(ip, ECHO_PORT), cluster })
        };
        clusters.iter().flat_map(of).collect()
    };
    let mut services = Services::new();
    for (name, number) in PROTOCOLS {
        for frontend in frontends(mesh, cluster, ECHO, name) {
            services.insert((frontend, number), destinations(frontend.is_ipv4()));
        }
    }
    assert_eq!(services.len(), 4, "TCP and UDP, v4 and v6");
    services
}

/// What `status --output json` says of a node's agent.
fn agent_status(mesh: &impl Mesh, cluster: &str, node: &str) -> Value {
    let (_, status, stderr) = json::run(mesh.clustermesh(&["status", "--context", cluster]));
    let agents = status["clusters"][0]["agents"].as_array().cloned().unwrap_or_default();
    let agent = agents.into_iter().find(|agent| agent["node"] == node);
    agent.unwrap_or_else(|| panic!("no agent on {cluster}/{node}: {status:#}\n{stderr}"))
}

/// The addresses of the client's pod: what servers must see, in every cluster.
pub fn client_ips(mesh: &impl Mesh, cluster: &str) -> Vec<IpAddr> {
    let ips = mesh.pod_ips(cluster, CLIENT);
    assert_eq!(ips.len(), 2, "v4 and v6");
    ips
}
