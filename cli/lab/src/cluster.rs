//! The directory and the daemons of a cluster.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use mesh_certs::{Ca, ClusterPki};
use mesh_files::{Access, write_atomic};
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_source::cluster_directory::{ClusterDirectory, ClusterSettings};
use mesh_wire::peer_file::PeerFile;
use serde_json::json;

use crate::{
    error::LabError,
    host_setup,
    names::{self, ClusterNumber, LabName},
    options::LabOptions,
    state::{ClusterState, NodeState, ProcessState},
};

/// A daemon of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The etcd of a replica, counted from 1.
    Etcd(u8),
    /// The apiserver of a replica, counted from 1.
    Apiserver(u8),
    /// The agent of a node, by the node's name.
    Agent(String),
}

/// The namespace in the names of server certificates: a lab has no Kubernetes.
const NAMESPACE: &str = "clustermesh";
/// The port of each etcd.
pub(crate) const ETCD_PORT: u16 = 2379;

impl Component {
    /// The name of the component's process: `a/etcd`, `a/apiserver`, `a/etcd2` for a second replica, `a/n1/agent`.
    pub fn process(&self, cluster: &str) -> String {
        format!("{cluster}/{self}")
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd(1) => f.write_str("etcd"),
            Self::Etcd(replica) => write!(f, "etcd{replica}"),
            Self::Apiserver(1) => f.write_str("apiserver"),
            Self::Apiserver(replica) => write!(f, "apiserver{replica}"),
            Self::Agent(node) => write!(f, "{node}/agent"),
        }
    }
}

/// The planned state of a cluster. Creates nothing.
pub(crate) fn plan(
    lab: &LabName,
    number: ClusterNumber,
    nodes: usize,
    replicas: u8,
    cgroup2: &Path,
) -> Result<ClusterState, LabError> {
    let name = names::cluster_name(number);
    let folder = lab.folder();
    let nodes = names::nodes(nodes)?
        .into_iter()
        .map(|node| {
            let node_name = names::node_name(node);
            NodeState {
                number: node.get(),
                netns: lab.node(&name, &node_name),
                ips: host_setup::node_ips(number, node),
                cgroup: lab.cgroup(cgroup2).join(&name).join(&node_name),
                admin_socket: folder
                    .join("nodes")
                    .join(format!("{name}-{node_name}"))
                    .join("agent.sock"),
                name: node_name,
            }
        })
        .collect();
    Ok(ClusterState {
        id: number.get(),
        directory: folder.join("clusters").join(&name),
        name,
        nodes,
        replicas,
        pods: Vec::new(),
        last_service: 9,
        services: BTreeMap::new(),
    })
}

/// Writes a cluster's directory: settings, certificates, nodes, and the peer file for the local etcd.
pub(crate) fn make_directory(
    cluster: &ClusterState,
    number: ClusterNumber,
) -> Result<(), LabError> {
    let directory = ClusterDirectory::new(&cluster.directory);
    let folders = [directory.manifests(), directory.peers(), cluster.directory.join("state")];
    for folder in folders {
        std::fs::create_dir_all(&folder).map_err(LabError::io(folder))?;
    }
    let settings = ClusterSettings {
        name: ClusterName::new(&cluster.name).map_err(|_| LabError::Name(cluster.name.clone()))?,
        id: ClusterId::new(cluster.id.into(), ClusterLimit::Max255).map_err(|_| LabError::Size)?,
        limit: ClusterLimit::Max255,
        pod_cidrs: number.pod_cidrs(),
        service_cidrs: number.service_cidrs(),
        node_cidrs: number.node_cidrs(),
        endpoints: replicas(cluster)
            .map(|(_, node)| node.ips.iter().map(|ip| (*ip, ETCD_PORT)).collect())
            .collect(),
        default_global_namespace: true,
    };
    write(&directory.settings_file(), &settings.to_yaml()?)?;
    let addresses: Vec<_> = cluster.nodes.iter().flat_map(|node| node.ips.clone()).collect();
    let pki = ClusterPki::new(&directory.pki());
    pki.create(&cluster.name, NAMESPACE, &addresses, Ca::ISSUED_LIFETIME)?;
    let local = PeerFile {
        endpoints: settings
            .endpoints
            .iter()
            .filter_map(|addresses| addresses.first())
            .map(|(ip, port)| https(*ip, *port))
            .collect(),
        trusted_ca_file: Some(pki.certificate("ca")),
        cert_file: Some(pki.certificate("local")),
        key_file: Some(pki.key("local")),
        ..PeerFile::default()
    };
    let local = local.to_yaml().map_err(|e| LabError::Manifest(e.to_string()))?;
    write(&local_config(cluster), &local)?;
    write(&directory.manifests().join("nodes.json"), &node_manifests(cluster, number)?)
}

