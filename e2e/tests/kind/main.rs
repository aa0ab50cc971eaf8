//! Scenarios on kind clusters: real API servers, kubelets, kube-proxies and pods (`make test-kind`). Needs root.
//!
//! Those of `scenario` also run in network namespaces. The modules have what only Kubernetes has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is test code"
)]

mod certificates;
mod commands;
mod figures;
mod guest;
mod nodes;
mod pods;
mod replaced;

use std::time::Duration;

use mesh_e2e::{Kind, scenario};

/// How long Kubernetes may take for something, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn spread() {
    scenario::connections_spread_over_both_clusters(&Kind::up(&["a", "b"]));
}

#[test]
fn failover() {
    scenario::the_other_cluster_takes_over_and_gives_back(&Kind::up(&["a", "b"]));
}

#[test]
fn killed_daemons() {
    scenario::traffic_outlives_every_daemon(&Kind::up(&["a", "b"]));
}

#[test]
fn disconnect() {
    scenario::disconnect_takes_everything_back(&Kind::up(&["a", "b"]));
}

#[test]
fn affinity() {
    scenario::affinity_fails_over_and_back(&Kind::numbered(&["a", "b"]));
}

#[test]
fn sessions() {
    scenario::clients_come_back_to_their_backend(&Kind::numbered(&["a", "b"]));
}

#[test]
fn locality() {
    scenario::connections_end_near_where_they_begin(&Kind::numbered(&["a", "b"]));
}

/// Kubelets of c have the default interval for mounted Secrets.
#[test]
fn three_clusters() {
    scenario::weights_tiers_and_a_minimum_spread_as_they_say(&Kind::numbered(&["a", "b", "c"]));
}

#[test]
fn drained_deployment() {
    scenario::a_deployment_is_drained(&Kind::up(&["a", "b"]));
}

/// The second cluster has two nodes.
#[test]
fn drained_node_and_cluster() {
    scenario::a_node_and_a_cluster_are_drained(&Kind::up(&["b", "a"]));
}

#[test]
fn outage() {
    scenario::a_cluster_is_cut_off(&Kind::up(&["a", "b"]));
}

#[test]
fn dead_node() {
    scenario::a_node_is_dead(&Kind::up(&["b", "a"]));
}

#[test]
fn hostile_peer() {
    scenario::false_records_are_rejected(&Kind::up(&["a", "b", "c"]));
}
