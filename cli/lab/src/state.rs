//! The state of a lab, which is saved between commands.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use mesh_files::{Access, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{error::LabError, link_fault::Cut, names::PINS_ROOT};

/// The state of a lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabState {
    /// Its name.
    pub name: String,
    /// The folder with its binaries.
    pub bin_dir: PathBuf,
    /// Its clusters.
    pub clusters: Vec<ClusterState>,
    /// Its daemons.
    pub processes: Vec<ProcessState>,
    /// The active cuts.
    #[serde(default)]
    pub cuts: Vec<Cut>,
    /// The relays in front of etcds that some nodes reach with a delay.
    #[serde(default)]
    pub relays: Vec<Relay>,
    /// Whether the lab was started completely. Otherwise it is removed before the next start.
    #[serde(default = "made")]
    pub made: bool,
}

/// The default for labs of earlier releases, whose state lacks the field.
fn made() -> bool {
    true
}

/// The state of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterState {
    /// Its name.
    pub name: String,
    /// The ID of the cluster.
    pub id: u8,
    /// Its cluster directory.
    pub directory: PathBuf,
    /// Its nodes. The first ones have a replica of the control plane each.
    pub nodes: Vec<NodeState>,
    /// The number of replicas of its control plane.
    #[serde(default = "one")]
    pub replicas: u8,
    /// Its pods.
    pub pods: Vec<PodState>,
    /// The number of the last cluster IP that a service received.
    pub last_service: u16,
    /// The number of each service's cluster IP, by `namespace/name`. A service that is applied again keeps it.
    #[serde(default)]
    pub services: BTreeMap<String, u16>,
}

/// The state of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// The number of the node in the cluster, from 1.
    pub number: u8,
    /// The name of its network namespace.
    pub netns: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The path of its cgroup.
    pub cgroup: PathBuf,
    /// The path of its agent's admin socket.
    pub admin_socket: PathBuf,
}

/// The state of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    #[serde(default)]
    pub uid: String,
    /// The name of its node.
    pub node: String,
    /// The name of its network namespace.
    pub netns: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The path of its cgroup.
    pub cgroup: PathBuf,
    /// The name of the manifest that it was applied from.
    pub source: String,
    /// The path of the file with its object.
    pub manifest: PathBuf,
    /// Its object as it was applied; null in a lab of a release that did not keep it.
    #[serde(default)]
    pub template: Value,
    /// Its process; `None` for a pod without a command, in which other commands can be run.
    pub process: Option<ProcessState>,
}

/// The state of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessState {
    /// Its name: `a/etcd`, `a/apiserver`, `a/n1/agent`, or `a/namespace/name` for a pod.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The name of its network namespace.
    pub netns: String,
    /// The path of its cgroup.
    pub cgroup: PathBuf,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// The path of the file with its output.
    pub log: PathBuf,
    /// Its PID; 0 while it is stopped.
    pub pid: i32,
    /// Its start time, in the kernel's clock ticks since boot: a PID may be reused.
    pub start_time: u64,
}

/// A running relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relay {
    /// The port on which it listens.
    pub port: u16,
    /// The delay in each direction, in milliseconds.
    pub millis: u32,
    /// Its process.
    pub process: ProcessState,
}

fn one() -> u8 {
    1
}

const FILE: &str = "lab.json";

impl NodeState {
    /// The path of the chain of CNI plugins for the node's pods.
    pub fn conflist(&self) -> PathBuf {
        self.folder().join("cni/10-clustermesh.conflist")
    }

    /// The path of the chain's result for a container.
    pub(crate) fn cni_result(&self, container: &str) -> PathBuf {
        self.folder().join("cni").join(format!("{container}.result"))
    }

    /// The folder in which `host-local` keeps the allocated addresses.
    pub(crate) fn ipam(&self) -> PathBuf {
        self.folder().join("cni/ipam")
    }

    /// The folder in which the plugin writes its files of pods, beside the agent's socket.
    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.folder().join("pods")
    }

    fn folder(&self) -> &Path {
        self.admin_socket.parent().unwrap_or(Path::new("/"))
    }
}

impl LabState {
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>, LabError> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LabError::Io { path, source }),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| LabError::State { path, reason: e.to_string() })
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<(), LabError> {
        let path = folder.join(FILE);
        let state =
            |e: serde_json::Error| LabError::State { path: path.clone(), reason: e.to_string() };
        let text = serde_json::to_vec_pretty(self).map_err(state)?;
        write_atomic(&path, &text, Access::Owner).map_err(LabError::io(path))
    }

    /// All processes of the lab: daemons, and those of pods.
    pub fn all_processes(&self) -> impl Iterator<Item = &ProcessState> {
        let pods = self.clusters.iter().flat_map(|cluster| &cluster.pods);
        self.processes.iter().chain(pods.filter_map(|pod| pod.process.as_ref()))
    }

    /// The folder with a node's pinned tables.
    pub fn pins(&self, cluster: &str, node: &str) -> PathBuf {
        Path::new(PINS_ROOT).join(&self.name).join(cluster).join(node)
    }

    /// A cluster by its name.
    pub fn cluster(&self, name: &str) -> Result<&ClusterState, LabError> {
        let known = || self.clusters.iter().map(|c| c.name.clone()).collect::<Vec<_>>().join(", ");
        let found = self.clusters.iter().find(|cluster| cluster.name == name);
        found.ok_or_else(|| LabError::Unknown {
            kind: "cluster",
            name: name.into(),
            known: known(),
        })
    }

    pub(crate) fn cluster_mut(&mut self, name: &str) -> Result<&mut ClusterState, LabError> {
        self.cluster(name)?;
        let found = self.clusters.iter_mut().find(|cluster| cluster.name == name);
        found.ok_or_else(|| LabError::Unknown {
            kind: "cluster",
            name: name.into(),
            known: String::new(),
        })
    }

    /// A pod by `cluster/name`, in the namespace default, or by `cluster/namespace/name`.
    pub fn pod(&self, name: &str) -> Result<(&ClusterState, &PodState), LabError> {
        let pods = || self.clusters.iter().flat_map(|c| c.pods.iter().map(move |p| (c, p)));
        let matches = |(cluster, pod): &(&ClusterState, &PodState)| {
            let full = format!("{}/{}/{}", cluster.name, pod.namespace, pod.name);
            full == name
                || (pod.namespace == "default" && format!("{}/{}", cluster.name, pod.name) == name)
        };
        pods().find(matches).ok_or_else(|| {
            let known: Vec<_> =
                pods().map(|(c, p)| format!("{}/{}/{}", c.name, p.namespace, p.name)).collect();
            LabError::Unknown { kind: "pod", name: name.into(), known: known.join(", ") }
        })
    }
}
