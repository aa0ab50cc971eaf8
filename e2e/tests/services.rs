//! The load balancing that annotations and fields of Services ask for, with clusters in network namespaces. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn affinity() {
    scenario::affinity_fails_over_and_back(&Netns::sized("decideaffin", 2, 1));
}

#[test]
fn shares() {
    scenario::weights_tiers_and_a_minimum_spread_as_they_say(&Netns::sized("decideshares", 3, 1));
}

#[test]
fn global() {
    scenario::only_what_is_global_is_shared(&Netns::sized("decideglobal", 2, 1));
}

#[test]
fn sessions() {
    scenario::clients_come_back_to_their_backend(&Netns::sized("decidesess", 2, 1));
}

#[test]
fn locality() {
    scenario::connections_end_near_where_they_begin(&Netns::sized("decidelocal", 2, 2));
}
