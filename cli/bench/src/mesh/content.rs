//! The contents of a cluster of the mesh: nodes, pods and global services, as manifests.

use std::{fs, net::Ipv4Addr};

use mesh_lab::ClusterState;
use serde_json::{Value, json};

use crate::error::{BenchError, file};

/// The size of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct ClusterSize {
    /// Nodes, from 1 to 254. The lab runs the first one.
    pub nodes: u32,
    /// Pods, on all nodes in turn. Each is a backend of one service.
    pub endpoints: u32,
    /// Global services. Each has its labels, and so an identity.
    pub services: u32,
}

/// The prefix of services' names; a number follows.
pub(super) const NAME: &str = "bench-";
/// The port of the pods, and that of the services.
const TARGET_PORT: u16 = 8_080;
pub(super) const PORT: u16 = 80;

/// Writes a cluster's nodes, pods and services.
pub(super) fn fill(cluster: &ClusterState, size: ClusterSize) -> Result<(), BenchError> {
    // The lab writes the first node.
    let nodes = (2..=size.nodes).map(|node| self::node(cluster.id, node));
    let pods = (0..size.endpoints).map(|pod| self::pod(cluster.id, size, pod));
    let services = (0..size.services).map(|number| service(cluster.id, number));
    write(cluster, nodes.chain(pods).chain(services).collect())
}

/// Writes the same services to the reading cluster, without pods.
pub(super) fn fill_reader(cluster: &ClusterState, services: u32) -> Result<(), BenchError> {
    write(cluster, (0..services).map(|number| service(cluster.id, number)).collect())
}

/// The cluster IP of a service in a cluster.
pub(super) fn cluster_ip(cluster: u8, service: u32) -> Ipv4Addr {
    let [_, _, high, low] = (service + 1_000).to_be_bytes();
    Ipv4Addr::new(10, 100 + cluster, high, low)
}

/// The number of pods behind a service.
pub(super) fn backends(size: ClusterSize, service: u32) -> u32 {
    (0..size.endpoints).filter(|pod| pod % size.services == service).count().try_into().unwrap_or(0)
}

fn node(cluster: u8, node: u32) -> Value {
    let name = node_name(node);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": { "podCIDR": format!("10.{cluster}.{node}.0/24"), "podCIDRs": [format!("10.{cluster}.{node}.0/24")] },
        "status": { "addresses": [{ "type": "InternalIP", "address": format!("172.31.{cluster}.{node}") }] },
    })
}

fn pod(cluster: u8, size: ClusterSize, pod: u32) -> Value {
    let (service, node) = (pod % size.services, pod % size.nodes + 1);
    let ip = format!("10.{cluster}.{node}.{}", 10 + pod / size.nodes);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{}-{pod}", service_name(service)), "namespace": "default",
            "labels": { "app": service_name(service) },
        },
        "spec": {
            "nodeName": node_name(node),
            "containers": [{ "name": "server", "ports": [{ "name": "http", "containerPort": TARGET_PORT }] }],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

fn service(cluster: u8, number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": service_name(number), "namespace": "default",
            "annotations": { "service.cilium.io/global": "true" },
        },
        "spec": {
            "clusterIP": cluster_ip(cluster, number), "clusterIPs": [cluster_ip(cluster, number)],
            "selector": { "app": service_name(number) },
            "ports": [{ "name": "http", "port": PORT, "targetPort": "http" }],
        },
    })
}

/// The names that the lab uses.
fn node_name(node: u32) -> String {
    format!("n{node}")
}

fn service_name(number: u32) -> String {
    format!("{NAME}{number}")
}

fn write(cluster: &ClusterState, items: Vec<Value>) -> Result<(), BenchError> {
    let path = cluster.directory.join("manifests/bench.json");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    fs::write(&path, list.to_string()).map_err(file(path))
}
