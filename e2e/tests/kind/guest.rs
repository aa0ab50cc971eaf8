//! Beside a kube-proxy: what agents do not take works as before.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::Command,
};

use mesh_e2e::{
    Kind, Mesh,
    echo_service::{CLIENT, two_clusters_with_echo},
    json, kernel,
    mesh::within,
    netns::binary,
};
use serde_json::Value;

use super::PATIENCE;

/// Services that a kube-proxy serves, and a pod with a host port.
const OTHERS: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: plain }
spec:
  ipFamilyPolicy: PreferDualStack
  selector: { app: echo }
  ports: [{ name: http, port: 80, targetPort: 8080 }, { name: udp, port: 80, targetPort: 8080, protocol: UDP }]
---
apiVersion: v1
kind: Service
metadata: { name: outside, annotations: { service.cilium.io/global: "true" } }
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: { app: echo }
  externalIPs: [203.0.113.7]
  ports: [{ name: http, port: 8888, targetPort: 8080, nodePort: 30888 }]
---
apiVersion: v1
kind: Pod
metadata: { name: host-port }
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: echo
      image: clustermesh:dev
      command: [clustermesh, lab-pod, serve, --tcp, "8080", --udp, "8080"]
      ports: [{ containerPort: 8080, hostPort: 18080 }]
      env:
        - { name: POD_NAME, value: host-port }
        - { name: CLUSTER_NAME, valueFrom: { configMapKeyRef: { name: cluster, key: name } } }
"#;
const INGRESS: &str = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.8"}]}}}"#;

/// The clusters and pods that answer calls.
fn answering(mut call: Command, to: SocketAddr, udp: bool) -> Result<BTreeSet<String>, String> {
    call.arg(to.to_string()).args(["--count", "40"]);
    if udp {
        call.arg("--udp");
    }
    let (code, answers, complaint) = json::run(call);
    if code != 0 {
        return Err(format!("{to}: {complaint}"));
    }
    let calls = answers["calls"].as_array().expect("calls").iter();
    let name = |call: &Value| {
        let word = |key: &str| call["answer"][key].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", word("cluster"), word("pod"))
    };
    Ok(calls.map(name).collect())
}

fn assert_answers(what: &str, call: impl Fn() -> Command, to: SocketAddr, udp: bool, prefix: &str) {
    // kube-proxy and the plugin for host ports may need a moment.
    let found = within(PATIENCE, &format!("{what} at {to} answers"), || answering(call(), to, udp));
    println!("{what} at {to}: {found:?}");
    assert!(found.iter().all(|pod| pod.starts_with(prefix)), "{what}: {found:?}");
}

/// In a connected mesh, everything that a kube-proxy serves is answered, by pods of its own cluster.
fn what_a_kube_proxy_serves(mesh: &Kind, one: &str) {
    mesh.apply_text(one, "others", OTHERS);
    let patch =
        ["patch", "service", "outside", "--namespace", "default", "--subresource", "status"];
    mesh.kubectl_done(one, &[&patch[..], &["--type", "merge", "--patch", INGRESS]].concat());
    let services = mesh.objects(one, "services", "default");
    let ips = |service: &str| -> Vec<IpAddr> {
        let found = services.iter().find(|found| found["metadata"]["name"] == service);
        let ips = found.expect("a service")["spec"]["clusterIPs"].as_array().cloned();
        let ips = ips.unwrap_or_default();
        ips.iter().map(|ip| ip.as_str().expect("an IP").parse().expect("an IP")).collect()
    };
    let call = ["clustermesh", "lab-pod", "call"];
    let in_pod = || mesh.in_pod(one, CLIENT, &call);
    let program = binary().display().to_string();
    let call = [program.as_str(), "lab-pod", "call"];
    let nodes = mesh.nodes(one);
    let on_node = || mesh.in_network_of_node(&nodes[0], &call);

    let mine = format!("{one}/echo-");
    for ip in ips("plain") {
        for udp in [false, true] {
            let to = SocketAddr::new(ip, 80);
            assert_answers("a plain service, from a pod", in_pod, to, udp, &mine);
            assert_answers("a plain service, from a node", on_node, to, udp, &mine);
        }
    }
    for node in &nodes {
        for ip in mesh.node_ips(one, node) {
            let to = SocketAddr::new(ip, 30888);
            assert_answers("a node port, from a pod", in_pod, to, false, &mine);
            assert_answers("a node port, from a node", on_node, to, false, &mine);
        }
    }
    let outside = |last: u8| SocketAddr::new(IpAddr::from([203, 0, 113, last]), 8888);
    assert_answers("an external IP, from a pod", in_pod, outside(7), false, &mine);
    assert_answers("an external IP, from a node", on_node, outside(7), false, &mine);
    assert_answers("a load balancer's IP, from a pod", in_pod, outside(8), false, &mine);
    let host = mesh.node_ips(one, &mesh.node_of(one, "host-port"))[0];
    let host = SocketAddr::new(host, 18080);
    assert_answers("a host port, from a pod", in_pod, host, false, &format!("{one}/host-port"));

    // Of all these only the global service's cluster IPs are taken.
    let taken: BTreeSet<IpAddr> =
        kernel::services(&mesh.pins(one, &nodes[0])).keys().map(|(to, _)| to.ip()).collect();
    let global: BTreeSet<IpAddr> = ips("outside").into_iter().chain(ips("echo")).collect();
    assert_eq!(taken, global);
}

/// The kube-proxy of the fleet works by nftables.
#[test]
fn a_kube_proxy_goes_on() {
    let mesh = Kind::up(&["a", "b"]);
    let (one, _) = two_clusters_with_echo(&mesh);
    what_a_kube_proxy_serves(&mesh, &one);
}

/// The same with one that works by iptables.
#[test]
fn a_kube_proxy_of_iptables_goes_on() {
    let mesh = Kind::up(&["b", "a"]);
    let (one, _) = two_clusters_with_echo(&mesh);
    let _mode = Iptables::new(&mesh, &one);
    what_a_kube_proxy_serves(&mesh, &one);
}

/// The kube-proxy of a cluster works by iptables. Dropping it makes it work by nftables.
struct Iptables<'a>(&'a Kind, &'a str);

impl<'a> Iptables<'a> {
    fn new(mesh: &'a Kind, cluster: &'a str) -> Self {
        set_mode(mesh, cluster, "nftables", "iptables");
        Self(mesh, cluster)
    }
}

impl Drop for Iptables<'_> {
    fn drop(&mut self) {
        set_mode(self.0, self.1, "iptables", "nftables");
    }
}

/// Changes the mode in kubeadm's configuration of kube-proxy, and starts it anew.
fn set_mode(mesh: &Kind, cluster: &str, from: &str, to: &str) {
    let system = ["--namespace", "kube-system"];
    let get = ["get", "configmap", "kube-proxy", "--output", "yaml"];
    let text = mesh.kubectl_done(cluster, &[&get[..], &system].concat());
    let (from, to) = (format!("mode: {from}"), format!("mode: {to}"));
    assert!(text.contains(&from) || text.contains(&to), "{text}");
    mesh.apply_manifests(cluster, &text.replace(&from, &to));
    for command in [
        &["rollout", "restart", "daemonset/kube-proxy"][..],
        &["rollout", "status", "daemonset/kube-proxy", "--timeout", "120s"],
    ] {
        mesh.kubectl_done(cluster, &[command, &system].concat());
    }
}
