//! Pods that are attached by the chain of CNI plugins, as by a kubelet. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn pods_are_bound() {
    scenario::pods_are_bound_as_they_are_attached(&Netns::sized("cnibound", 1, 2));
}

#[test]
fn without_the_control_plane() {
    scenario::a_pod_starts_without_the_control_plane(&Netns::up("cniaway"));
}

#[test]
fn with_a_hanging_agent() {
    scenario::an_agent_that_hangs_keeps_no_pod_from_starting(&Netns::sized("cnihangs", 1, 1));
}

#[test]
fn the_check_command() {
    scenario::check_notices_what_is_missing(&Netns::sized("cnicheck", 1, 1));
}

#[test]
fn calls_by_hand() {
    scenario::calls_by_hand_are_answered(&Netns::sized("cnihand", 1, 1));
}

#[test]
fn socket_lb_opt_out() {
    scenario::a_pod_opts_out_of_socket_lb(&Netns::sized("cnialone", 1, 2));
}
