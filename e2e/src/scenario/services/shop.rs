//! A service with the pods of `echo` as backends. Its slices are written by the scenario, which chooses their conditions.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde_json::{Value, json};

use crate::{
    json,
    kernel::{self, Entry},
    mesh::{Mesh, eventually, socket_address},
};

/// A service with the first two pods of `echo`.
#[derive(Clone, Debug)]
pub(super) struct Shop {
    pub(super) namespace: &'static str,
    pub(super) name: &'static str,
    pub(super) annotations: Vec<(&'static str, &'static str)>,
    /// The condition of each pod.
    pub(super) conditions: Vec<Condition>,
    pub(super) session_affinity: Option<u32>,
    pub(super) headless: bool,
    /// Further fields of its spec, with values.
    pub(super) spec: Option<(&'static str, &'static str)>,
    /// Whether each endpoint has a topology hint for its node's zone, which has the node's name.
    pub(super) hinted: bool,
}

/// The condition of an endpoint in the slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Ready,
    NotReady,
    Terminating,
}

/// The IP protocol number of TCP.
const TCP: u8 = 6;
const PORT: u16 = 8080;

/// Parses the percentage of connections of each pod: `a/0 25, a/1 75`.
pub(super) fn parse(text: &str) -> BTreeMap<String, f64> {
    let words = text.split(", ").map(|word| {
        let (pod, share) = word.split_once(' ').expect("a pod and its share");
        let (cluster, number) = pod.split_once('/').expect("a cluster and a number");
        (format!("{cluster}/echo-{number}"), share.parse().expect("a share"))
    });
    words.collect()
}

impl Shop {
    /// A service in the namespace `shop`, with ready pods.
    pub(super) fn new(name: &'static str, annotations: &[(&'static str, &'static str)]) -> Self {
        Self {
            namespace: "shop",
            name,
            annotations: annotations.to_vec(),
            conditions: vec![Condition::Ready; 2],
            session_affinity: None,
            headless: false,
            spec: None,
            hinted: false,
        }
    }

