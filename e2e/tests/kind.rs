//! Scenarios on kind clusters: real API servers, kubelets, pods and kube-proxies. Needs root and what docs/kind.md
//! names: `make test-kind`.

use mesh_e2e::{Kind, scenario};

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