/// The replicas of the control plane, counted from 1, each with its node.
pub(crate) fn replicas(cluster: &ClusterState) -> impl Iterator<Item = (u8, &NodeState)> {
    (1..=cluster.replicas).zip(&cluster.nodes)
}

/// The daemons of a cluster, in the order of their start.
pub(crate) fn processes(
    lab: &LabName,
    cluster: &ClusterState,
    number: ClusterNumber,
    options: &LabOptions,
) -> Vec<ProcessState> {
    let bin_dir = &options.bin_dir;
    let mut all = Vec::new();
    for (replica, node) in replicas(cluster) {
        all.push(etcd(lab, cluster, replica, node, options));
        all.push(apiserver(lab, cluster, replica, node, bin_dir));
    }
    for node in &cluster.nodes {
        all.push(agent(lab, cluster, number, node, bin_dir));
    }
    all
}

fn etcd(
    lab: &LabName,
    cluster: &ClusterState,
    replica: u8,
    node: &NodeState,
    options: &LabOptions,
) -> ProcessState {
    let component = Component::Etcd(replica);
    let pki = ClusterPki::new(&ClusterDirectory::new(&cluster.directory).pki());
    let urls = node.ips.iter().map(|ip| https(*ip, ETCD_PORT));
    let urls: Vec<String> =
        [https([127, 0, 0, 1].into(), ETCD_PORT)].into_iter().chain(urls).collect();
    let peer = "http://127.0.0.1:2380";
    // The token is part of the etcd cluster's ID. It must differ between replicas, and after the loss of a disk.
    let token = format!("{}-{component}-{}", cluster.name, start_token());
    let flag = |name: &str, value: String| format!("--{name}={value}");
    // At each start, users are set up before clients can connect.
    let mut command = vec![options.bin_dir.join("clustermesh-apiserver").display().to_string()];
    command.extend([
        "etcd-init".to_owned(),
        format!("--config-dir={}", cluster.directory.display()),
        "--exec".into(),
        "--".into(),
        options.etcd.display().to_string(),
    ]);
    command.extend([
        flag("name", "clustermesh".into()),
        flag("data-dir", state_of(cluster, &component).display().to_string()),
        flag("listen-client-urls", urls.join(",")),
        flag("advertise-client-urls", https([127, 0, 0, 1].into(), ETCD_PORT)),
        flag("listen-peer-urls", peer.into()),
        flag("initial-advertise-peer-urls", peer.into()),
        flag("initial-cluster", format!("clustermesh={peer}")),
        flag("initial-cluster-token", token),
        flag("client-cert-auth", "true".into()),
        flag("trusted-ca-file", pki.certificate("ca").display().to_string()),
        flag("cert-file", pki.certificate("server").display().to_string()),
        flag("key-file", pki.key("server").display().to_string()),
        flag("auto-compaction-mode", "periodic".into()),
        flag("auto-compaction-retention", "1h".into()),
        flag("enable-grpc-gateway", "false".into()),
        flag("logger", "zap".into()),
        // It has no other members whose heartbeats could be late.
        flag("heartbeat-interval", "20".into()),
        flag("election-timeout", "200".into()),
    ]);
    command.extend(options.etcd_quota.map(|bytes| flag("quota-backend-bytes", bytes.to_string())));
    process(lab, component.process(&cluster.name), node, "system", command)
}

fn apiserver(
    lab: &LabName,
    cluster: &ClusterState,
    replica: u8,
    node: &NodeState,
    bin_dir: &Path,
) -> ProcessState {
    let mut command = vec![bin_dir.join("clustermesh-apiserver").display().to_string()];
    command.extend([
        format!("--config-dir={}", cluster.directory.display()),
        format!("--admin-socket={}", apiserver_socket(cluster, replica).display()),
        // All clusters of a lab belong to the same user.
        "--trusted-peers".to_owned(),
    ]);
    process(lab, Component::Apiserver(replica).process(&cluster.name), node, "system", command)
}

