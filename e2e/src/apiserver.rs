//! An apiserver with an etcd on loopback, for tests that need no mesh.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mesh_lab::contexts::{Context, Contexts};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    etcd::{Etcd, free_ports},
    json,
    mesh::within,
    netns::binary,
};

/// An apiserver of cluster `a`. Its cluster directory is the folder of its etcd. It is killed on drop.
#[derive(Debug)]
pub struct Apiserver {
    folder: PathBuf,
    endpoint: String,
    port: u16,
    /// The command that starts it.
    wrapper: Vec<String>,
    child: Child,
}

/// Longer than the longest pause between two attempts to connect.
const PATIENCE: Duration = Duration::from_secs(60);

impl Apiserver {
    /// Starts an apiserver with one node in its manifests.
    pub fn start(etcd: &Etcd) -> Self {
        Self::at(etcd, etcd.port())
    }

    /// The same, but it reaches its etcd at another port.
    pub fn at(etcd: &Etcd, etcd_port: u16) -> Self {
        Self::wrapped(etcd, etcd_port, &[])
    }

    /// The same, started by a wrapper such as `env NAME=VALUE`.
    pub fn wrapped(etcd: &Etcd, etcd_port: u16, wrapper: &[&str]) -> Self {
        let folder = etcd.folder().to_owned();
        fs::create_dir_all(folder.join("manifests")).expect("a folder");
        let endpoint = format!("https://127.0.0.1:{etcd_port}");
        let [port, _] = free_ports();
        let wrapper: Vec<String> = wrapper.iter().map(|&word| word.to_owned()).collect();
        let child = spawn(&wrapper, &folder, &endpoint, port);
        let apiserver = Self { folder, endpoint, port, wrapper, child };
        apiserver.apply("node", &node("n1"));
        let contexts = Contexts {
            contexts: vec![Context {
                name: "a".into(),
                directory: apiserver.folder.clone(),
                apiserver: apiserver.folder.join("apiserver.sock"),
                replicas: Vec::new(),
                agents: Vec::new(),
                netns: None,
            }],
        };
        contexts.write(&apiserver.folder.join("contexts.yaml")).expect("a file");
        apiserver
    }

    /// Starts it after it ended.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.wrapper, &self.folder, &self.endpoint, self.port);
    }

    /// Its cluster directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where it reaches its etcd.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The file with its context, which is named `a`.
    pub fn contexts(&self) -> PathBuf {
        self.folder.join("contexts.yaml")
    }

    /// The path of a manifest.
    pub fn manifest(&self, name: &str) -> PathBuf {
        self.folder.join("manifests").join(format!("{name}.yaml"))
    }

    /// Writes a manifest.
    pub fn apply(&self, name: &str, manifest: &str) {
        let folder = self.folder.join("manifests");
        let hidden = folder.join(format!(".{name}"));
        fs::write(&hidden, manifest).expect("a file");
        fs::rename(&hidden, self.manifest(name)).expect("a file");
    }

    /// The process ID.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it runs");
    }

    /// Waits until it has ended. Returns its exit code.
    pub fn ended(&mut self) -> i32 {
        within(PATIENCE, "the apiserver ends", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
            other => Err(format!("{other:?}: {}", self.log_text())),
        })
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("it ends");
    }

    /// The answer of `/readyz`; empty if it is ready.
    pub fn unready(&self) -> String {
        match self.get("/readyz") {
            Some((200, _)) => String::new(),
            Some((_, reasons)) => reasons,
            None => "it does not answer".into(),
        }
    }

    /// Waits until it is ready.
    pub fn wait_ready(&self) {
        within(PATIENCE, "the apiserver is ready", || match self.unready() {
            reasons if reasons.is_empty() => Ok(()),
            reasons => Err(format!("{reasons}{}", self.log_text())),
        });
    }

    /// Waits until `/readyz` has this reason.
    pub fn wait_unready(&self, reason: &str) {
        within(PATIENCE, &format!("the apiserver reports {reason:?}"), || match self.unready() {
            reasons if reasons.contains(reason) => Ok(()),
            reasons => Err(format!("{reasons}{}", self.log_text())),
        });
    }

    /// All its metrics.
    pub fn metrics(&self) -> String {
        self.get("/metrics").expect("an answer").1
    }

    /// The value of a metric by its full name with labels: `clustermesh_apiserver_etcd_trouble{reason="away"}`.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }

    /// Whether the metric shows a trouble now, and how often it occurred.
    pub fn trouble(&self, reason: &str) -> (bool, u64) {
        let is = format!("clustermesh_apiserver_etcd_trouble{{reason=\"{reason}\"}}");
        let was = format!("clustermesh_apiserver_etcd_troubles_total{{reason=\"{reason}\"}}");
        (self.metric(&is) > 0, self.metric(&was))
    }

    /// The apiserver in `clustermesh status --output json`.
    pub fn status(&self) -> Value {
        let mut status = Command::new(binary());
        status.arg("status").env("CLUSTERMESH_CONTEXTS", self.contexts());
        json::run(status).1["clusters"][0]["apiserver"].clone()
    }

    /// Waits until its status has a problem that contains these words.
    pub fn wait_problem(&self, words: &str) {
        within(PATIENCE, &format!("the status reports {words:?}"), || {
            let problems = self.status()["problems"].to_string();
            if problems.contains(words) { Ok(()) } else { Err(problems) }
        });
    }

    /// Its log so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(log(&self.folder)).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    }
}

impl Drop for Apiserver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node's manifest.
pub fn node(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: [{{type: InternalIP, address: 172.31.1.1}}]}}\n"
    )
}

/// The manifest of a global service. `length` is the total length of its labels' values.
pub fn service(name: &str, ip: &str, length: usize) -> String {
    const LONGEST: usize = 63;
    let lengths = (0..length).step_by(LONGEST).map(|begin| LONGEST.min(length - begin));
    let label = |(n, length): (usize, usize)| format!("l{n}: {:?}", "x".repeat(length));
    let labels = lengths.enumerate().map(label).collect::<Vec<_>>().join(", ");
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: shop\n  labels: {{{labels}}}\n  annotations: {{service.cilium.io/global: 'true'}}\nspec:\n  clusterIP: {ip}\n  ports: [{{name: http, port: 80}}]\n"
    )
}

fn spawn(wrapper: &[String], folder: &Path, endpoint: &str, port: u16) -> Child {
    let log = File::options().create(true).append(true).open(log(folder)).expect("a log");
    let program = binary().with_file_name("clustermesh-apiserver");
    let mut command = match wrapper {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.arg("--config-dir").arg(folder).args(["--etcd-endpoint", endpoint]);
    command.arg("--admin-socket").arg(folder.join("apiserver.sock"));
    command.args(["--metrics-address", &format!("127.0.0.1:{port}"), "--log-format", "text"]);
    // Most tests are not about what the etcd's version lets a peer do.
    command.env("CLUSTERMESH_TRUSTED_PEERS", "true");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    command.spawn().expect("the apiserver is built: run `make build` first")
}

fn log(folder: &Path) -> PathBuf {
    folder.join("apiserver.log")
}
