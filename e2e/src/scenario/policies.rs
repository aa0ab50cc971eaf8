//! Policies that nodes enforce on their pods' packets.

use std::{
    net::{IpAddr, SocketAddr},
    process::Child,
    time::Duration,
};

use crate::{
    json,
    load::Traffic,
    mesh::{Daemon, Mesh, connect, wait_ready, within},
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
    ports: [{name: web, containerPort: 8080}]
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

/// Of cluster a's clients, to cluster b's server, at a port by its name.
const ALLOW: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-clients}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client, io.cilium.k8s.policy.cluster: a}}]
    toPorts: [{ports: [{port: web, protocol: TCP}]}]
";

/// Of which nobody knows what it would let in: rules about HTTP are not supported.
const REFUSED: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: refused}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - toPorts: [{ports: [{port: \"8080\", protocol: TCP}], rules: {http: [{method: GET}]}}]
";

const ONLY_THE_API_SERVER: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress: [{toEntities: [kube-apiserver]}]
";

const API_SERVER: &str = "
apiVersion: v1
kind: Service
metadata: {name: kubernetes}
spec: {clusterIP: 10.102.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: kubernetes}
subsets: [{addresses: [{ip: ADDRESS}], ports: [{name: https, port: 6443}]}]
";

/// A file without objects: what was in it is gone.
const NOTHING: &str = "";

/// Two clusters, connected, with the pods; and the address of b's server.
fn set_up(mesh: &impl Mesh) -> (String, String, SocketAddr) {
    let clusters = mesh.clusters();
    let [a, b] = &clusters[..] else { panic!("two clusters: {clusters:?}") };
    connect(mesh, a, b);
    for cluster in [a, b] {
        mesh.apply_text(cluster, "pods", PODS);
    }
    let v4 = mesh.pod_ips(b, SERVER).into_iter().find(|ip| ip.is_ipv4());
    (a.clone(), b.clone(), SocketAddr::new(v4.expect("an address"), 8_080))
}

/// Whether a pod's call is answered.
fn calls(mesh: &impl Mesh, cluster: &str, pod: &str, server: SocketAddr, udp: bool) -> bool {
    let server = server.to_string();
    let mut call =
        vec!["clustermesh", "lab-pod", "call", &server, "--count", "1", "--timeout", PATIENCE];
    if udp {
        call.push("--udp");
    }
    json::run(mesh.in_pod(cluster, pod, &call)).0 == 0
}

/// Nothing that is denied passes while the agent of the server's node is dead, nor while it starts again; and nothing that is
/// allowed fails.
pub fn policies_outlive_their_agent(mesh: &impl Mesh) {
    let (a, b, server) = set_up(mesh);
    mesh.apply_text(&b, "deny", DENY);
    mesh.apply_text(&b, "allow", ALLOW);
    let denied = || {
        [(&a, STRANGER), (&b, CLIENT)]
            .map(|(cluster, pod)| calls(mesh, cluster, pod, server, false))
    };
    within(Duration::from_secs(30), "strangers are denied", || {
        let found = denied();
        if found == [false; 2] { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let traffic = Traffic::to(mesh, &a, CLIENT, server);
    let agent = Daemon::Agent(b.clone(), mesh.node_of(&b, SERVER));
    for _ in 0..2 {
        mesh.halt(&agent);
        assert_eq!(denied(), [false; 2], "while the agent is dead");
        mesh.start(&agent);
        assert_eq!(denied(), [false; 2], "while it starts");
        wait_ready(mesh);
        assert_eq!(denied(), [false; 2], "once it is ready");
        assert!(calls(mesh, &a, CLIENT, server, false));
    }
    traffic.stop_unharmed();
    // What it now judges is what is meant: the allow is gone, for those that were allowed too.
    mesh.apply_text(&b, "allow", NOTHING);
    within(Duration::from_secs(30), "the client is denied", || {
        let passes = calls(mesh, &a, CLIENT, server, false);
        if passes { Err("it passes".into()) } else { Ok(()) }
    });
}

/// A pod that may reach the API server only reaches its node, from elsewhere and from that node itself, and no other.
pub fn the_api_server_is_an_entity(mesh: &impl Mesh) {
    let (_, b, _) = set_up(mesh);
    let nodes = mesh.nodes(&b);
    let v4 = |node: &String| mesh.node_ips(&b, node).into_iter().find(|ip| ip.is_ipv4());
    let addresses: Vec<IpAddr> = nodes.iter().filter_map(v4).collect();
    let [first, second] = addresses[..] else { panic!("two nodes: {addresses:?}") };
    let servers: Vec<Running> = nodes
        .iter()
        .map(|node| {
            let serve = ["clustermesh", "lab-pod", "serve", "--tcp", "6443"];
            Running(mesh.on_node(&b, node, &serve).spawn().expect("the server starts"))
        })
        .collect();
    let reached =
        || [first, second].map(|node| calls(mesh, &b, CLIENT, SocketAddr::new(node, 6_443), false));
    let wait = |wanted: [bool; 2]| {
        within(Duration::from_secs(30), "the nodes that are reached", || {
            let found = reached();
            if found == wanted { Ok(()) } else { Err(format!("{found:?} and not {wanted:?}")) }
        });
    };
    wait([true; 2]);
    mesh.apply_text(&b, "policy", ONLY_THE_API_SERVER);
    wait([false; 2]);
    for (node, wanted) in [(first, [true, false]), (second, [false, true])] {
        mesh.apply_text(&b, "kubernetes", &API_SERVER.replace("ADDRESS", &node.to_string()));
        wait(wanted);
    }
    mesh.apply_text(&b, "kubernetes", NOTHING);
    wait([false; 2]);
    drop(servers);
}

/// A process that ends with the scenario.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Default deny, an allow for pods of another cluster by their labels, and neither any more. The same labels in the own
/// cluster are not meant, nor is another port's protocol.
pub fn default_deny_and_allow_across_clusters(mesh: &impl Mesh) {
    let (a, b, server) = set_up(mesh);
    let calls = |cluster: &str, pod, udp| calls(mesh, cluster, pod, server, udp);
    let all = |wanted: [bool; 5]| {
        let all = || {
            [
                calls(&a, CLIENT, false),
                calls(&a, STRANGER, false),
                calls(&a, CLIENT, true),
                calls(&b, CLIENT, false),
                calls(&b, STRANGER, true),
            ]
        };
        within(Duration::from_secs(30), "calls that are answered", || {
            let found = all();
            if found == wanted { Ok(()) } else { Err(format!("{found:?} and not {wanted:?}")) }
        });
    };
    all([true; 5]);
    mesh.apply_text(&b, "deny", DENY);
    all([false; 5]);
    mesh.apply_text(&b, "allow", ALLOW);
    all([true, false, false, false, false]);
    mesh.apply_text(&b, "deny", NOTHING);
    all([true, false, false, false, false]);
    mesh.apply_text(&b, "refused", REFUSED);
    all([false; 5]);
    mesh.apply_text(&b, "refused", NOTHING);
    all([true, false, false, false, false]);
    mesh.apply_text(&b, "allow", NOTHING);
    all([true; 5]);
}
