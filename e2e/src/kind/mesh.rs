//! What scenarios do with a mesh, on kind clusters.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use mesh_files::first_cgroup2;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Kind, PODS, is_ready, name, repository};
use crate::{
    mesh::{Daemon, Mesh, output, within},
    netns::binary,
};

impl Mesh for Kind {
    fn clusters(&self) -> Vec<String> {
        self.clusters.clone()
    }

    fn nodes(&self, cluster: &str) -> Vec<String> {
        self.objects(cluster, "nodes", "default").iter().map(name).collect()
    }

    fn clustermesh(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env("KUBECONFIG", self.state.join("kubeconfig"));
        // Labs may have contexts of the same names.
        command.env("CLUSTERMESH_CONTEXTS", self.state.join("contexts.yaml"));
        command
    }

    fn apply(&self, cluster: &str, manifest: &str, replicas: Option<u32>) {
        let file = manifests().map(|folder| folder.join(manifest).with_extension("yaml"));
        let file = file.into_iter().find(|file| file.is_file()).expect("a manifest of that name");
        let kind = if self.numbered { "statefulset" } else { "deployment" };
        let exists =
            self.objects(cluster, kind, "default").iter().any(|found| name(found) == manifest);
        if replicas.is_none() || !exists {
            let text = on_all_nodes(&fs::read_to_string(file).expect("a manifest"));
            let text = if self.numbered { numbered(&text) } else { text };
            self.apply_manifests(cluster, &text);
        }
        // Without a number it is that of the file.
        if let Some(replicas) = replicas {
            let number = format!("--replicas={replicas}");
            self.kubectl_done(
                cluster,
                &["scale", kind, manifest, "--namespace", "default", &number],
            );
        }
        self.settle(cluster);
    }

    /// Namespaces of objects in JSON are made before.
    fn apply_text(&self, cluster: &str, _name: &str, manifest: &str) {
        let list: Value = serde_json::from_str(manifest).unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let used = items.iter().filter_map(|item| item["metadata"]["namespace"].as_str());
        for name in used.collect::<BTreeSet<_>>() {
            let namespace =
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            self.apply_manifests(cluster, &namespace.to_string());
        }
        self.apply_manifests(cluster, manifest);
        self.settle(cluster);
    }

    /// The command gets the pod's mounts, network and cgroup, but stays a child of this process, so that it can be signalled.
    fn in_pod(&self, cluster: &str, pod: &str, command: &[&str]) -> Command {
        enter(self.process_of(cluster, "default", pod), &["--mount", "--net"], command)
    }

