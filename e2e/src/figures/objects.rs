//! The objects that are measured: a global service in both clusters, and pods of one cluster on a node without a kubelet.

use std::{net::SocketAddr, process::Command, thread};

use serde_json::{Value, json};

use super::{FROM, STARTING, TO};
use crate::{
    Kind,
    mesh::{output, within},
};

/// The name of the namespace, the service, the node, and the label of pods.
pub(super) const NAME: &str = "figures";
/// The schemas that count requests of the apiserver, of agents, and of clients without credentials.
pub(super) const APISERVER: &str = "figures-apiserver";
pub(super) const AGENT: &str = "figures-agent";
pub(super) const ANONYMOUS: &str = "figures-anonymous";
/// The port of the service.
const PORT: u16 = 80;

/// All objects. They are removed on drop, and when the program is stopped by a signal.
#[derive(Debug)]
pub(super) struct Objects {
    removal: Vec<Command>,
}

// === impl Objects ===

impl Objects {
    /// Makes them in place of those that an earlier run left. No pod has an address yet.
    pub(super) fn make(mesh: &Kind, pods: u32) -> Self {
        remove(&mut removal(mesh));
        let objects = Self { removal: removal(mesh) };
        remove_on_signal(removal(mesh));
        for cluster in [FROM, TO] {
            mesh.apply_manifests(cluster, &list(vec![namespace(), service(cluster)]));
        }
        let account = ["get", "serviceaccount", "default", "--namespace", NAME];
        within(STARTING, "pods can be made", || output(mesh.kubectl(FROM, &account)));
        let mut items = vec![node()];
        items.extend((0..pods).map(pod));
        let accounts = [(APISERVER, "clustermesh-apiserver"), (AGENT, "clustermesh-agent")];
        items.extend(accounts.map(|(schema, account)| {
            let account = json!({ "name": account, "namespace": "clustermesh-system" });
            flow_schema(schema, &json!({ "kind": "ServiceAccount", "serviceAccount": account }))
        }));
        let anonymous = json!({ "name": "system:unauthenticated" });
        items.push(flow_schema(ANONYMOUS, &json!({ "kind": "Group", "group": anonymous })));
        mesh.apply_manifests(FROM, &list(items));
        objects
    }

    /// Where clients of the other cluster reach the service: address, port and IP protocol.
    pub(super) fn frontend(&self, mesh: &Kind) -> (SocketAddr, u8) {
        let services = mesh.objects(TO, "services", NAME);
        let address = services.first().and_then(|found| found["spec"]["clusterIP"].as_str());
        let address = address.and_then(|address| address.parse().ok());
        (SocketAddr::new(address.expect("the service has an address"), PORT), 6)
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        remove(&mut self.removal);
    }
}

/// The commands that remove all objects. Pods have no kubelet that would confirm their end, and end at once.
fn removal(mesh: &Kind) -> Vec<Command> {
    let quiet = ["--ignore-not-found", "--timeout", "60s"];
    let of = |cluster: &str, what: &[&str]| {
        mesh.kubectl(cluster, &[&["delete"], what, &quiet[..]].concat())
    };
    let schemas = ["flowschemas", APISERVER, AGENT, ANONYMOUS];
    let namespace = ["namespace", NAME];
    vec![of(FROM, &schemas), of(FROM, &namespace), of(TO, &namespace), of(FROM, &["node", NAME])]
}

fn remove(commands: &mut [Command]) {
    for command in commands {
        match command.output() {
            Ok(output) if output.status.success() => {}
            failed => println!("{command:?}: {failed:?}"),
        }
    }
}

/// A node without a kubelet must not stay: scenarios list the cluster's nodes, and look for a container of each.
fn remove_on_signal(mut removal: Vec<Command>) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let stop = runtime.block_on(async { mesh_admin::stop_signal() }).expect("signals");
        runtime.block_on(stop);
        remove(&mut removal);
        std::process::exit(1);
    });
}

/// The name of a pod.
pub(super) fn pod_name(n: u32) -> String {
    format!("{NAME}-{n}")
}

/// What a kubelet would report of a pod that it has started.
pub(super) fn pod_status(n: u32) -> Value {
    // In the pod range of cluster a, and of none of its nodes.
    let ip = format!("10.1.200.{}", n + 1);
    json!({ "status": {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    } })
}

/// What a kubelet would report of a pod whose readiness has changed.
pub(super) fn readiness(ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } })
}

fn list(items: Vec<Value>) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

fn namespace() -> Value {
    let annotations = json!({ "clustermesh.cilium.io/global": "true" });
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": NAME, "annotations": annotations },
    })
}

fn service(cluster: &str) -> Value {
    let mut spec = json!({ "ports": [{ "name": "http", "port": PORT, "targetPort": 8080 }] });
    if cluster == FROM {
        spec["selector"] = json!({ "app": NAME });
    }
    let annotations = json!({ "service.cilium.io/global": "true" });
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": NAME, "namespace": NAME, "annotations": annotations },
        "spec": spec,
    })
}

/// The controller of endpoint slices leaves out pods of a node that does not exist.
fn node() -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME } })
}

fn pod(n: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": pod_name(n), "namespace": NAME, "labels": { "app": NAME } },
        "spec": {
            "nodeName": NAME,
            "schedulerName": "none",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "none", "image": "none", "ports": [{ "containerPort": 8080 }] }],
        },
    })
}

/// A schema that sorts the requests of one subject apart, before the schemas of Kubernetes, so that they are counted.
fn flow_schema(name: &str, subject: &Value) -> Value {
    let resources = json!([{
        "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
    }]);
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": { "name": name },
        "spec": {
            "matchingPrecedence": 50,
            "priorityLevelConfiguration": { "name": "workload-high" },
            "distinguisherMethod": { "type": "ByUser" },
            "rules": [{
                "subjects": [subject],
                "resourceRules": resources,
                "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
            }],
        },
    })
}