    /// Applies its current state in a cluster.
    pub(super) fn apply(&self, mesh: &impl Mesh, cluster: &str) {
        let Self { namespace, name, annotations, .. } = self;
        let annotations: BTreeMap<&str, &str> = annotations.iter().copied().collect();
        let mut spec = json!({
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
        });
        if let Some(seconds) = self.session_affinity {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
        }
        if self.headless {
            spec["clusterIP"] = json!("None");
        }
        if let Some((field, value)) = self.spec {
            spec[field] = json!(value);
        }
        let metadata = json!({ "namespace": namespace, "name": name, "annotations": annotations });
        let service =
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec });
        let slices = ["IPv4", "IPv6"].map(|family| self.slice(mesh, cluster, family));
        let items: Vec<Value> = [service].into_iter().chain(slices).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        mesh.apply_text(cluster, &format!("{namespace}-{name}"), &list.to_string());
    }

    pub(super) fn annotate(
        &mut self,
        mesh: &impl Mesh,
        cluster: &str,
        annotations: &[(&'static str, &'static str)],
    ) {
        self.annotations = annotations.to_vec();
        self.apply(mesh, cluster);
    }

    pub(super) fn set(&mut self, mesh: &impl Mesh, cluster: &str, conditions: [Condition; 2]) {
        self.conditions = conditions.to_vec();
        self.apply(mesh, cluster);
    }

    /// Waits until the kernel of the client's node distributes connections as expected, in percent over both families.
    pub(super) fn wait(&self, mesh: &impl Mesh, cluster: &str, expected: &str) {
        self.wait_in(mesh, cluster, expected);
    }

    /// The same for every node of a cluster.
    pub(super) fn wait_in(&self, mesh: &impl Mesh, cluster: &str, expected: &str) {
        for node in mesh.nodes(cluster) {
            self.wait_on(mesh, cluster, &node, expected);
        }
    }

    /// The same for one node. An empty text means that no pod gets connections.
    pub(super) fn wait_on(&self, mesh: &impl Mesh, cluster: &str, node: &str, expected: &str) {
        let shares = if expected.is_empty() { BTreeMap::new() } else { parse(expected) };
        eventually(&format!("{cluster}/{node} gives {expected:?}"), || {
            let entries = self.entries(mesh, cluster, node)?;
            for (frontend, entry) in entries {
                let found = shares_of(mesh, &entry);
                let close = |(pod, share): (&String, &f64)| {
                    found.get(pod).is_some_and(|found| (found - share).abs() < 0.06)
                };
                if found.len() != shares.len() || !shares.iter().all(close) {
                    return Err(format!("{frontend}: {found:?}"));
                }
            }
            Ok(())
        });
    }

    /// Waits until the kernels of a cluster have this session affinity.
    pub(super) fn wait_for_affinity(&self, mesh: &impl Mesh, cluster: &str, seconds: u32) {
        for node in mesh.nodes(cluster) {
            eventually(&format!("{cluster}/{node} keeps clients for {seconds} s"), || {
                let entries = self.entries(mesh, cluster, &node)?;
                let wrong =
                    |(_, entry): &&(SocketAddr, Entry)| entry.session_affinity_seconds != seconds;
                entries.iter().find(wrong).map_or(Ok(()), |found| Err(format!("{found:?}")))
            });
        }
    }

    /// Its frontends in a cluster; empty if the agents do not report any.
    pub(super) fn frontends(&self, mesh: &impl Mesh, cluster: &str) -> Vec<SocketAddr> {
        let name = format!("{}/{}", self.namespace, self.name);
        let show = mesh.clustermesh(&["service", "show", &name, "--context", cluster]);
        let (_, shown, _) = json::run(show);
        let frontends = shown["services"][0]["frontends"].as_array().cloned().unwrap_or_default();
        frontends.iter().map(socket_address).collect()
    }

    fn entries(
        &self,
        mesh: &impl Mesh,
        cluster: &str,
        node: &str,
    ) -> Result<Vec<(SocketAddr, Entry)>, String> {
        let frontends = self.frontends(mesh, cluster);
        if frontends.len() != 2 {
            return Err(format!("its frontends are {frontends:?}"));
        }
        let mut entries = kernel::entries(&mesh.pins(cluster, node));
        let entry = |frontend: SocketAddr| {
            let entry = entries.remove(&(frontend, TCP));
            entry.map(|entry| (frontend, entry)).ok_or_else(|| format!("there is no {frontend}"))
        };
        frontends.into_iter().map(entry).collect()
    }

    fn slice(&self, mesh: &impl Mesh, cluster: &str, family: &str) -> Value {
        let Self { namespace, name, conditions, .. } = self;
        let endpoint = |(number, condition): (usize, &Condition)| {
            let pod = format!("echo-{number}");
            let ips = mesh.pod_ips(cluster, &pod);
            let ip = ips.into_iter().find(|ip| ip.is_ipv4() == (family == "IPv4"));
            let (ready, serving, terminating) = match condition {
                Condition::Ready => (true, true, false),
                Condition::NotReady => (false, false, false),
                Condition::Terminating => (false, true, true),
            };
            let node = mesh.node_of(cluster, &pod);
            let zones = [&node].into_iter().filter(|_| self.hinted);
            let zones: Vec<Value> = zones.map(|zone| json!({ "name": zone })).collect();
            json!({
                "addresses": [ip.expect("an address")],
                "nodeName": node,
                "hints": { "forZones": zones },
                "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
            })
        };
        let endpoints: Vec<Value> = conditions.iter().enumerate().map(endpoint).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": namespace,
                "name": format!("{name}-{}", family.to_lowercase()),
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": family,
            "ports": [{ "name": "http", "port": PORT, "protocol": "TCP" }],
            "endpoints": endpoints,
        })
    }
}

/// The percentage of connections that a frontend in the kernel gives each pod.
fn shares_of(mesh: &impl Mesh, entry: &Entry) -> BTreeMap<String, f64> {
    let mut names = BTreeMap::<IpAddr, String>::new();
    for cluster in mesh.clusters() {
        for pod in ["echo-0", "echo-1", "echo-2"] {
            let ips = mesh.pod_ips(&cluster, pod).into_iter();
            names.extend(ips.map(|ip| (ip, format!("{cluster}/{pod}"))));
        }
    }
    let all: f64 = entry.groups.values().map(|group| f64::from(group.weight)).sum();
    let mut shares = BTreeMap::new();
    for group in entry.groups.values() {
        let share = 100.0 * f64::from(group.weight) / all / group.destinations.len() as f64;
        for destination in &group.destinations {
            let ip = destination.address.ip();
            shares.insert(names.get(&ip).cloned().unwrap_or_else(|| ip.to_string()), share);
        }
    }
    shares.retain(|_, share| *share > 0.0);
    shares
}