    fn on_node(&self, _cluster: &str, node: &str, command: &[&str]) -> Command {
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &self.node_process(node), "--mount", "--net", "--"]).args(command);
        enter
    }

    fn node_ips(&self, cluster: &str, node: &str) -> Vec<IpAddr> {
        let nodes = self.objects(cluster, "nodes", "default");
        let node = nodes.into_iter().find(|found| name(found) == node).expect("a node");
        let addresses = node["status"]["addresses"].as_array().expect("addresses").clone();
        let internal = addresses.iter().filter(|address| address["type"] == "InternalIP");
        internal.filter_map(|address| address["address"].as_str()?.parse().ok()).collect()
    }

    fn pod_ips(&self, cluster: &str, prefix: &str) -> Vec<IpAddr> {
        let pods = self.objects(cluster, "pods", "default");
        let pods = pods.iter().filter(|pod| name(pod).starts_with(prefix) && is_ready(pod));
        let ips =
            pods.flat_map(|pod| pod["status"]["podIPs"].as_array().cloned().unwrap_or_default());
        ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect()
    }

    fn pins(&self, _cluster: &str, node: &str) -> PathBuf {
        self.in_node(node, "sys/fs/bpf/clustermesh")
    }

    fn state_dir(&self, _cluster: &str, node: &str) -> PathBuf {
        self.in_node(node, "var/lib/clustermesh/agent")
    }

    fn pods_dir(&self, _cluster: &str, node: &str) -> PathBuf {
        self.in_node(node, "run/clustermesh/pods")
    }

    fn node_of(&self, cluster: &str, pod: &str) -> String {
        let pods = self.objects(cluster, "pods", "default");
        let pod = pods.into_iter().find(|found| name(found) == pod).expect("a pod");
        pod["spec"]["nodeName"].as_str().expect("a node").to_owned()
    }

    fn check_pod(&self, _cluster: &str, _pod: &str) -> Command {
        panic!("pods of the fleet are not attached by our CNI plugin")
    }

    fn cni_result(&self, _cluster: &str, _pod: &str) -> Value {
        panic!("pods of the fleet are not attached by our CNI plugin")
    }

    fn peer_folder(&self, cluster: &str) -> PathBuf {
        let node = self.nodes(cluster).into_iter().next().expect("a node");
        let agent = self.daemon(&Daemon::Agent(cluster.into(), node)).expect("an agent");
        Path::new("/proc").join(agent.to_string()).join("root/etc/clustermesh/peers")
    }

    fn manifests(&self, _cluster: &str) -> PathBuf {
        panic!("objects of the fleet are in its API servers")
    }

    fn name_zones(&self, cluster: &str) {
        for node in self.nodes(cluster) {
            let label = format!("topology.kubernetes.io/zone={node}");
            self.kubectl_done(cluster, &["label", "node", &node, &label]);
        }
    }

    /// Its kubelet would start it again: it is frozen.
    fn halt(&self, daemon: &Daemon) {
        let frozen = self.signal_on_node(&self.node_of_daemon(daemon), "kubelet", Signal::SIGSTOP);
        assert_eq!(frozen, 1, "a node has one kubelet");
        self.kill(daemon);
    }

    /// Its kubelet starts it again.
    fn kill(&self, daemon: &Daemon) {
        self.signal(daemon, Signal::SIGKILL);
    }

    fn stop(&self, daemon: &Daemon) {
        panic!("a kubelet starts {daemon} again at once")
    }

    fn freeze(&self, daemon: &Daemon) {
        self.signal(daemon, Signal::SIGSTOP);
    }

    fn thaw(&self, daemon: &Daemon) {
        self.signal(daemon, Signal::SIGCONT);
    }

    /// Waits until its kubelet has started it.
    fn start(&self, daemon: &Daemon) {
        within(PODS, &format!("{daemon} runs"), || {
            self.daemon(daemon).map(|_| ()).ok_or_else(|| "it does not run yet".to_owned())
        });
    }

    fn start_with(&self, daemon: &Daemon, _variable: (&str, &str)) {
        panic!("the environment of {daemon} is in its manifest")
    }

    fn journal(&self, _cluster: &str) -> PathBuf {
        panic!("identities of the fleet are objects")
    }

    /// Packets to and from the other side are dropped on all nodes of this one.
    fn cut(&self, one: &str, other: &str) {
        let (cluster, _) = one.split_once('/').unwrap_or((one, ""));
        let ranges = match other.split_once('/') {
            Some((cluster, node)) => {
                self.node_ips(cluster, node).iter().map(ToString::to_string).collect()
            }
            None => ranges(other),
        };
        let set = |v4: bool| {
            ranges
                .iter()
                .filter(|range| range.contains(':') != v4)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (v4, v6) = (set(true), set(false));
        let hooks = ["prerouting", "output", "forward"].map(|hook| {
            format!(
                "chain {hook} {{ type filter hook {hook} priority -400; ip saddr {{ {v4} }} drop; ip daddr {{ {v4} }} drop; ip6 saddr {{ {v6} }} drop; ip6 daddr {{ {v6} }} drop; }}"
            )
        });
        let table = format!("table inet e2e_cut {{\n{}\n}}", hooks.join("\n"));
        for node in self.nodes(cluster) {
            let done = output(self.on_node(cluster, &node, &["nft", &table]));
            done.unwrap_or_else(|e| panic!("cannot cut {node}: {e}"));
        }
    }

    fn delay(&self, _one: &str, _etcd: &str, _millis: u32) {
        panic!("the fleet has no delays")
    }

    fn heal(&self) {
        for cluster in self.up.iter() {
            for node in self.nodes(cluster) {
                let done = output(self.on_node(
                    cluster,
                    &node,
                    &["nft", "add table inet e2e_cut; delete table inet e2e_cut"],
                ));
                done.unwrap_or_else(|e| panic!("cannot heal {node}: {e}"));
            }
        }
    }

    fn etcdctl_at(&self, cluster: &str, replica: u8, args: &[&str]) -> Command {
        assert_eq!(replica, 1, "the fleet has one replica");
        let etcd = self.daemon(&Daemon::Etcd(cluster.into())).expect("the etcd runs").to_string();
        let file =
            |flag: &str, name: &str| format!("{flag}=/proc/{etcd}/root/etc/clustermesh/pki/{name}");
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &etcd,
            "--net",
            "--",
            "etcdctl",
            "--endpoints=https://127.0.0.1:12379",
        ]);
        command.args([
            file("--cacert", "ca.crt"),
            file("--cert", "admin.crt"),
            file("--key", "admin.key"),
            // The certificate of the etcd has names only, and `etcdctl` compares it with the address.
            "--insecure-skip-tls-verify".into(),
        ]);
        command.args(args).env("ETCDCTL_API", "3");
        command
    }

    fn check_history(&self) -> Option<Command> {
        None
    }

    fn wipe_etcd(&self, cluster: &str) {
        panic!("the data of the etcd of {cluster} go with its pod")
    }
}

