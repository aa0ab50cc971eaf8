//! The lab of a benchmark, which is removed when the value is dropped.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mesh_dump::Dump;
use mesh_lab::{ClusterState, LabState, NodeState, go_quoted, printed_json};
use serde::Deserialize;

use crate::{
    command::run,
    error::{BenchError, file, io},
};

/// A lab, used by the commands that users have.
pub(crate) struct BenchLab {
    executable: PathBuf,
    name: String,
    pub(crate) state: LabState,
}

/// The part of the output of `lab status` that is used here.
#[derive(Deserialize)]
struct LabStatus {
    lab: LabState,
}

/// Keys written in one transaction; an etcd accepts 128.
const BATCH: usize = 100;

impl BenchLab {
    /// Starts a lab with clusters that are not connected.
    pub(crate) fn apart(name: &str, clusters: usize, nodes: usize) -> Result<Self, BenchError> {
        Self::make(name, clusters, nodes, 1)
    }

    /// Starts a lab in which each cluster is connected to the first.
    pub(crate) fn up(name: &str, clusters: usize, nodes: usize) -> Result<Self, BenchError> {
        Self::replicated(name, clusters, nodes, 1)
    }

    /// The same with this many replicas of each control plane.
    pub(crate) fn replicated(
        name: &str,
        clusters: usize,
        nodes: usize,
        replicas: usize,
    ) -> Result<Self, BenchError> {
        let lab = Self::make(name, clusters, nodes, replicas)?;
        for index in 1..lab.state.clusters.len() {
            let other = &lab.cluster(index)?.name;
            lab.clustermesh(&["connect", "--context", "a", "--destination-context", other])?;
        }
        lab.wait_ready("b")?;
        Ok(lab)
    }

    fn make(
        name: &str,
        clusters: usize,
        nodes: usize,
        replicas: usize,
    ) -> Result<Self, BenchError> {
        let executable = std::env::current_exe().map_err(io("this process's executable"))?;
        let mut lab = Self { executable, name: name.into(), state: LabState::default() };
        lab.lab("down", &[])?;
        let [clusters, nodes, replicas] = [clusters, nodes, replicas].map(|n| n.to_string());
        let size = ["--clusters", &clusters, "--nodes", &nodes, "--replicas", &replicas];
        lab.lab("up", &size)?;
        lab.refresh()?;
        Ok(lab)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Reads the state of the lab again, after processes were started or stopped.
    pub(crate) fn refresh(&mut self) -> Result<(), BenchError> {
        let status = self.lab("status", &["--output", "json"])?;
        let status: LabStatus =
            printed_json("lab status", &status).map_err(BenchError::Unexpected)?;
        self.state = status.lab;
        Ok(())
    }

    /// Runs `clustermesh lab COMMAND`.
    pub(crate) fn lab(&self, command: &str, more: &[&str]) -> Result<Vec<u8>, BenchError> {
        run(self.lab_command(command).args(more))
    }

    /// The command that [`Self::lab`] runs.
    pub(crate) fn lab_command(&self, command: &str) -> Command {
        let mut line = Command::new(&self.executable);
        line.args(["lab", command, "--lab", &self.name]);
        line
    }

    /// This program in a node's network namespace.
    pub(crate) fn clustermesh_in(&self, node: &NodeState) -> Command {
        in_node(node, &self.executable.display().to_string())
    }

    /// Runs `clustermesh` with the lab's contexts.
    pub(crate) fn clustermesh(&self, args: &[&str]) -> Result<Vec<u8>, BenchError> {
        run(self.clustermesh_command().args(args))
    }

    /// The command that [`Self::clustermesh`] runs.
    pub(crate) fn clustermesh_command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.env("CLUSTERMESH_CONTEXTS", self.folder().join("contexts.yaml"));
        command
    }

    /// The folder with the lab's state and logs.
    pub(crate) fn folder(&self) -> PathBuf {
        Path::new("/run/clustermesh-lab").join(&self.name)
    }

    /// Waits until a cluster's agents are connected to their peers.
    pub(crate) fn wait_ready(&self, cluster: &str) -> Result<(), BenchError> {
        self.clustermesh(&["status", "--wait", "--allow-degraded", "--context", cluster]).map(drop)
    }

    pub(crate) fn cluster(&self, index: usize) -> Result<&ClusterState, BenchError> {
        let missing = || BenchError::Unexpected("the lab has fewer clusters than asked for".into());
        self.state.clusters.get(index).ok_or_else(missing)
    }

