//! Clusters with two replicas of their control plane, between network namespaces. Needs root.

use mesh_e2e::{Netns, scenario};

fn up(name: &str) -> Netns {
    Netns::with(name, &["--replicas", "2"])
}

#[test]
fn a_killed_replica() {
    scenario::a_replica_is_killed(&up("apikilled"));
}

#[test]
fn a_replica_that_is_behind() {
    scenario::a_replica_that_is_behind_removes_nothing(&up("apibehind"));
}

#[test]
fn identities() {
    scenario::replicas_agree_on_identities(&up("apiidentity"));
}
