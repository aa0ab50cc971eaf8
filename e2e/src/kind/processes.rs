//! Processes of the fleet, as this machine numbers them: those of containers and of nodes. They are signalled from outside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{Kind, PODS, is_ready, name};
use crate::mesh::{Daemon, output, within};

/// A container of a daemon: the label of its pod, and its name.
const APISERVER: (&str, &str) = ("clustermesh-apiserver", "apiserver");
const ETCD: (&str, &str) = ("clustermesh-apiserver", "etcd");
const AGENT: (&str, &str) = ("clustermesh-agent", "agent");
/// The namespace of the mesh.
pub(super) const SYSTEM: &str = "clustermesh-system";
/// What scenarios freeze on nodes.
const FROZEN: [&str; 2] = ["kubelet", "kube-apiserver"];

impl Kind {
    /// The first process of a container of a pod that is not ending.
    pub(super) fn process(
        &self,
        cluster: &str,
        namespace: &str,
        pod: impl Fn(&Value) -> bool,
        container: Option<&str>,
    ) -> Option<i32> {
        let pods = self.objects(cluster, "pods", namespace);
        let found = pods
            .into_iter()
            .find(|found| pod(found) && found["metadata"]["deletionTimestamp"].is_null())?;
        let statuses = found["status"]["containerStatuses"].as_array()?.clone();
        let status =
            statuses.iter().find(|status| container.is_none_or(|name| status["name"] == name))?;
        status["state"].get("running")?;
        let id = status["containerID"].as_str()?.strip_prefix("containerd://")?.to_owned();
        in_cgroup(&id).into_iter().min()
    }

    /// The process of a daemon, if it runs.
    pub fn daemon(&self, daemon: &Daemon) -> Option<i32> {
        let (cluster, (label, container), node) = match daemon {
            Daemon::Etcd(cluster) => (cluster, ETCD, None),
            Daemon::Apiserver(cluster) => (cluster, APISERVER, None),
            Daemon::Agent(cluster, node) => (cluster, AGENT, Some(node)),
            Daemon::EtcdOf(..) | Daemon::ApiserverOf(..) => {
                panic!("the fleet has one replica: {daemon}")
            }
        };
        let is_it = |pod: &Value| {
            pod["metadata"]["labels"]["app.kubernetes.io/name"] == label
                && node.is_none_or(|node| pod["spec"]["nodeName"] == node.as_str())
        };
        self.process(cluster, SYSTEM, is_it, Some(container))
    }

    pub(super) fn signal(&self, daemon: &Daemon, signal: Signal) {
        let pid = self.daemon(daemon).unwrap_or_else(|| panic!("{daemon} does not run"));
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// The node on which a daemon runs.
    pub(super) fn node_of_daemon(&self, daemon: &Daemon) -> String {
        let (Daemon::Apiserver(cluster) | Daemon::Etcd(cluster)) = daemon else {
            panic!("{daemon} has its node in its name")
        };
        let pods = self.objects(cluster, "pods", SYSTEM);
        let of = |pod: &&Value| pod["metadata"]["labels"]["app.kubernetes.io/name"] == APISERVER.0;
        let pod = pods.iter().find(of).expect("a pod of the apiserver");
        pod["spec"]["nodeName"].as_str().expect("a node").to_owned()
    }

    /// Sends a signal to the processes of this name on a node. Returns how many there are.
    pub fn signal_on_node(&self, node: &str, program: &str, signal: Signal) -> usize {
        let Ok(container) = self.docker_done(&["inspect", "--format", "{{.Id}}", node]) else {
            return 0;
        };
        let pids = in_cgroup(container.trim()).into_iter().filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program)
        });
        pids.filter(|pid| kill(Pid::from_raw(*pid), signal).is_ok()).count()
    }

    /// Starts what scenarios stopped or froze on nodes.
    pub(super) fn revive(&self) {
        let all = ["ps", "--all", "--filter", "label=io.x-k8s.kind.cluster"];
        let names = |more: &[&str]| {
            let format = ["--format", "{{.Names}}"];
            let listed = self.docker_done(&[&all[..], more, &format].concat());
            let listed = listed.unwrap_or_else(|e| panic!("docker ps: {e}"));
            listed.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        for node in names(&["--filter", "status=exited"]) {
            self.start_node(&node);
        }
        for node in names(&[]) {
            for program in FROZEN {
                self.signal_on_node(&node, program, Signal::SIGCONT);
            }
        }
    }

    /// Kills a node with all its processes, as if its power failed.
    pub fn kill_node(&self, node: &str) {
        self.docker_done(&["kill", node]).unwrap_or_else(|e| panic!("{node}: {e}"));
    }

    /// Starts a killed node, and waits until its API server says that it is ready.
    pub fn start_node(&self, node: &str) {
        self.docker_done(&["start", node]).unwrap_or_else(|e| panic!("{node}: {e}"));
        let (cluster, _) = node.split_once('-').expect("the name of a node of kind");
        within(PODS, &format!("node {node} is ready"), || {
            let get = ["get", "node", node, "--output", "json", "--request-timeout", "5s"];
            let text = output(self.kubectl(cluster, &get))?;
            let found: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            if is_ready(&found) { Ok(()) } else { Err(format!("{:#}", found["status"])) }
        });
    }

    /// A command of Docker that must succeed. Returns what it printed.
    pub(super) fn docker_done(&self, args: &[&str]) -> Result<String, String> {
        let mut docker = Command::new(self.state.join("bin/docker"));
        docker.args(args);
        output(docker)
    }

    /// The first process of a node.
    pub(super) fn node_process(&self, node: &str) -> String {
        let found = self.docker_done(&["inspect", "--format", "{{.State.Pid}}", node]);
        found.unwrap_or_else(|e| panic!("node {node}: {e}")).trim().to_owned()
    }

    pub(super) fn in_node(&self, node: &str, path: &str) -> PathBuf {
        Path::new("/proc").join(self.node_process(node)).join("root").join(path)
    }

    /// How often the containers of the mesh were started anew, by pod and container.
    pub fn restarts(&self, cluster: &str) -> Vec<(String, u64)> {
        let pods = self.objects(cluster, "pods", SYSTEM);
        let of = |pod: &Value| {
            let statuses = pod["status"]["containerStatuses"].as_array().cloned();
            let name = name(pod);
            statuses.unwrap_or_default().into_iter().map(move |status| {
                let container = status["name"].as_str().unwrap_or_default();
                (format!("{name}/{container}"), status["restartCount"].as_u64().unwrap_or_default())
            })
        };
        let mut found: Vec<_> = pods.iter().flat_map(of).collect();
        found.sort();
        found
    }
}

/// The processes in cgroups that have this text in their path: the ID of a container, or of a node.
fn in_cgroup(text: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|found| found.contains(text))
    })
    .collect()
}
