//! The interface between scenarios and meshes.

use std::{
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::json;

/// A mesh that one scenario uses.
pub trait Mesh {
    /// The clusters' names, in order.
    fn clusters(&self) -> Vec<String>;

    /// The names of a cluster's nodes, in order.
    fn nodes(&self, cluster: &str) -> Vec<String>;

    /// A `clustermesh` command for this mesh.
    fn clustermesh(&self, args: &[&str]) -> Command;

    /// Applies `deploy/examples/<manifest>.yaml` or `e2e/manifests/<manifest>.yaml`, with another number of replicas if it
    /// is given. Returns when the pods run.
    fn apply(&self, cluster: &str, manifest: &str, replicas: Option<u32>);

    /// Applies the text of a manifest. It replaces what was applied with that name before.
    fn apply_text(&self, cluster: &str, name: &str, manifest: &str);

    /// A command in a pod of the namespace `default`.
    fn in_pod(&self, cluster: &str, pod: &str, command: &[&str]) -> Command;

    /// A command on a node, outside any pod.
    fn on_node(&self, cluster: &str, node: &str, command: &[&str]) -> Command;

    /// The addresses of a node.
    fn node_ips(&self, cluster: &str, node: &str) -> Vec<IpAddr>;

    /// The addresses of running pods whose names begin with `prefix`.
    fn pod_ips(&self, cluster: &str, prefix: &str) -> Vec<IpAddr>;

    /// The folder in which a node's tables are pinned.
    fn pins(&self, cluster: &str, node: &str) -> PathBuf;

    /// The state folder of a node's agent.
    fn state_dir(&self, cluster: &str, node: &str) -> PathBuf;

    /// The folder in which the CNI plugin writes a file for each attachment on a node.
    fn pods_dir(&self, cluster: &str, node: &str) -> PathBuf;

    /// The node of a pod of the namespace `default`.
    fn node_of(&self, cluster: &str, pod: &str) -> String;

    /// A command that runs CHECK of a pod's CNI plugins.
    fn check_pod(&self, cluster: &str, pod: &str) -> Command;

    /// The result of the ADD of a pod's CNI plugins, which the runtime has stored.
    fn cni_result(&self, cluster: &str, pod: &str) -> Value;

    /// The folder with a cluster's peer files.
    fn peer_folder(&self, cluster: &str) -> PathBuf;

    /// The folder of a cluster's manifests. The lab starts nothing for objects that a scenario writes here.
    fn manifests(&self, cluster: &str) -> PathBuf;

    /// Puts each node of a cluster into its own zone, which has the node's name.
    fn name_zones(&self, cluster: &str);

    /// Kills a daemon with SIGKILL.
    fn kill(&self, daemon: &Daemon);

    /// The same, and nothing starts it again.
    fn halt(&self, daemon: &Daemon);

    /// Stops a daemon by a signal, and waits until it has ended.
    fn stop(&self, daemon: &Daemon);

    /// Freezes a daemon with SIGSTOP, so that it hangs.
    fn freeze(&self, daemon: &Daemon);

    /// Lets a frozen daemon continue.
    fn thaw(&self, daemon: &Daemon);

    /// Starts a daemon that was killed or stopped.
    fn start(&self, daemon: &Daemon);

    /// The same, with an environment variable.
    fn start_with(&self, daemon: &Daemon, variable: (&str, &str));

    /// The journal of a cluster's identity IDs.
    fn journal(&self, cluster: &str) -> PathBuf;

    /// Cuts the network between two endpoints: clusters (`a`), nodes (`a/n1`), or a cluster's etcd (`a/etcd`).
    fn cut(&self, one: &str, other: &str);

    /// Delays packets between an endpoint and a cluster's etcd (`a/etcd`), by `millis` milliseconds each way.
    fn delay(&self, one: &str, etcd: &str, millis: u32);

    /// Ends all cuts and delays.
    fn heal(&self);

    /// A command of `etcdctl` as a cluster's administrator, for the etcd of the first replica.
    fn etcdctl(&self, cluster: &str, args: &[&str]) -> Command {
        self.etcdctl_at(cluster, 1, args)
    }

    /// The same for the etcd of one replica.
    fn etcdctl_at(&self, cluster: &str, replica: u8, args: &[&str]) -> Command;

    /// A command that compares every kernel with the manifests, without any daemon. It exits with 0 if they are equal, else
    /// with 3. Without a history of the manifests there is none.
    fn check_history(&self) -> Option<Command>;

    /// Deletes all data of a cluster's etcd, which must not run.
    fn wipe_etcd(&self, cluster: &str);
}

/// A daemon of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// A cluster's etcd.
    Etcd(String),
    /// A cluster's apiserver.
    Apiserver(String),
    /// The etcd of another replica, by its number.
    EtcdOf(String, u8),
    /// The apiserver of another replica, by its number.
    ApiserverOf(String, u8),
    /// The agent of a cluster's node.
    Agent(String, String),
}

