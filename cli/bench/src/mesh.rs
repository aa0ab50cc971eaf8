//! A lab that goes with the measurement.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mesh_dump::Dump;
use mesh_lab::{ClusterState, LabState, NodeState};
use serde::Deserialize;

use crate::{
    error::{BenchError, io},
    sandbox::run,
};

/// Clusters that are connected.
pub(crate) struct Mesh {
    own: PathBuf,
    pub(crate) state: LabState,
}

/// What `lab status` says, as far as it matters here.
#[derive(Deserialize)]
struct Told {
    lab: LabState,
}

/// The lab's name.
pub(crate) const LAB: &str = "bench";
/// Keys that are written in one transaction; an etcd takes 128.
const BATCH: usize = 100;

impl Mesh {
    /// So many clusters of so many nodes, each of which follows the first.
    pub(crate) fn up(clusters: usize, nodes: usize) -> Result<Self, BenchError> {
        Self::replicated(clusters, nodes, 1)
    }

    /// The same, with so many replicas of each control plane.
    pub(crate) fn replicated(
        clusters: usize,
        nodes: usize,
        replicas: usize,
    ) -> Result<Self, BenchError> {
        let own = std::env::current_exe().map_err(io("the own executable"))?;
        let mut mesh = Self { own, state: LabState::default() };
        mesh.lab("down", &[])?;
        let [clusters, nodes, replicas] = [clusters, nodes, replicas].map(|n| n.to_string());
        let size = ["--clusters", &clusters, "--nodes", &nodes, "--replicas", &replicas];
        mesh.lab("up", &size)?;
        mesh.look()?;
        for index in 1..mesh.state.clusters.len() {
            let other = &mesh.cluster(index)?.name;
            mesh.clustermesh(&["connect", "--context", "a", "--destination-context", other])?;
        }
        mesh.wait_ready("b")?;
        Ok(mesh)
    }

    /// Looks again: processes were started or stopped.
    pub(crate) fn look(&mut self) -> Result<(), BenchError> {
        let told = self.lab("status", &["--output", "json"])?;
        let told: Told = serde_json::from_slice(&told)
            .map_err(|error| BenchError::Unexpected(format!("`lab status`: {error}")))?;
        self.state = told.lab;
        Ok(())
    }

    pub(crate) fn lab(&self, command: &str, more: &[&str]) -> Result<Vec<u8>, BenchError> {
        run(Command::new(&self.own).args(["lab", command, "--lab", LAB]).args(more))
    }

    pub(crate) fn clustermesh(&self, args: &[&str]) -> Result<Vec<u8>, BenchError> {
        let contexts = Path::new("/run/clustermesh-lab").join(LAB).join("contexts.yaml");
        run(Command::new(&self.own).args(args).env("CLUSTERMESH_CONTEXTS", contexts))
    }

    /// Waits until a cluster's agents follow whom they should.
    pub(crate) fn wait_ready(&self, cluster: &str) -> Result<(), BenchError> {
        self.clustermesh(&["status", "--wait", "--context", cluster]).map(drop)
    }

    pub(crate) fn cluster(&self, index: usize) -> Result<&ClusterState, BenchError> {
        let missing = || BenchError::Unexpected("the lab has fewer clusters than asked for".into());
        self.state.clusters.get(index).ok_or_else(missing)
    }

    /// The tables of a cluster's first node.
    pub(crate) fn dump(&self, cluster: &ClusterState) -> Result<Dump, BenchError> {
        self.dump_of(cluster, "n1")
    }

    /// The tables of a cluster's node.
    pub(crate) fn dump_of(&self, cluster: &ClusterState, node: &str) -> Result<Dump, BenchError> {
        let pins = Path::new("/sys/fs/bpf/clustermesh-lab").join(LAB).join(&cluster.name);
        Ok(Dump::open(&pins.join(node))?)
    }

    /// The process of a name, as `lab status` tells it.
    pub(crate) fn pid(&self, name: &str) -> Result<i32, BenchError> {
        let found = self.state.processes.iter().find(|process| process.name == name);
        let missing = || BenchError::Unexpected(format!("{name} does not run"));
        found.map(|process| process.pid).filter(|pid| *pid > 0).ok_or_else(missing)
    }

    /// `etcdctl` on a cluster's first node, as its administrator.
    pub(crate) fn etcdctl(&self, cluster: &ClusterState) -> Result<Command, BenchError> {
        let pki = cluster.directory.join("pki");
        let mut command = in_node(first_node(cluster)?, "etcdctl");
        command.arg("--endpoints=https://127.0.0.1:2379").env("ETCDCTL_API", "3");
        command.arg("--cacert").arg(pki.join("ca.crt"));
        command.arg("--cert").arg(pki.join("admin.crt")).arg("--key").arg(pki.join("admin.key"));
        Ok(command)
    }

    /// `etcdctl` on a node of another cluster, as that one's agents.
    pub(crate) fn etcdctl_as_peer(
        &self,
        source: &ClusterState,
        (reader, node): (&ClusterState, &NodeState),
    ) -> Result<Command, BenchError> {
        let ip = first_node(source)?.ips.iter().find(|ip| ip.is_ipv4());
        let ip = ip.ok_or_else(|| BenchError::Unexpected("a node without IPv4".into()))?;
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

    /// Writes keys into a cluster's etcd, a hundred in a transaction.
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
            let puts = chunk
                .iter()
                .map(|(key, value)| format!("put {} {}\n", quoted(key.as_bytes()), quoted(value)));
            // No comparisons, what to do, and what to do otherwise.
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

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.lab("down", &[]);
    }
}

pub(crate) fn first_node(cluster: &ClusterState) -> Result<&NodeState, BenchError> {
    let missing = || BenchError::Unexpected("a cluster without nodes".into());
    cluster.nodes.first().ok_or_else(missing)
}

/// A program in a node's network namespace.
pub(crate) fn in_node(node: &NodeState, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &node.netns, program]);
    command
}

/// Bytes as Go reads them between double quotes.
fn quoted(bytes: &[u8]) -> String {
    let byte = |byte: &u8| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(*byte)),
        b' '..=b'~' => char::from(*byte).into(),
        other => format!("\\x{other:02x}"),
    };
    format!("\"{}\"", bytes.iter().map(byte).collect::<String>())
}
