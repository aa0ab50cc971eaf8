//! Pods through the chain of CNI plugins, as a kubelet attaches them. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn bound() {
    scenario::pods_are_bound_as_they_are_attached(&Netns::sized("cnibound", 1, 2));
}

#[test]
fn away() {
    scenario::a_pod_starts_without_the_control_plane(&Netns::up("cniaway"));
}

#[test]
fn hangs() {
    scenario::an_agent_that_hangs_keeps_no_pod_from_starting(&Netns::sized("cnihangs", 1, 1));
}

#[test]
fn check() {
    scenario::check_notices_what_is_missing(&Netns::sized("cnicheck", 1, 1));
}

#[test]
fn by_hand() {
    scenario::calls_by_hand_are_answered(&Netns::sized("cnihand", 1, 1));
}

#[test]
fn alone() {
    scenario::a_pod_opts_out_of_socket_lb(&Netns::sized("cnialone", 1, 2));
}
