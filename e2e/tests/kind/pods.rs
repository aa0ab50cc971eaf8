//! `kubectl` is the input: Deployments are rolled out and nodes drained, under load. No request fails.

use std::collections::BTreeSet;

use mesh_e2e::{
    Kind, Mesh, Traffic,
    echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_backends, wanted},
    json, kernel,
    load::Assert as _,
    mesh::{frontends, within},
    netns::binary,
};
use serde_json::Value;

use super::PATIENCE;

fn rolled_out(mesh: &Kind, cluster: &str) {
    let deployment = ["--namespace", "default", "deployment/echo"];
    mesh.kubectl_done(cluster, &[&["rollout", "restart"][..], &deployment].concat());
    let status = ["rollout", "status", "--timeout", "120s"];
    mesh.kubectl_done(cluster, &[&status[..], &deployment].concat());
    mesh.settle(cluster);
}

/// Each Deployment is rolled out, which replaces all of its pods.
#[test]
fn rollouts() {
    let mesh = Kind::up(&["a", "b"]);
    let (one, other) = two_clusters_with_echo(&mesh);
    let traffic = Traffic::start(&mesh, &one, CLIENT, ECHO);
    for cluster in [&one, &other, &one] {
        let before = mesh.pod_ips(cluster, "echo");
        rolled_out(&mesh, cluster);
        let after = mesh.pod_ips(cluster, "echo");
        assert!(after.iter().all(|ip| !before.contains(ip)), "{before:?}, {after:?}");
        wait_for_backends(&mesh, &[&one, &other]);
    }
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(&mesh, &one));
    assert_eq!(report.clusters.len(), 2, "{report:#?}");
}

/// The number of replicas of a cluster's control plane. Dropping it sets the manifest's.
struct Replicas<'a>(&'a Kind, &'a str);

impl<'a> Replicas<'a> {
    fn new(mesh: &'a Kind, cluster: &'a str, number: u32) -> Self {
        scale(mesh, cluster, number);
        Self(mesh, cluster)
    }
}

impl Drop for Replicas<'_> {
    fn drop(&mut self) {
        scale(self.0, self.1, 1);
    }
}

fn scale(mesh: &Kind, cluster: &str, number: u32) {
    let deployment = ["--namespace", "clustermesh-system", "deployment/clustermesh-apiserver"];
    let replicas = format!("--replicas={number}");
    mesh.kubectl_done(cluster, &[&["scale", &replicas][..], &deployment].concat());
    let status = ["rollout", "status", "--timeout", "120s"];
    mesh.kubectl_done(cluster, &[&status[..], &deployment].concat());
}

/// `kubectl drain` evicts the pods of a node, and with them one of two replicas of the control plane: agents take the other,
/// whose view is as new.
#[test]
fn a_node_drained_by_kubectl() {
    let mesh = Kind::up(&["b", "a"]);
    let node = "a-worker";
    let _replicas = Replicas::new(&mesh, "a", 2);
    let (one, other) = two_clusters_with_echo(&mesh);
    let traffic = Traffic::start(&mesh, &one, CLIENT, ECHO);
    let drain = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force"];
    mesh.kubectl_done(&other, &[&drain[..], &["--timeout", "120s"]].concat());
    mesh.settle(&other);
    let pods = mesh.objects(&other, "pods", "default");
    assert!(pods.iter().all(|pod| pod["spec"]["nodeName"] != node), "{pods:#?}");
    // What a replica says that agents took in place of another is used after 30 s, unless it is known to be newer.
    let wanted = wanted(&mesh, &one, &[&one, &other]);
    let here = &mesh.nodes(&one)[0];
    within(PATIENCE, "the new pods are used", || {
        let found = kernel::services(&mesh.pins(&one, here));
        if found == wanted { Ok(()) } else { Err(format!("{found:#?}, not {wanted:#?}")) }
    });
    mesh.kubectl_done(&other, &["uncordon", node]);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(&mesh, &one));
}

/// CoreDNS was there before the agents: its pods are picked up without a restart. No scenario touches those of b.
#[test]
fn pods_that_were_there_before() {
    let mesh = Kind::up(&["a", "b"]);
    let (_, here) = two_clusters_with_echo(&mesh);
    let started = |pod: &Value| pod["status"]["startTime"].as_str().unwrap_or_default().to_owned();
    let agents = mesh.objects(&here, "pods", "clustermesh-system");
    let first = agents.iter().map(started).min().expect("agents");
    let system = mesh.objects(&here, "pods", "kube-system");
    let is_old =
        |pod: &&Value| pod["metadata"]["labels"]["k8s-app"] == "kube-dns" && started(pod) < first;
    let old = system.iter().find(is_old).expect("a pod of CoreDNS older than the agents");
    let name = old["metadata"]["name"].as_str().expect("a name");
    let address = frontends(&mesh, &here, ECHO, "TCP")[0].to_string();
    // The pod's image has no program for this.
    let program = binary().display().to_string();
    let call = [program.as_str(), "lab-pod", "call", &address, "--count", "100"];
    let answers = json::of(mesh.in_network_of(&here, "kube-system", name, &call));
    let answers = answers["calls"].as_array().expect("calls").iter();
    let clusters: BTreeSet<&str> =
        answers.map(|call| call["answer"]["cluster"].as_str().expect("a cluster")).collect();
    assert_eq!(clusters, BTreeSet::from(["a", "b"]));
}
