//! The lab of a chaos run, driven by the commands that operators use.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use mesh_files::{Access, write_atomic};
use mesh_lab::{LabState, printed_json, workload::load::Report};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{error::ChaosError, faults::Etcd, located};

/// A lab that is removed at the end of the run, unless `keep` is set.
#[derive(Debug)]
pub(crate) struct Mesh {
    name: String,
    binary: PathBuf,
    keep: bool,
    /// The folder with the manifests that it applies.
    manifests: tempfile::TempDir,
    pub(crate) state: LabState,
    /// The targets of the load, as flags of `lab-pod load`.
    targets: Vec<String>,
}

/// A load that runs in a pod until it is stopped.
#[derive(Debug)]
pub(crate) struct Load {
    child: Option<Child>,
}

/// The part of the output of `lab status` that is used here.
#[derive(Deserialize)]
struct LabStatus {
    lab: LabState,
}

/// The part of the output of `service show` that is used here.
#[derive(Deserialize)]
struct Shown {
    services: Vec<ShownService>,
}

#[derive(Deserialize)]
struct ShownService {
    #[serde(rename = "in")]
    cluster: String,
    frontends: Vec<Frontend>,
}

#[derive(Deserialize)]
struct Frontend {
    address: IpAddr,
    port: u16,
    protocol: String,
}

/// The first service that has traffic, and the pod that it comes from.
const ECHO: &str = include_str!("../../../deploy/examples/echo.yaml");
const CLIENT: &str = include_str!("../../../deploy/examples/client.yaml");
/// Those that have traffic: what clients may use depends on their node, but they always have a backend.
const WITH_TRAFFIC: [&str; 3] = ["echo", "echo-zone", "echo-node"];
/// Seconds that a pod goes on after it was withdrawn: as long as its clients may need to get the change.
const GRACE: &str = "2";
/// Time for the load to start before a fault begins.
const UNDER_WAY: Duration = Duration::from_millis(300);

impl Mesh {
    /// Starts two clusters of two nodes, connects them, and applies the service to both and the client to the first.
    pub(crate) fn up(
        name: &str,
        binary: &Path,
        replicas: u8,
        keep: bool,
    ) -> Result<Self, ChaosError> {
        let io = |source| ChaosError::Io { what: "the manifests", source };
        let manifests = tempfile::tempdir().map_err(io)?;
        for (file, text) in
            [("echo.yaml", ECHO), ("client.yaml", CLIENT), ("near.yaml", located::NEAR)]
        {
            fs::write(manifests.path().join(file), text).map_err(io)?;
        }
        let state = LabState::default();
        let targets = Vec::new();
        let mut mesh =
            Self { name: name.into(), binary: binary.into(), keep, manifests, state, targets };
        mesh.lab("up", &["--replicas", &replicas.to_string()])?;
        mesh.look()?;
        for (number, cluster) in mesh.state.clusters.iter().enumerate() {
            for (node, zone) in cluster.nodes.iter().zip(["east", "west"].into_iter().cycle()) {
                mesh.set_zone(&cluster.name, &node.name, Some(zone))?;
            }
            let slices = located::with_slices(cluster, number == 0);
            fs::write(mesh.manifests.path().join("slices.yaml"), slices).map_err(io)?;
            for file in ["echo.yaml", "near.yaml", "slices.yaml"] {
                mesh.apply(&cluster.name, file, &[])?;
            }
        }
        if let [first, others @ ..] = mesh.clusters().as_slice() {
            mesh.apply(first, "client.yaml", &[])?;
            others.iter().try_for_each(|other| mesh.connect(first, other))?;
        }
        mesh.settle()?;
        mesh.find_targets()?;
        Ok(mesh)
    }

    pub(crate) fn clusters(&self) -> Vec<String> {
        self.state.clusters.iter().map(|cluster| cluster.name.clone()).collect()
    }

    /// Runs `clustermesh lab COMMAND --lab NAME ARG...`, and fails if it fails.
    pub(crate) fn lab(&self, command: &str, args: &[&str]) -> Result<Vec<u8>, ChaosError> {
        self.clustermesh(&[&["lab", command, "--lab", &self.name], args].concat())
    }

