//! A real Kubernetes API server on an etcd of its own, for tests. There are no nodes: what a kubelet would report, a manifest
//! has in its `status`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mesh_lab::{KubeApiServer, KubeApiServerOptions};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Etcd, EtcdVersion, etcd::free_ports, mesh::within};

/// A kube-apiserver, with kube-controller-manager's controllers of endpoints if wanted. All are killed on drop.
#[derive(Debug)]
pub struct Kubernetes {
    etcd: Etcd,
    folder: TempDir,
    server: KubeApiServer,
    port: u16,
    apiserver: Option<Child>,
    controllers: Option<Child>,
}

/// An API server is ready after three seconds; several may start side by side.
const STARTING: Duration = Duration::from_secs(60);

impl Kubernetes {
    /// Starts an API server, and waits until it is ready.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same where pods must conform to the pod security level `restricted`, unless their namespace says otherwise.
    pub fn restricted() -> Self {
        let level = json!({ "enforce": "restricted", "enforce-version": "latest" });
        let pods = json!({
            "apiVersion": "pod-security.admission.config.k8s.io/v1",
            "kind": "PodSecurityConfiguration",
            "defaults": level,
        });
        let admission = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AdmissionConfiguration",
            "plugins": [{ "name": "PodSecurity", "configuration": pods }],
        });
        Self::start_with(&[("admission-control-config-file", admission)])
    }

    /// Starts an API server with further flags, each with the content of its file.
    fn start_with(files: &[(&str, Value)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let flag = |(flag, content): &(&str, Value)| {
            let file = folder.path().join(flag);
            fs::write(&file, content.to_string()).expect("a file");
            format!("--{flag}={}", file.display())
        };
        // As every installation has it: which pods may be privileged is admission's to say.
        let privileged = "--allow-privileged=true".to_owned();
        let flags = files.iter().map(flag).chain([privileged]).collect();
        let etcd = Etcd::running(&EtcdVersion::V3_6.program(), &[]);
        let [port, _] = free_ports();
        let server = KubeApiServer::new(KubeApiServerOptions {
            programs: Some(programs()),
            folder: folder.path().into(),
            pki: etcd.pki(),
            etcd_port: etcd.port(),
            port,
            flags,
            wrapper: Vec::new(),
        });
        let server = server.expect("files in a temporary folder");
        let mut kubernetes =
            Self { etcd, folder, server, port, apiserver: None, controllers: None };
        kubernetes.start_again();
        kubernetes
    }

    /// Starts the controllers too.
    pub fn with_controllers(mut self) -> Self {
        self.start_controllers();
        self
    }

    fn start_controllers(&mut self) {
        self.controllers = Some(self.server.start_controllers().expect("it is built"));
    }

    /// Starts the API server after it was killed, and waits until it is ready.
    pub fn start_again(&mut self) {
        self.apiserver = Some(self.server.start().expect("it is built"));
        self.wait_ready();
    }

    fn wait_ready(&self) {
        within(STARTING, "the API server is ready", || {
            self.server.is_ready().map_err(|error| format!("{error}: {}", self.server.log(30)))
        });
    }

    /// Kills the API server with SIGKILL.
    pub fn kill(&mut self) {
        end(&mut self.apiserver);
    }

    /// Sends the API server a signal: with `SIGSTOP` it hangs until `SIGCONT`.
    pub fn signal(&self, signal: Signal) {
        let pid = self.apiserver.as_ref().expect("it runs").id();
        kill(Pid::from_raw(pid.try_into().expect("a pid")), signal).expect("it runs");
    }

    /// Drops all packets to the API server until the value is dropped.
    pub fn blackhole(&self) -> Blackhole {
        let table = format!("cm_e2e_{}", self.port);
        let port = self.port;
        nft(&format!(
            "add table inet {table}; add chain inet {table} in {{ type filter hook input priority 0; }}; add rule inet {table} in tcp dport {port} drop"
        ));
        Blackhole { table }
    }

    /// Removes all former versions from its etcd: nothing before now can be watched once the API server was started again.
    pub fn compact(&self) {
        let status = self.etcd.etcdctl("admin", &["endpoint", "status", "-w", "json"]);
        let status: Value = serde_json::from_str(&status.expect("a status")).expect("JSON");
        let revision = status[0]["Status"]["header"]["revision"].to_string();
        self.etcd.etcdctl("admin", &["compact", &revision]).expect("a compaction");
    }

    /// Makes this many revisions in its etcd that change no object.
    pub fn age(&self, revisions: usize) {
        for _ in 0..revisions {
            self.etcd.etcdctl("admin", &["put", "/unused", ""]).expect("a put");
        }
    }

    /// Takes a backup of its etcd, which is away for a moment.
    pub fn back_up(&mut self) {
        self.etcd.kill();
        copy(&self.etcd.data(), &self.folder.path().join("backup"));
        self.etcd.start_again();
        self.wait_ready();
    }

    /// Restores the backup: the API server starts again with what it had then.
    pub fn restore(&mut self) {
        self.kill();
        self.etcd.kill();
        fs::remove_dir_all(self.etcd.data()).expect("a folder");
        copy(&self.folder.path().join("backup"), &self.etcd.data());
        self.etcd.start_again();
        self.start_again();
        // They do not notice a restore, and wait for later versions.
        if self.controllers.is_some() {
            end(&mut self.controllers);
            self.start_controllers();
        }
    }

    /// A kubeconfig with the contexts `admin`, the current one, and `mesh`, the mesh's apiserver.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// Runs `kubectl` as `admin`. Returns its output, or its errors.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let output = self.server.kubectl(args).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// The same for what must succeed.
    pub fn must(&self, args: &[&str]) -> String {
        self.kubectl(args).unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    /// What `kubectl get … -o json` answers.
    pub fn get(&self, args: &[&str]) -> Value {
        let words: Vec<&str> = ["get", "-o", "json"].iter().chain(args).copied().collect();
        serde_json::from_str(&self.must(&words)).expect("JSON")
    }

    /// Applies manifests, with their status. A pod with a `deletionTimestamp` is deleted with an hour of grace.
    pub fn apply(&self, manifests: &str) {
        let documents = manifests.split("\n---\n").map(Document::new).collect::<Vec<_>>();
        let all: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
        self.apply_documents(&all, &[]);
        let of_status = documents.iter().filter(|document| document.has_status);
        let of_status: Vec<&str> = of_status.map(|document| document.text.as_str()).collect();
        if !of_status.is_empty() {
            self.apply_documents(&of_status, &["--subresource=status", "--force-conflicts"]);
        }
        for document in documents.iter().filter(|document| document.is_deleted) {
            let file = self.write(&document.text);
            let file = file.to_str().expect("a path of text");
            self.must(&["delete", "--wait=false", "--grace-period=3600", "-f", file]);
        }
    }

    fn apply_documents(&self, documents: &[&str], flags: &[&str]) {
        let file = self.write(&documents.join("\n---\n"));
        let words = ["apply", "--server-side", "-f", file.to_str().expect("a path of text")];
        self.must(&words.into_iter().chain(flags.iter().copied()).collect::<Vec<_>>());
    }

    fn write(&self, text: &str) -> PathBuf {
        let file = self.folder.path().join("applied.yaml");
        fs::write(&file, text).expect("a file");
        file
    }

    /// Whether the API server would accept a new object in a namespace.
    pub fn admits(&self, namespace: &str, object: &Value) -> Result<(), String> {
        let file = self.write(&object.to_string());
        let file = file.to_str().expect("a path of text");
        self.kubectl(&["create", "--dry-run=server", "-n", namespace, "-f", file]).map(drop)
    }

    /// Replaces an object.
    pub fn replace(&self, object: &Value) {
        let file = self.write(&object.to_string());
        self.must(&["replace", "-f", file.to_str().expect("a path of text")]);
    }
}

/// A table that drops packets.
#[derive(Debug)]
pub struct Blackhole {
    table: String,
}

impl Drop for Blackhole {
    fn drop(&mut self) {
        nft(&format!("delete table inet {}", self.table));
    }
}

fn nft(words: &str) {
    let done = Command::new("nft").arg(words).status().expect("nft runs");
    assert!(done.success(), "nft {words}: {done}");
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        end(&mut self.controllers);
        end(&mut self.apiserver);
    }
}

/// A YAML document, as the API server takes it.
struct Document {
    text: String,
    has_status: bool,
    is_deleted: bool,
}

impl Document {
    fn new(text: &str) -> Self {
        const DELETED: &str = ", deletionTimestamp: '2026-01-01T00:00:00Z'";
        Self {
            has_status: text.lines().any(|line| line.starts_with("status:")),
            is_deleted: text.contains(DELETED),
            text: text.replace(DELETED, ""),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success(), "{copied}");
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The folder with Kubernetes' programs. They are built if this machine does not have them yet.
pub fn programs() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/development/kubernetes.sh");
    let mut command = Command::new(&script);
    command.stderr(Stdio::inherit());
    let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("a path").trim_end().into()
}
