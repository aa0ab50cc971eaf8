//! The lab of a chaos run, driven by the commands that operators use.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use mesh_lab::{LabState, workload::load::Report};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{error::ChaosError, faults::Etcd};

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

/// The service that receives the traffic, and the pod that sends it.
const ECHO: &str = include_str!("../../../deploy/examples/echo.yaml");
const CLIENT: &str = include_str!("../../../deploy/examples/client.yaml");
/// Seconds that a pod keeps running after it was removed: as long as its clients may need to receive the change.
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
        for (file, text) in [("echo.yaml", ECHO), ("client.yaml", CLIENT)] {
            fs::write(manifests.path().join(file), text).map_err(io)?;
        }
        let state = LabState::default();
        let targets = Vec::new();
        let mut mesh =
            Self { name: name.into(), binary: binary.into(), keep, manifests, state, targets };
        mesh.lab("up", &["--replicas", &replicas.to_string()])?;
        mesh.look()?;
        for cluster in mesh.clusters() {
            mesh.apply(&cluster, "echo.yaml", &[])?;
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

    /// Waits until every daemon is ready, and every kernel holds what the manifests specify.
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
        let status: LabStatus = serde_json::from_slice(&status)
            .map_err(|error| ChaosError::Unexpected(format!("`lab status`: {error}")))?;
        self.state = status.lab;
        Ok(())
    }

    /// Reads the service's addresses in the first cluster, as flags of a load.
    fn find_targets(&mut self) -> Result<(), ChaosError> {
        let shown = self.clustermesh(&["service", "show", "default/echo", "--output", "json"])?;
        let shown: Shown = serde_json::from_slice(&shown)
            .map_err(|error| ChaosError::Unexpected(format!("`service show`: {error}")))?;
        let first = self.clusters().into_iter().next().unwrap_or_default();
        let services = shown.services.into_iter().filter(|service| service.cluster == first);
        let mut args = Vec::new();
        for Frontend { address, port, protocol } in services.flat_map(|service| service.frontends) {
            let flag = if protocol == "TCP" { "--tcp" } else { "--udp" };
            args.extend([flag.to_owned(), SocketAddr::new(address, port).to_string()]);
        }
        if args.is_empty() {
            return Err(ChaosError::Unexpected("the service has no address".into()));
        }
        self.targets = args;
        Ok(())
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
        serde_json::from_slice(&output.stdout).map_err(|error| unexpected(&error.to_string()))
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
