//! Policies that nodes enforce on their pods' packets.

use std::time::Duration;

use crate::{
    json,
    mesh::{Mesh, connect, within},
};

const CLIENT: &str = "client";
/// A pod of this name in each cluster serves, and another one calls.
const SERVER: &str = "server";
const STRANGER: &str = "stranger";
/// How long a call waits for an answer: in a lab one takes a millisecond.
const PATIENCE: &str = "700ms";

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  serviceAccountName: default
  containers:
  - name: echo
    image: clustermesh:dev
    command: [clustermesh, lab-pod, serve, --tcp, \"8080\", --udp, \"8080\"]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: client, image: clustermesh:dev}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, labels: {app: stranger}}
spec: {containers: [{name: client, image: clustermesh:dev}]}
";

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}
";

/// Of cluster a's clients, to cluster b's server.
const ALLOW: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-clients}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client, io.cilium.k8s.policy.cluster: a}}]
    toPorts: [{ports: [{port: \"8080\", protocol: TCP}]}]
";

/// A file without objects: what was in it is gone.
const NOTHING: &str = "";

/// Default deny, an allow for pods of another cluster by their labels, and neither any more. The same labels in the own
/// cluster are not meant, nor is another port's protocol.
pub fn default_deny_and_allow_across_clusters(mesh: &impl Mesh) {
    let clusters = mesh.clusters();
    let [a, b] = &clusters[..] else { panic!("two clusters: {clusters:?}") };
    connect(mesh, a, b);
    for cluster in [a, b] {
        mesh.apply_text(cluster, "pods", PODS);
    }
    let address = |cluster: &str| {
        let v4 = mesh.pod_ips(cluster, SERVER).into_iter().find(|ip| ip.is_ipv4());
        format!("{}:8080", v4.expect("an address"))
    };
    let server = address(b);
    let calls = |cluster: &str, pod: &str, udp: bool| {
        let mut call =
            vec!["clustermesh", "lab-pod", "call", &server, "--count", "1", "--timeout", PATIENCE];
        if udp {
            call.push("--udp");
        }
        json::run(mesh.in_pod(cluster, pod, &call)).0 == 0
    };
    let all = |wanted: [bool; 5]| {
        let all = || {
            [
                calls(a, CLIENT, false),
                calls(a, STRANGER, false),
                calls(a, CLIENT, true),
                calls(b, CLIENT, false),
                calls(b, STRANGER, true),
            ]
        };
        within(Duration::from_secs(30), "calls that are answered", || {
            let found = all();
            if found == wanted { Ok(()) } else { Err(format!("{found:?} and not {wanted:?}")) }
        });
    };
    all([true; 5]);
    mesh.apply_text(b, "deny", DENY);
    all([false; 5]);
    mesh.apply_text(b, "allow", ALLOW);
    all([true, false, false, false, false]);
    mesh.apply_text(b, "deny", NOTHING);
    all([true, false, false, false, false]);
    mesh.apply_text(b, "allow", NOTHING);
    all([true; 5]);
}