    pub(crate) fn connect(&self, one: &str, other: &str) -> Result<(), ChaosError> {
        self.clustermesh(&["connect", "--context", one, "--destination-context", other]).map(drop)
    }

    /// Rotates certificates of any age: a run is shorter than the default minimum age.
    pub(crate) fn rotate(&self, cluster: &str, which: &str) -> Result<(), ChaosError> {
        let flag = format!("--{which}");
        self.clustermesh(&["certs", "rotate", "--context", cluster, &flag, "--min-age", "0"])
            .map(drop)
    }

    pub(crate) fn scale(&self, cluster: &str, replicas: u32) -> Result<(), ChaosError> {
        self.apply(cluster, "echo.yaml", &["--replicas", &replicas.to_string()])
    }

    /// Puts a node into a zone, or takes it out of its zone, in the manifest of its cluster's nodes.
    pub(crate) fn set_zone(
        &self,
        cluster: &str,
        node: &str,
        zone: Option<&str>,
    ) -> Result<(), ChaosError> {
        let found = self.state.cluster(cluster);
        let found = found.map_err(|error| ChaosError::Unexpected(error.to_string()))?;
        let path = found.directory.join("manifests/nodes.json");
        let io = |source| ChaosError::Io { what: "the nodes' manifest", source };
        let nodes = fs::read(&path).map_err(io)?;
        let nodes = serde_json::from_slice(&nodes).map_err(|error| io(error.into()))?;
        let nodes = located::with_zone(nodes, node, zone).to_string();
        write_atomic(&path, nodes.as_bytes(), Access::All).map_err(io)
    }

    /// Waits until every daemon is ready, and every kernel what the manifests say.
    pub(crate) fn settle(&self) -> Result<(), ChaosError> {
        self.clustermesh(&["status", "--wait", "--allow-degraded"])?;
        self.lab("check-history", &["--wait"]).map(drop)
    }

    /// Runs `etcdctl` as the cluster's administrator, on the node of the etcd.
    pub(crate) fn etcdctl(&self, etcd: &Etcd, args: &[&str]) -> Result<Value, ChaosError> {
        let Etcd { cluster, replica } = etcd;
        let unexpected = |what: &str| ChaosError::Unexpected(format!("{cluster}: {what}"));
        let found = self.state.cluster(cluster).map_err(|e| unexpected(&e.to_string()))?;
        let node = found
            .nodes
            .get(usize::from(*replica).saturating_sub(1))
            .ok_or_else(|| unexpected("it has no such replica"))?;
        let place = format!("{cluster}/node/{}", node.name);
        let pki = found.directory.join("pki");
        let file = |flag: &str, name: &str| format!("{flag}={}", pki.join(name).display());
        let files =
            [file("--cacert", "ca.crt"), file("--cert", "admin.crt"), file("--key", "admin.key")];
        let mut words = vec![place.as_str(), "--", "etcdctl", "--endpoints=https://127.0.0.1:2379"];
        words.extend(["--write-out=json"]);
        words.extend(files.iter().map(String::as_str));
        words.extend(args);
        let printed = self.lab("exec", &words)?;
        match printed.as_slice() {
            [] => Ok(Value::Null),
            // Some commands do not answer in JSON, whatever output is requested.
            text => Ok(serde_json::from_slice(text).unwrap_or_default()),
        }
    }

    /// An etcd's data folder, from its command line in `lab status`.
    pub(crate) fn data_folder(&self, etcd: &str) -> Result<PathBuf, ChaosError> {
        let process = self.state.processes.iter().find(|process| process.name == etcd);
        let mut words = process.into_iter().flat_map(|process| &process.command);
        let folder = words.find_map(|word| word.strip_prefix("--data-dir="));
        folder
            .map(PathBuf::from)
            .ok_or_else(|| ChaosError::Unexpected(format!("{etcd} has no --data-dir")))
    }