    /// The tables of the first node of a cluster.
    pub(crate) fn dump(&self, cluster: &ClusterState) -> Result<Dump, BenchError> {
        self.dump_of(cluster, "n1")
    }

    /// The tables of a node.
    pub(crate) fn dump_of(&self, cluster: &ClusterState, node: &str) -> Result<Dump, BenchError> {
        Ok(Dump::open(&self.state.pins(&cluster.name, node))?)
    }

    /// The PID of a process, as of the last [`BenchLab::refresh`].
    pub(crate) fn pid(&self, name: &str) -> Result<i32, BenchError> {
        let found = self.state.processes.iter().find(|process| process.name == name);
        let missing = || BenchError::Unexpected(format!("{name} does not run"));
        found.map(|process| process.pid).filter(|pid| *pid > 0).ok_or_else(missing)
    }

    /// `etcdctl` on the first node of a cluster, as the cluster's administrator.
    pub(crate) fn etcdctl(&self, cluster: &ClusterState) -> Result<Command, BenchError> {
        let pki = cluster.directory.join("pki");
        let mut command = in_node(first_node(cluster)?, "etcdctl");
        command.arg("--endpoints=https://127.0.0.1:2379").env("ETCDCTL_API", "3");
        command.arg("--cacert").arg(pki.join("ca.crt"));
        command.arg("--cert").arg(pki.join("admin.crt")).arg("--key").arg(pki.join("admin.key"));
        Ok(command)
    }

    /// `etcdctl` on a node of another cluster, with the credentials of that cluster's agents, for an etcd of the first.
    pub(crate) fn etcdctl_as_peer(
        &self,
        (source, etcd): (&ClusterState, &NodeState),
        (reader, node): (&ClusterState, &NodeState),
    ) -> Result<Command, BenchError> {
        let ip = ipv4(etcd)?;
        let credential = |suffix: &str| {
            let peers = reader.directory.join("peers");
            peers.join(format!("{}.etcd-client{suffix}", source.name)).display().to_string()
        };
        let mut command = in_node(node, "etcdctl");
        command.arg(format!("--endpoints=https://{ip}:2379")).env("ETCDCTL_API", "3");
        command.args(["--cacert", &credential("-ca.crt"), "--cert", &credential(".crt")]);
        command.args(["--key", &credential(".key")]);
        Ok(command)
    }

    /// Writes keys into a cluster's etcd, [`BATCH`] in a transaction.
    pub(crate) fn write(
        &self,
        cluster: &ClusterState,
        entries: &[(String, Vec<u8>)],
        mut progress: impl FnMut(usize),
    ) -> Result<(), BenchError> {
        for (done, chunk) in entries.chunks(BATCH).enumerate() {
            progress(done * BATCH);
            let mut child = self
                .etcdctl(cluster)?
                .arg("txn")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .map_err(io("etcdctl"))?;
            let puts = chunk.iter().map(|(key, value)| {
                format!("put {} {}\n", go_quoted(key.as_bytes()), go_quoted(value))
            });
            // The three parts: conditions (none), operations if they hold, operations otherwise (none).
            let text = format!("\n{}\n\n", puts.collect::<String>());
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(text.as_bytes()).map_err(io("etcdctl"))?;
            }
            if !child.wait().map_err(io("etcdctl"))?.success() {
                return Err(BenchError::Unexpected("etcdctl txn failed".into()));
            }
        }
        Ok(())
    }
}

impl Drop for BenchLab {
    fn drop(&mut self) {
        let _ = self.lab("down", &[]);
    }
}

/// Moves a process of a benchmark into a cgroup of the lab, so that it ends with the lab.
pub(crate) fn adopt(child: &Child, node: &NodeState) -> Result<(), BenchError> {
    let processes = node.cgroup.join("system/cgroup.procs");
    fs::write(&processes, child.id().to_string()).map_err(file(processes))
}

/// The IPv4 address of a node.
pub(crate) fn ipv4(node: &NodeState) -> Result<IpAddr, BenchError> {
    let ip = node.ips.iter().find(|ip| ip.is_ipv4()).copied();
    ip.ok_or_else(|| BenchError::Unexpected("a node without IPv4".into()))
}

pub(crate) fn first_node(cluster: &ClusterState) -> Result<&NodeState, BenchError> {
    let missing = || BenchError::Unexpected("a cluster without nodes".into());
    cluster.nodes.first().ok_or_else(missing)
}

/// Runs a program in a node's network namespace.
pub(crate) fn in_node(node: &NodeState, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &node.netns, program]);
    command
}
