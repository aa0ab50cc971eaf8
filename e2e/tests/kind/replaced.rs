//! `--replace-kube-proxy`, beside a kube-proxy: agents take all services of their cluster, with a kube-proxy's whole meaning.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use mesh_e2e::{
    Daemon, Kind, Mesh, Traffic,
    echo_service::{CLIENT, ECHO_PORT},
    kernel,
    load::Assert as _,
    mesh::{eventually, within},
    scenario,
};
use serde_json::json;

use super::PATIENCE;

const VARIABLE: &str = "CLUSTERMESH_REPLACE_KUBE_PROXY";

/// Starts the agents of a cluster with the flag. Dropping it starts them without.
struct Replaced<'a>(&'a Kind, &'a str);

impl<'a> Replaced<'a> {
    fn new(mesh: &'a Kind, cluster: &'a str) -> Self {
        set(mesh, cluster, &format!("{VARIABLE}=true"));
        Self(mesh, cluster)
    }
}

impl Drop for Replaced<'_> {
    fn drop(&mut self) {
        set(self.0, self.1, &format!("{VARIABLE}-"));
    }
}

fn set(mesh: &Kind, cluster: &str, variable: &str) {
    let agents = ["daemonset/clustermesh-agent", "--namespace", "clustermesh-system"];
    mesh.kubectl_done(cluster, &[&["set", "env"][..], &agents, &[variable]].concat());
    let status = ["rollout", "status", "--timeout", "120s"];
    mesh.kubectl_done(cluster, &[&status[..], &agents].concat());
}

/// A plain service with the pods of `echo`, and further fields.
fn service(
    mesh: &Kind,
    cluster: &str,
    name: &str,
    labels: serde_json::Value,
    spec: serde_json::Value,
) {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "labels": labels },
        "spec": {
            "selector": { "app": "echo" },
            "ports": [{ "name": "http", "port": 80, "targetPort": ECHO_PORT }],
        },
    });
    for (field, value) in spec.as_object().expect("fields") {
        object["spec"][field] = value.clone();
    }
    mesh.apply_text(cluster, name, &object.to_string());
}

fn cluster_ip(mesh: &Kind, cluster: &str, namespace: &str, name: &str) -> IpAddr {
    let services = mesh.objects(cluster, "services", namespace);
    let found = services.iter().find(|found| found["metadata"]["name"] == name);
    let ip = found.expect("a service")["spec"]["clusterIP"].as_str().expect("an IP").to_owned();
    ip.parse().expect("an IP")
}

/// The backends of a TCP port of a service in the kernel of a node; none if it is not taken.
fn backends(mesh: &Kind, node: &str, to: SocketAddr) -> Option<BTreeSet<IpAddr>> {
    let (cluster, _) = node.split_once('-').expect("a node of kind");
    let services = kernel::services(&mesh.pins(cluster, node));
    let found = services.get(&(to, 6))?;
    Some(found.iter().map(|backend| backend.address.ip()).collect())
}

/// The IPv4 addresses of the pods of `echo` on a node.
fn on(mesh: &Kind, node: &str) -> BTreeSet<IpAddr> {
    let (cluster, _) = node.split_once('-').expect("a node of kind");
    let pods = mesh.objects(cluster, "pods", "default");
    let here = pods.iter().filter(|pod| {
        pod["spec"]["nodeName"] == node && pod["metadata"]["labels"]["app"] == "echo"
    });
    here.map(|pod| pod["status"]["podIP"].as_str().expect("an IP").parse().expect("an IP"))
        .collect()
}

/// With all services of their clusters, agents share only those that are global.
#[test]
fn global() {
    let mesh = Kind::numbered(&["a", "b"]);
    let _replaced = ["a", "b"].map(|cluster| Replaced::new(&mesh, cluster));
    scenario::only_what_is_global_is_shared(&mesh);
}

