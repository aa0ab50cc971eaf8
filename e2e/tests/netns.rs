//! The basic scenarios, with clusters in network namespaces. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn spread() {
    scenario::connections_spread_over_both_clusters(&Netns::up("e2espread"));
}

#[test]
fn failover() {
    scenario::the_other_cluster_takes_over_and_gives_back(&Netns::up("e2efailover"));
}

#[test]
fn killed_daemons() {
    scenario::traffic_outlives_every_daemon(&Netns::up("e2ekills"));
}

#[test]
fn disconnect() {
    scenario::disconnect_takes_everything_back(&Netns::up("e2ediscon"));
}

#[test]
fn access() {
    scenario::peers_read_and_no_peer_writes(&Netns::up("e2eaccess"));
}
