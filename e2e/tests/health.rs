//! Backends that fail are avoided, and kept if there are no others. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn a_partitioned_cluster() {
    scenario::a_cluster_is_cut_off(&Netns::up("healthcut"));
}

#[test]
fn a_dead_node() {
    scenario::a_node_is_dead(&Netns::up("healthnode"));
}

#[test]
fn agents_are_down() {
    scenario::agents_are_away(&Netns::up("healthaway"));
}

#[test]
fn a_link_that_flaps() {
    scenario::a_flapping_link_is_damped(&Netns::up("healthflap"));
}

#[test]
fn three_blips() {
    scenario::three_blips_end_no_socket(&Netns::up("healthblips"));
}

#[test]
fn local_uplink() {
    scenario::the_local_uplink_is_cut(&Netns::up("healthuplink"));
}

#[test]
fn unreachable_peer() {
    scenario::an_unreachable_peer_is_valid_for_its_staleness_budget(&Netns::up("healthquiet"));
}

#[test]
fn local_apiserver() {
    scenario::the_local_apiserver_is_unreachable(&Netns::up("healthown"));
}

#[test]
fn a_drained_deployment() {
    scenario::a_deployment_is_drained(&Netns::up("healthdepl"));
}

#[test]
fn a_drained_node_and_cluster() {
    scenario::a_node_and_a_cluster_are_drained(&Netns::up("healthdrain"));
}