fn agent(
    lab: &LabName,
    cluster: &ClusterState,
    number: ClusterNumber,
    node: &NodeState,
    bin_dir: &Path,
) -> ProcessState {
    let folder = lab.folder().join("nodes").join(format!("{}-{}", cluster.name, node.name));
    let mut command = vec![bin_dir.join("clustermesh-agent").display().to_string()];
    command.extend([
        format!("--cluster-name={}", cluster.name),
        format!("--cluster-id={}", cluster.id),
        format!("--node-name={}", node.name),
        format!("--config-dir={}", cluster.directory.display()),
        format!("--local-config={}", local_config(cluster).display()),
        format!("--state-dir={}", folder.display()),
        format!("--admin-socket={}", node.admin_socket.display()),
        format!("--pin-root={}", pins(lab, cluster, node).display()),
        format!("--cgroup-root={}", node.cgroup.display()),
        // The lab's CNI makes no routes to other nodes.
        "--own-routes".to_owned(),
        // None runs in a lab.
        "--replace-kube-proxy=force".to_owned(),
    ]);
    command.extend(number.pod_cidrs().iter().map(|net| format!("--pod-cidr={net}")));
    command.extend(number.node_cidrs().iter().map(|net| format!("--node-cidr={net}")));
    command.extend(number.service_cidrs().iter().map(|net| format!("--service-cidr={net}")));
    process(lab, Component::Agent(node.name.clone()).process(&cluster.name), node, "agent", command)
}

/// The admin socket of an apiserver.
pub(crate) fn apiserver_socket(cluster: &ClusterState, replica: u8) -> PathBuf {
    state_of(cluster, &Component::Apiserver(replica)).with_extension("sock")
}

/// The data folder of a component of the control plane.
fn state_of(cluster: &ClusterState, component: &Component) -> PathBuf {
    cluster.directory.join("state").join(component.to_string())
}

/// The folder with the pinned tables of a node.
pub(crate) fn pins(lab: &LabName, cluster: &ClusterState, node: &NodeState) -> PathBuf {
    lab.pins().join(&cluster.name).join(&node.name)
}

fn local_config(cluster: &ClusterState) -> PathBuf {
    cluster.directory.join("local.yaml")
}

fn process(
    lab: &LabName,
    name: String,
    node: &NodeState,
    cgroup: &str,
    command: Vec<String>,
) -> ProcessState {
    let log = lab.folder().join("logs").join(format!("{}.log", name.replace('/', "-")));
    ProcessState {
        name,
        command,
        netns: node.netns.clone(),
        cgroup: node.cgroup.join(cgroup),
        environment: vec![("CLUSTERMESH_LOG_FORMAT".into(), "text".into())],
        log,
        pid: 0,
        start_time: 0,
    }
}

/// The nodes of a cluster, as its API server would show them.
fn node_manifests(cluster: &ClusterState, number: ClusterNumber) -> Result<String, LabError> {
    let mut items = Vec::new();
    for (node, at) in cluster.nodes.iter().zip(names::nodes(cluster.nodes.len())?) {
        let addresses: Vec<_> = node
            .ips
            .iter()
            .map(|ip| json!({ "type": "InternalIP", "address": ip.to_string() }))
            .collect();
        let ranges = number.node_pod_cidrs(at).map(|net| net.to_string());
        items.push(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": node.name, "labels": { "kubernetes.io/hostname": node.name } },
            "spec": { "podCIDR": ranges.first(), "podCIDRs": ranges },
            "status": { "addresses": addresses },
        }));
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    serde_json::to_string_pretty(&list).map_err(|e| LabError::Manifest(e.to_string()))
}

fn https(ip: std::net::IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::from((ip, port)))
}

/// A token that differs at each creation of the cluster.
fn start_token() -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}", now.as_nanos())
}

fn write(path: &Path, text: &str) -> Result<(), LabError> {
    write_atomic(path, text.as_bytes(), Access::All).map_err(LabError::io(path))
}
