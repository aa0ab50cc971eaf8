//! A mesh made of network namespaces, by the commands of `clustermesh lab`.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use mesh_lab::{ClusterState, LabState, Liveness, NodeState};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    json,
    mesh::{Daemon, Mesh},
};

/// A lab. It is taken down on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    binary: PathBuf,
    /// Of daemons.
    variables: Vec<(String, String)>,
}

/// The environment variable that keeps the lab of a failed scenario.
const KEEP: &str = "KEEP";

impl Netns {
    /// Two clusters of two nodes.
    pub fn up(name: &str) -> Self {
        Self::sized(name, 2, 2)
    }

    /// A number of clusters with a number of nodes.
    pub fn sized(name: &str, clusters: usize, nodes: usize) -> Self {
        let size = ["--clusters", &clusters.to_string(), "--nodes", &nodes.to_string()];
        Self::with(name, &size)
    }

    /// A lab with flags of `lab up`.
    pub fn with(name: &str, flags: &[&str]) -> Self {
        Self::of(name, binary(), flags)
    }

    /// Two clusters of two nodes, with the executables in the folder of a CLI.
    pub fn beside(name: &str, clustermesh: PathBuf) -> Self {
        Self::of(name, clustermesh, &["--clusters", "2", "--nodes", "2"])
    }

    /// Two clusters of two nodes, whose daemons have variables: `CLUSTERMESH_<FLAG>`.
    pub fn configured(name: &str, variables: &[(&str, &str)]) -> Self {
        let size = ["--clusters", "2", "--nodes", "2"];
        Self::started(name, binary(), &size, variables)
    }

    fn of(name: &str, binary: PathBuf, flags: &[&str]) -> Self {
        Self::started(name, binary, flags, &[])
    }

    fn started(name: &str, binary: PathBuf, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mesh = Self { name: name.into(), binary, variables: variables.collect() };
        // Remove the lab of a previous run. Each scenario has its own name.
        json::of(mesh.lab("down"));
        let mut up = mesh.lab("up");
        up.args(flags);
        json::of(up);
        mesh
    }

    /// `clustermesh lab COMMAND --lab NAME`.
    pub fn lab(&self, command: &str) -> Command {
        let mut lab = Command::new(&self.binary);
        lab.args(["lab", command, "--lab", &self.name]);
        lab.envs(self.variables.iter().map(|(name, value)| (name, value)));
        lab
    }

    /// The state of the lab.
    pub fn state(&self) -> LabState {
        serde_json::from_value(json::of(self.lab("status"))["lab"].clone()).expect("a lab's state")
    }

    fn signal(&self, daemon: &Daemon, signal: Signal) {
        let name = process(daemon);
        let processes = self.state().processes;
        let found = processes.into_iter().find(|found| found.name == name).expect("a process");
        assert_eq!(found.liveness(), Liveness::Running, "{name}");
        kill(Pid::from_raw(found.pid), signal).expect("it runs");
    }

    fn cluster(&self, name: &str) -> ClusterState {
        let clusters = self.state().clusters;
        clusters.into_iter().find(|cluster| cluster.name == name).expect("a cluster of the lab")
    }

    fn node(&self, cluster: &str, name: &str) -> NodeState {
        let nodes = self.cluster(cluster).nodes;
        nodes.into_iter().find(|node| node.name == name).expect("a node of the cluster")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if env::var_os(KEEP).is_none() {
            let _ = self.lab("down").output();
        }
    }
}

impl Mesh for Netns {
    fn clusters(&self) -> Vec<String> {
        self.state().clusters.into_iter().map(|cluster| cluster.name).collect()
    }

    fn nodes(&self, cluster: &str) -> Vec<String> {
        self.cluster(cluster).nodes.into_iter().map(|node| node.name).collect()
    }