impl fmt::Display for Daemon {
    /// As the lab calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd(cluster) => write!(f, "{cluster}/etcd"),
            Self::Apiserver(cluster) => write!(f, "{cluster}/apiserver"),
            Self::EtcdOf(cluster, replica) => write!(f, "{cluster}/etcd{replica}"),
            Self::ApiserverOf(cluster, replica) => write!(f, "{cluster}/apiserver{replica}"),
            Self::Agent(cluster, node) => write!(f, "{cluster}/{node}/agent"),
        }
    }
}

/// What a command printed, or what it complained about.
pub fn output(mut command: Command) -> Result<String, String> {
    let output = command.output().expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The names of a cluster's peer files.
pub fn peer_files(mesh: &impl Mesh, cluster: &str) -> Vec<String> {
    let folder = mesh.peer_folder(cluster);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    // A kubelet keeps a Secret in a folder `..data`.
    names.filter(|name| !name.starts_with("..")).collect()
}

/// Every daemon of a mesh.
pub fn daemons(mesh: &impl Mesh) -> Vec<Daemon> {
    let of = |cluster: String| {
        let agents = mesh.nodes(&cluster).into_iter().map({
            let cluster = cluster.clone();
            move |node| Daemon::Agent(cluster.clone(), node)
        });
        [Daemon::Etcd(cluster.clone()), Daemon::Apiserver(cluster)].into_iter().chain(agents)
    };
    mesh.clusters().into_iter().flat_map(of).collect()
}

/// Connects two clusters, and waits until each follows the other.
pub fn connect(mesh: &impl Mesh, one: &str, other: &str) {
    json::of(mesh.clustermesh(&["connect", "--context", one, "--destination-context", other]));
    wait_ready(mesh);
}

/// Waits until the whole mesh is ready (`status --wait`).
pub fn wait_ready(mesh: &impl Mesh) {
    for cluster in mesh.clusters() {
        let status = ["status", "--context", &cluster, "--wait", "--allow-degraded"];
        json::of(mesh.clustermesh(&status));
    }
}

/// Whether `status` says of each cluster that it is ready.
pub fn is_ready(mesh: &impl Mesh) -> bool {
    let is_ready =
        |cluster: String| json::run(mesh.clustermesh(&["status", "--context", &cluster])).0 == 0;
    mesh.clusters().into_iter().all(is_ready)
}

/// The frontends of a service in `cluster` with an IP protocol (`TCP`, `UDP`).
pub fn frontends(
    mesh: &impl Mesh,
    cluster: &str,
    service: &str,
    protocol: &str,
) -> Vec<SocketAddr> {
    let shown = json::of(mesh.clustermesh(&["service", "show", service, "--context", cluster]));
    let frontends = shown["services"][0]["frontends"].as_array().expect("frontends").clone();
    let of_protocol = frontends.iter().filter(|frontend| frontend["protocol"] == protocol);
    of_protocol.map(socket_address).collect()
}

/// Parses the address and port of a frontend or backend.
pub fn socket_address(value: &Value) -> SocketAddr {
    let ip: IpAddr = value["address"].as_str().expect("address").parse().expect("an address");
    SocketAddr::new(ip, value["port"].as_u64().expect("port").try_into().expect("a port"))
}

/// Waits until `look` succeeds. If it does not, panics with its last error.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(Duration::from_secs(20), what, look)
}

/// The same, with another limit.
pub fn within<T>(time: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + time;
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) if Instant::now() >= deadline => panic!("{what}: {instead}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
