//! What a scenario needs of a mesh, whatever it is made of.

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

/// A mesh of clusters that a scenario has for itself.
pub trait Mesh {
    /// The clusters' names, in order.
    fn clusters(&self) -> Vec<String>;

    /// The names of a cluster's nodes, in order.
    fn nodes(&self, cluster: &str) -> Vec<String>;

    /// `clustermesh`, as the operator of this mesh calls it.
    fn clustermesh(&self, args: &[&str]) -> Command;

    /// Applies `deploy/examples/<manifest>.yaml` or `e2e/manifests/<manifest>.yaml`, with another number of replicas if given. Returns when its pods run.
    fn apply(&self, cluster: &str, manifest: &str, replicas: Option<u32>);

    /// Applies the text of a manifest, in place of what was applied by that name before.
    fn apply_text(&self, cluster: &str, name: &str, manifest: &str);

    /// A command in a pod of the namespace `default`.
    fn in_pod(&self, cluster: &str, pod: &str, command: &[&str]) -> Command;

    /// A command on a node, outside any pod.
    fn on_node(&self, cluster: &str, node: &str, command: &[&str]) -> Command;

    /// Addresses of a node.
    fn node_ips(&self, cluster: &str, node: &str) -> Vec<IpAddr>;

    /// Addresses of the running pods whose names begin with `prefix`.
    fn pod_ips(&self, cluster: &str, prefix: &str) -> Vec<IpAddr>;

    /// Where a node's tables are pinned.
    fn pins(&self, cluster: &str, node: &str) -> PathBuf;

    /// Where a node's agent keeps what outlives it.
    fn state_dir(&self, cluster: &str, node: &str) -> PathBuf;

    /// Where a node's agent finds what the CNI plugin leaves: a file an attachment.
    fn pods_dir(&self, cluster: &str, node: &str) -> PathBuf;

    /// The node that a pod of the namespace `default` is on.
    fn node_of(&self, cluster: &str, pod: &str) -> String;

    /// Asks a pod's CNI plugins whether it is attached as it was.
    fn check_pod(&self, cluster: &str, pod: &str) -> Command;

    /// What a pod's CNI plugins made of it, as the runtime remembers it.
    fn cni_result(&self, cluster: &str, pod: &str) -> Value;

    /// The folder with the files that make a cluster follow others.
    fn peer_folder(&self, cluster: &str) -> PathBuf;

    /// The folder of a cluster's manifests: objects that are there without anything that they stand for.
    fn manifests(&self, cluster: &str) -> PathBuf;

    /// Kills a daemon without a warning.
    fn kill(&self, daemon: &Daemon);

    /// Signals a daemon to stop, and waits until it has.
    fn stop(&self, daemon: &Daemon);

    /// Stops a daemon in its tracks: it is there, and does nothing.
    fn freeze(&self, daemon: &Daemon);

    /// Lets a daemon go on that was frozen.
    fn thaw(&self, daemon: &Daemon);

    /// Starts a daemon that was killed or stopped.
    fn start(&self, daemon: &Daemon);

    /// Starts a daemon that was killed, with a variable in its environment.
    fn start_with(&self, daemon: &Daemon, variable: (&str, &str));

    /// The file in which a cluster's apiserver remembers its identities.
    fn journal(&self, cluster: &str) -> PathBuf;

    /// Cuts two places off from each other: clusters (`a`), nodes (`a/n1`), or a cluster's etcd (`a/etcd`).
    fn cut(&self, one: &str, other: &str);

    /// Delays what a place and a cluster's etcd (`a/etcd`) send each other, by so many milliseconds each way.
    fn delay(&self, one: &str, etcd: &str, millis: u32);

    /// Heals everything that is cut or delayed.
    fn heal(&self);

    /// `etcdctl`, as a cluster's administrator calls it beside its etcd: the first, where there are several.
    fn etcdctl(&self, cluster: &str, args: &[&str]) -> Command {
        self.etcdctl_at(cluster, 1, args)
    }

    /// `etcdctl`, beside the etcd of one of a cluster's replicas.
    fn etcdctl_at(&self, cluster: &str, replica: u8, args: &[&str]) -> Command;

    /// Compares every kernel with the manifests, through no daemon: exits with 0 if they are equal, with 3 if not.
    fn check_history(&self) -> Command;

    /// Takes everything away that a cluster's etcd has on its disk. It must not run.
    fn wipe_etcd(&self, cluster: &str);
}

/// A daemon of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// A cluster's etcd.
    Etcd(String),
    /// A cluster's apiserver.
    Apiserver(String),
    /// The etcd of a further replica, by its number.
    EtcdOf(String, u8),
    /// The apiserver of a further replica.
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

/// The names of the files that make a cluster follow others.
pub fn peer_files(mesh: &impl Mesh, cluster: &str) -> Vec<String> {
    let folder = mesh.peer_folder(cluster);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
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

/// Connects two clusters and waits until each follows the other.
pub fn connect(mesh: &impl Mesh, one: &str, other: &str) {
    json::of(mesh.clustermesh(&["connect", "--context", one, "--destination-context", other]));
    wait_ready(mesh);
}

/// Waits until all that is configured is connected and ready.
pub fn wait_ready(mesh: &impl Mesh) {
    json::of(mesh.clustermesh(&["status", "--wait", "--allow-degraded"]));
}

/// The addresses at which clients in `cluster` find a service's port, by IP protocol name (`TCP`, `UDP`).
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

/// A frontend's or backend's address and port.
pub fn socket_address(value: &Value) -> SocketAddr {
    let ip: IpAddr = value["address"].as_str().expect("address").parse().expect("an address");
    SocketAddr::new(ip, value["port"].as_u64().expect("port").try_into().expect("a port"))
}

/// Waits until something is so. What was so instead is the panic's message.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(Duration::from_secs(20), what, look)
}

/// Waits until something is so that may take longer than most.
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
