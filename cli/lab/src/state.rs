//! What the lab knows about itself between two commands.

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

/// A lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabState {
    /// Its name.
    pub name: String,
    /// Where its binaries are.
    pub bin_dir: PathBuf,
    /// Its clusters.
    pub clusters: Vec<ClusterState>,
    /// Its daemons.
    pub processes: Vec<ProcessState>,
    /// Places that are cut off from each other.
    #[serde(default)]
    pub cuts: Vec<Cut>,
    /// Relays before etcds that some nodes reach with a delay.
    #[serde(default)]
    pub relays: Vec<Relay>,
    /// It was made to the end. One that was not has nothing that is worth keeping.
    #[serde(default = "made")]
    pub made: bool,
}

/// What labs of former releases are, which do not say it.
fn made() -> bool {
    true
}

/// A cluster of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterState {
    /// Its name.
    pub name: String,
    /// Its ID in the mesh.
    pub id: u8,
    /// Its cluster directory.
    pub directory: PathBuf,
    /// Its nodes; the first ones have a replica of the control plane each.
    pub nodes: Vec<NodeState>,
    /// How many replicas there are.
    #[serde(default = "one")]
    pub replicas: u8,
    /// Its pods.
    pub pods: Vec<PodState>,
    /// The last cluster IP that was given to a service.
    pub last_service: u16,
    /// The one that each service got, by namespace and name: applied again, it keeps it.
    #[serde(default)]
    pub services: BTreeMap<String, u16>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Its place in the cluster.
    pub number: u8,
    /// Its network namespace.
    pub netns: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its agent's admin socket.
    pub admin_socket: PathBuf,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(default)]
    pub uid: String,
    /// The node it is on.
    pub node: String,
    /// Its network namespace.
    pub netns: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// The file that it was applied from, by its name.
    pub source: String,
    /// Its manifest.
    pub manifest: PathBuf,
    /// What was applied; null in a lab of a release that did not keep it.
    #[serde(default)]
    pub template: Value,
    /// Its process; absent for a pod that only exists to run commands in.
    pub process: Option<ProcessState>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessState {
    /// What it is: `a/etcd`, `a/apiserver`, `a/n1/agent`, or a pod's name.
    pub name: String,
    /// What is run.
    pub command: Vec<String>,
    /// The network namespace it runs in.
    pub netns: String,
    /// The cgroup it runs in.
    pub cgroup: PathBuf,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Its ID; 0 while it is stopped.
    pub pid: i32,
    /// When it was started, in the kernel's clock ticks since boot: an ID alone may be another's by now.
    pub start_time: u64,
}

/// A relay that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relay {
    /// Its port.
    pub port: u16,
    /// How late it is, in milliseconds.
    pub millis: u32,
    /// Its process.
    pub process: ProcessState,
}

fn one() -> u8 {
    1
}

const FILE: &str = "lab.json";

impl NodeState {
    /// The chain of CNI plugins that attaches the node's pods.
    pub fn conflist(&self) -> PathBuf {
        self.folder().join("cni/10-clustermesh.conflist")
    }

    /// What the chain made of a container.
    pub(crate) fn cni_result(&self, container: &str) -> PathBuf {
        self.folder().join("cni").join(format!("{container}.result"))
    }

    /// Where `host-local` remembers the addresses that it gave.
    pub(crate) fn ipam(&self) -> PathBuf {
        self.folder().join("cni/ipam")
    }

    /// Where the agent looks for what the plugin leaves: beside its socket.
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

    /// Every process of the lab: daemons, and the pods'.
    pub fn all_processes(&self) -> impl Iterator<Item = &ProcessState> {
        let pods = self.clusters.iter().flat_map(|cluster| &cluster.pods);
        self.processes.iter().chain(pods.filter_map(|pod| pod.process.as_ref()))
    }

    /// Where a node's tables are pinned.
    pub fn pins(&self, cluster: &str, node: &str) -> PathBuf {
        Path::new(PINS_ROOT).join(&self.name).join(cluster).join(node)
    }

    /// A cluster by name.
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

    /// A pod by `cluster/name` or `cluster/namespace/name`.
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