/// A manifest whose pods are distributed evenly over the nodes, as a lab distributes them. They get a share of the CPU: without
/// a request a pod has almost none beside programs that are in no pod, and the load is one.
fn on_all_nodes(text: &str) -> String {
    let evenly = "    spec:
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          nodeTaintsPolicy: Honor
          labelSelector: { matchLabels: { app: echo } }
      containers:
";
    let request = "          resources: { requests: { cpu: 200m } }\n          ports:\n";
    text.replacen("    spec:\n      containers:\n", evenly, 1).replacen(
        "          ports:\n",
        request,
        1,
    )
}

/// A manifest with a StatefulSet in place of its Deployment.
fn numbered(text: &str) -> String {
    let spec = "\nspec:\n  serviceName: echo\n  podManagementPolicy: Parallel\n  replicas";
    text.replace("kind: Deployment", "kind: StatefulSet").replacen("\nspec:\n  replicas", spec, 1)
}

/// The address ranges of a cluster of the fleet: pods and nodes.
fn ranges(cluster: &str) -> Vec<String> {
    let number = cluster.bytes().next().expect("a name") - b'a' + 1;
    vec![
        format!("10.{number}.0.0/16"),
        format!("172.30.{number}.0/24"),
        format!("fd00:10:{number}::/48"),
        format!("fd00:172:30::{number}:0/112"),
    ]
}

impl Kind {
    /// A command in the network and the cgroup of a pod, but with the files of this machine.
    pub fn in_network_of(
        &self,
        cluster: &str,
        namespace: &str,
        pod: &str,
        command: &[&str],
    ) -> Command {
        enter(self.process_of(cluster, namespace, pod), &["--net"], command)
    }

    /// The same in the network and the cgroup of a node.
    pub fn in_network_of_node(&self, node: &str, command: &[&str]) -> Command {
        enter(self.node_process(node).parse().expect("a pid"), &["--net"], command)
    }

    fn process_of(&self, cluster: &str, namespace: &str, pod: &str) -> i32 {
        let pid = self.process(cluster, namespace, |found| name(found) == pod, None);
        pid.unwrap_or_else(|| panic!("pod {pod} of {cluster} does not run"))
    }
}

/// A command with the cgroup and some of the namespaces of a process.
fn enter(pid: i32, spaces: &[&str], command: &[&str]) -> Command {
    let mut enter = Command::new("sh");
    enter
        .args(["-c", r#"echo $$ > "$1" && shift && exec "$@""#, "sh"])
        .arg(cgroup(pid).join("cgroup.procs"));
    enter.args(["nsenter", "--target", &pid.to_string()]).args(spaces).arg("--").args(command);
    enter
}

/// The folder of a process's cgroup (cgroup2).
fn cgroup(pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process runs");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup2");
    first_cgroup2().expect("a mount of cgroup2").join(path)
}

/// The folders of manifests: those for kubelets, examples for users, and those of the suite.
fn manifests() -> [PathBuf; 3] {
    ["e2e/kubernetes/mesh", "deploy/examples", "e2e/manifests"]
        .map(|folder| repository().join(folder))
}