/// Which backends each node has of services with these fields, as a kube-proxy would.
#[test]
fn services_mean_what_they_mean_to_a_kube_proxy() {
    let mesh = Kind::up(&["a"]);
    mesh.apply("a", "echo", None);
    mesh.apply("a", "client", None);
    let _replaced = Replaced::new(&mesh, "a");
    let nodes = ["a-control-plane", "a-worker"];
    let [first, second] = nodes.map(|node| on(&mesh, node));
    let all: BTreeSet<IpAddr> = first.union(&second).copied().collect();
    assert!(first.len() == 1 && second.len() == 1, "{first:?}, {second:?}");
    let none = || json!({});

    service(&mesh, "a", "plain", none(), none());
    service(&mesh, "a", "local", none(), json!({ "internalTrafficPolicy": "Local" }));
    service(&mesh, "a", "same-node", none(), json!({ "trafficDistribution": "PreferSameNode" }));
    let label = json!({ "service.kubernetes.io/service-proxy-name": "another" });
    service(&mesh, "a", "of-another", label, none());
    let ip = |name: &str| SocketAddr::new(cluster_ip(&mesh, "a", "default", name), 80);
    let kubernetes = SocketAddr::new(cluster_ip(&mesh, "a", "default", "kubernetes"), 443);
    for (node, own) in [(nodes[0], &first), (nodes[1], &second)] {
        for (name, wanted) in [("plain", &all), ("local", own), ("same-node", own)] {
            eventually(&format!("{node} has the backends of {name}"), || {
                let found = backends(&mesh, node, ip(name));
                if found.as_ref() == Some(wanted) { Ok(()) } else { Err(format!("{found:?}")) }
            });
        }
        assert_eq!(backends(&mesh, node, ip("of-another")), None, "another program serves it");
        let api = backends(&mesh, node, kubernetes).expect("it is taken");
        assert!(!api.is_empty(), "never without backends");
    }

    // A pod that is not ready is a backend of the service that publishes such pods.
    service(&mesh, "a", "early", none(), json!({ "publishNotReadyAddresses": true }));
    let unready = "{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"echo\",\"readinessProbe\":{\"tcpSocket\":{\"port\":9},\"failureThreshold\":1}}]}},\"strategy\":{\"type\":\"Recreate\",\"rollingUpdate\":null}}}";
    let patch = ["patch", "deployment", "echo", "--namespace", "default", "--patch", unready];
    mesh.kubectl_done("a", &[&patch[..], &["--type", "strategic"]].concat());
    within(PATIENCE, "only the service that publishes them has the pods", || {
        let (early, plain) =
            (backends(&mesh, nodes[0], ip("early")), backends(&mesh, nodes[0], ip("plain")));
        let none = plain.as_ref().is_none_or(BTreeSet::is_empty);
        if early.as_ref().is_some_and(|early| early.len() == 2) && none {
            Ok(())
        } else {
            Err(format!("early: {early:?}, plain: {plain:?}"))
        }
    });
}

/// Our apiserver is away: six seconds later a rollout replaces all pods, and kube-proxy, which follows the API server, serves
/// plain services meanwhile. No request fails.
#[test]
fn plain_services_fall_through_to_a_kube_proxy() {
    let mesh = Kind::up(&["a"]);
    mesh.apply("a", "echo", None);
    mesh.apply("a", "client", None);
    let _replaced = Replaced::new(&mesh, "a");
    service(&mesh, "a", "plain", json!({}), json!({}));
    let to = SocketAddr::new(cluster_ip(&mesh, "a", "default", "plain"), 80);
    let node = mesh.node_of("a", CLIENT);
    eventually("it is taken", || backends(&mesh, &node, to).map(|_| ()).ok_or_else(String::new));

    let traffic = Traffic::start(&mesh, "a", CLIENT, "default/plain");
    let apiserver = Daemon::Apiserver("a".into());
    mesh.freeze(&apiserver);
    thread::sleep(Duration::from_secs(6));
    let deployment = ["--namespace", "default", "deployment/echo"];
    mesh.kubectl_done("a", &[&["rollout", "restart"][..], &deployment].concat());
    let status = ["rollout", "status", "--timeout", "60s"];
    mesh.kubectl_done("a", &[&status[..], &deployment].concat());
    mesh.settle("a");
    let report = traffic.stop_unharmed();
    report.assert_clients(&mesh.pod_ips("a", CLIENT));
    mesh.kill(&apiserver);
    mesh.start(&apiserver);
    let wanted: BTreeSet<IpAddr> =
        mesh.pod_ips("a", "echo").into_iter().filter(IpAddr::is_ipv4).collect();
    within(PATIENCE, "the new pods are known", || {
        let found = backends(&mesh, &node, to);
        if found.as_ref() == Some(&wanted) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}