    fn clustermesh(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args);
        let contexts = Path::new("/run/clustermesh-lab").join(&self.name).join("contexts.yaml");
        command.env("CLUSTERMESH_CONTEXTS", contexts);
        command
    }

    fn apply(&self, cluster: &str, manifest: &str, replicas: Option<u32>) {
        let file = manifests().map(|folder| folder.join(manifest).with_extension("yaml"));
        let file = file.into_iter().find(|file| file.is_file()).expect("a manifest of that name");
        let mut apply = self.lab("apply");
        apply.args(["--cluster", cluster, "--file"]).arg(file);
        if let Some(replicas) = replicas {
            apply.args(["--replicas", &replicas.to_string()]);
        }
        json::of(apply);
    }

    fn apply_text(&self, cluster: &str, name: &str, manifest: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(name).with_extension("yaml");
        fs::write(&file, manifest).expect("the folder can be written to");
        let mut apply = self.lab("apply");
        apply.args(["--cluster", cluster, "--file"]).arg(file);
        json::of(apply);
    }

    fn in_pod(&self, cluster: &str, pod: &str, command: &[&str]) -> Command {
        let mut exec = self.lab("exec");
        exec.arg(format!("{cluster}/{pod}")).arg("--").args(command);
        exec
    }

    fn on_node(&self, cluster: &str, node: &str, command: &[&str]) -> Command {
        let mut exec = self.lab("exec");
        exec.arg(format!("{cluster}/node/{node}")).arg("--").args(command);
        exec
    }

    fn node_ips(&self, cluster: &str, node: &str) -> Vec<IpAddr> {
        self.node(cluster, node).ips
    }

    fn pod_ips(&self, cluster: &str, prefix: &str) -> Vec<IpAddr> {
        let pods = self.cluster(cluster).pods;
        pods.into_iter()
            .filter(|pod| pod.name.starts_with(prefix))
            .flat_map(|pod| pod.ips)
            .collect()
    }

    fn pins(&self, cluster: &str, node: &str) -> PathBuf {
        Path::new("/sys/fs/bpf/clustermesh-lab").join(&self.name).join(cluster).join(node)
    }

    fn state_dir(&self, cluster: &str, node: &str) -> PathBuf {
        self.node(cluster, node).admin_socket.with_file_name("")
    }

    fn pods_dir(&self, cluster: &str, node: &str) -> PathBuf {
        self.state_dir(cluster, node).join("pods")
    }

    fn node_of(&self, cluster: &str, pod: &str) -> String {
        let pods = self.cluster(cluster).pods;
        pods.into_iter().find(|found| found.name == pod).expect("a pod of the lab").node
    }

    fn check_pod(&self, cluster: &str, pod: &str) -> Command {
        let mut check = self.lab("check-pod");
        check.arg(format!("{cluster}/{pod}"));
        check
    }

    fn cni_result(&self, cluster: &str, pod: &str) -> Value {
        let node = self.node_of(cluster, pod);
        let pods = self.cluster(cluster).pods;
        let netns = pods.into_iter().find(|found| found.name == pod).expect("a pod").netns;
        let file = self.state_dir(cluster, &node).join("cni").join(format!("{netns}.result"));
        let text = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        serde_json::from_slice(&text).expect("JSON")
    }

    fn peer_folder(&self, cluster: &str) -> PathBuf {
        self.cluster(cluster).directory.join("peers")
    }

    fn manifests(&self, cluster: &str) -> PathBuf {
        self.cluster(cluster).directory.join("manifests")
    }

    fn name_zones(&self, cluster: &str) {
        let path = self.manifests(cluster).join("nodes.json");
        let text = fs::read_to_string(&path).expect("the nodes' manifest");
        let mut list: Value = serde_json::from_str(&text).expect("JSON");
        for node in list["items"].as_array_mut().expect("nodes") {
            let name = node["metadata"]["name"].clone();
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = name;
        }
        let new = path.with_file_name(".nodes.json");
        fs::write(&new, list.to_string()).expect("the folder can be written to");
        fs::rename(&new, &path).expect("the folder can be written to");
    }

    /// A lab starts no daemon by itself.
    fn halt(&self, daemon: &Daemon) {
        self.kill(daemon);
    }

    fn kill(&self, daemon: &Daemon) {
        let mut stop = self.lab("stop");
        stop.args(["--kill", &process(daemon)]);
        json::of(stop);
    }

    fn stop(&self, daemon: &Daemon) {
        let mut stop = self.lab("stop");
        stop.arg(process(daemon));
        json::of(stop);
    }

    fn freeze(&self, daemon: &Daemon) {
        self.signal(daemon, Signal::SIGSTOP);
    }

    fn thaw(&self, daemon: &Daemon) {
        self.signal(daemon, Signal::SIGCONT);
    }

    fn start(&self, daemon: &Daemon) {
        let mut start = self.lab("start");
        start.arg(process(daemon));
        json::of(start);
    }

    fn start_with(&self, daemon: &Daemon, (name, value): (&str, &str)) {
        let mut start = self.lab("start");
        start.arg(process(daemon)).env(name, value);
        // The scenario checks whether it starts.
        json::run(start);
    }

    fn journal(&self, cluster: &str) -> PathBuf {
        self.cluster(cluster).directory.join("state/identities.journal")
    }

    fn cut(&self, one: &str, other: &str) {
        let mut cut = self.lab("cut");
        cut.args([one, other]);
        json::of(cut);
    }

    fn delay(&self, one: &str, etcd: &str, millis: u32) {
        let mut cut = self.lab("cut");
        cut.args([one, etcd, "--delay", &format!("{millis}ms")]);
        json::of(cut);
    }

    fn heal(&self) {
        json::of(self.lab("heal"));
    }

    fn etcdctl_at(&self, cluster: &str, replica: u8, args: &[&str]) -> Command {
        let pki = self.cluster(cluster).directory.join("pki");
        let file = |flag: &str, name: &str| format!("{flag}={}", pki.join(name).display());
        let flags = [
            "etcdctl".to_owned(),
            "--endpoints=https://127.0.0.1:2379".into(),
            file("--cacert", "ca.crt"),
            file("--cert", "admin.crt"),
            file("--key", "admin.key"),
        ];
        let words: Vec<&str> =
            flags.iter().map(String::as_str).chain(args.iter().copied()).collect();
        let node = &self.nodes(cluster)[usize::from(replica) - 1];
        let mut command = self.on_node(cluster, node, &words);
        command.env("ETCDCTL_API", "3");
        command
    }

    fn check_history(&self) -> Option<Command> {
        Some(self.lab("check-history"))
    }

    fn wipe_etcd(&self, cluster: &str) {
        let data = self.cluster(cluster).directory.join("state/etcd");
        fs::remove_dir_all(&data).unwrap_or_else(|e| panic!("{}: {e}", data.display()));
    }
}

/// The lab's name of a daemon.
pub fn process(daemon: &Daemon) -> String {
    daemon.to_string()
}

/// The folders of manifests: examples for users, and those of the suite.
fn manifests() -> [PathBuf; 2] {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    [own.join("../deploy/examples"), own.join("manifests")]
}

/// The path of `clustermesh` in the build of this test or program.
pub fn binary() -> PathBuf {
    let own = env::current_exe().expect("this program's own path");
    // target/<profile>/deps/<test>, or target/<profile>/<program>
    let folder = own.parent().expect("a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("a folder") } else { folder };
    let binary = folder.join("clustermesh");
    assert!(binary.is_file(), "{} is missing: run `make build` first", binary.display());
    binary
}