    /// Starts a load on all addresses of the service: `rate` new connections a second in turn, and `flows` long connections.
    pub(crate) fn load(&self, rate: u32, flows: u32) -> Result<Load, ChaosError> {
        let first = self.clusters().into_iter().next().unwrap_or_default();
        let mut command = self.command();
        command.args(["lab", "exec", "--lab", &self.name, &format!("{first}/client"), "--"]);
        command.args(["clustermesh", "lab-pod", "load", "--output", "json"]).args(&self.targets);
        command.args(["--rate", &rate.to_string(), "--flows", &flows.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn();
        let child = child.map_err(|source| ChaosError::Io { what: "the load", source })?;
        thread::sleep(UNDER_WAY);
        Ok(Load { child: Some(child) })
    }

    fn apply(&self, cluster: &str, file: &str, more: &[&str]) -> Result<(), ChaosError> {
        let file = self.manifests.path().join(file).display().to_string();
        let args = ["--cluster", cluster, "--file", &file, "--grace", GRACE];
        self.lab("apply", &[&args[..], more].concat()).map(drop)
    }

    fn look(&mut self) -> Result<(), ChaosError> {
        let status = self.lab("status", &["--output", "json"])?;
        let status: LabStatus =
            printed_json("lab status", &status).map_err(ChaosError::Unexpected)?;
        self.state = status.lab;
        Ok(())
    }

    /// Reads the service's addresses in the first cluster, as flags of a load.
    fn find_targets(&mut self) -> Result<(), ChaosError> {
        let first = self.clusters().into_iter().next().unwrap_or_default();
        let mut args = Vec::new();
        for name in WITH_TRAFFIC {
            let found = self.frontends(name, &first)?;
            if found.is_empty() {
                let none = format!("cluster {first} has no address for the service default/{name}");
                return Err(ChaosError::Unexpected(none));
            }
            for Frontend { address, port, protocol } in found {
                let flag = if protocol == "TCP" { "--tcp" } else { "--udp" };
                args.extend([flag.to_owned(), SocketAddr::new(address, port).to_string()]);
            }
        }
        self.targets = args;
        Ok(())
    }

    fn frontends(&self, service: &str, cluster: &str) -> Result<Vec<Frontend>, ChaosError> {
        let name = format!("default/{service}");
        let shown = self.clustermesh(&["service", "show", &name, "--output", "json"])?;
        let shown: Shown = printed_json("service show", &shown).map_err(ChaosError::Unexpected)?;
        let services = shown.services.into_iter().filter(|service| service.cluster == cluster);
        Ok(services.flat_map(|service| service.frontends).collect())
    }

    fn clustermesh(&self, args: &[&str]) -> Result<Vec<u8>, ChaosError> {
        let mut command = self.command();
        command.args(args).stdin(Stdio::null());
        let output = command.output();
        let output = output.map_err(|source| ChaosError::Io { what: "clustermesh", source })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let printed = [output.stderr, output.stdout].concat();
        Err(ChaosError::Command {
            command: format!("clustermesh {}", args.join(" ")),
            printed: String::from_utf8_lossy(&printed).trim().to_owned(),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        let contexts = Path::new("/run/clustermesh-lab").join(&self.name).join("contexts.yaml");
        command.env("CLUSTERMESH_CONTEXTS", contexts);
        command
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.lab("down", &[]);
        }
    }
}

impl Load {
    /// Stops the load, and returns its report.
    pub(crate) fn stop(mut self) -> Result<Report, ChaosError> {
        let io = |source| ChaosError::Io { what: "the load", source };
        let unexpected = |what: &str| ChaosError::Unexpected(format!("the load: {what}"));
        let child = self.child.take().ok_or_else(|| unexpected("it does not run"))?;
        let pid = i32::try_from(child.id()).map_err(|_| unexpected("it has no process ID"))?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|error| io(error.into()))?;
        let output = child.wait_with_output().map_err(io)?;
        printed_json("lab-pod load", &output.stdout).map_err(ChaosError::Unexpected)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
