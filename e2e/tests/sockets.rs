//! The end of sockets whose backend is gone, with clusters in network namespaces. Needs root.

use mesh_e2e::{Netns, scenario};

#[test]
fn sockets_to_vanished_backends_end() {
    scenario::sockets_to_vanished_backends_end(&Netns::up("socketsended"));
}

#[test]
fn sockets_to_a_cluster_that_is_cut_off_end() {
    scenario::sockets_to_a_cluster_that_is_cut_off_end(&Netns::up("socketscut"));
}
