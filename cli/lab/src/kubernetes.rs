//! A kube-apiserver on an etcd that is there, for benchmarks and tests. There are no nodes: what a kubelet would report, is
//! written by the program that starts it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mesh_certs::ClusterPki;
use serde_json::json;

use crate::{LabError, command::run};

/// Where a kube-apiserver runs, and with what.
#[derive(Clone, Debug)]
pub struct KubeApiServerOptions {
    /// The folder with kube-apiserver, kube-controller-manager and kubectl; `None`: they are in `$PATH`.
    pub programs: Option<PathBuf>,
    /// A folder for its files, which exists.
    pub folder: PathBuf,
    /// The folder with the etcd's CA, the certificate of an administrator, and a server's, which is the API server's too.
    pub pki: PathBuf,
    /// The port of the etcd, on loopback.
    pub etcd_port: u16,
    /// Its own port, on loopback.
    pub port: u16,
    /// Further flags of kube-apiserver.
    pub flags: Vec<String>,
    /// The command that starts programs, such as `ip netns exec NAME`; empty: none.
    pub wrapper: Vec<String>,
}

/// A kube-apiserver. It does not end with this value.
#[derive(Debug)]
pub struct KubeApiServer {
    options: KubeApiServerOptions,
}

/// The controllers that make endpoint slices, and end namespaces.
const CONTROLLERS: &str =
    "endpointslice-controller,endpointslice-mirroring-controller,namespace-controller";
/// The user of the mesh's apiserver, as a pod of its deployment has it.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:clustermesh-system:clustermesh-apiserver";
/// The namespace of that pod.
const NAMESPACE: &str = "clustermesh-system";

// === impl KubeApiServer ===

impl KubeApiServer {
    /// Writes its kubeconfig, with the contexts `admin`, which is the current one, and `mesh`, the mesh's apiserver.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn new(options: KubeApiServerOptions) -> Result<Self, LabError> {
        let server = Self { options };
        let tokens = format!(
            "admin,admin,0,\"system:masters\"\nmesh,{SERVICE_ACCOUNT},1,\"system:serviceaccounts\"\n"
        );
        server.write(&server.tokens(), &tokens)?;
        let context = |user: &str| {
            let context = json!({ "cluster": "kubernetes", "user": user, "namespace": NAMESPACE });
            json!({ "name": user, "context": context })
        };
        let user = |name: &str| json!({ "name": name, "user": { "token": name } });
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "admin",
            "clusters": [{ "name": "kubernetes", "cluster": {
                "server": format!("https://127.0.0.1:{}", server.options.port),
                "certificate-authority": server.pki().certificate("ca"),
            } }],
            "users": [user("admin"), user("mesh")],
            "contexts": [context("admin"), context("mesh")],
        });
        server.write(&server.kubeconfig(), &kubeconfig.to_string())?;
        Ok(server)
    }

    /// Starts it. It is ready after about three seconds: [`Self::is_ready`].
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(&self) -> Result<Child, LabError> {
        let pki = self.pki();
        let file = |flag: &str, path: PathBuf| format!("--{flag}={}", path.display());
        let mut command = self.command("kube-apiserver");
        command.arg(format!("--etcd-servers=https://127.0.0.1:{}", self.options.etcd_port));
        command.arg(file("etcd-cafile", pki.certificate("ca")));
        command.arg(file("etcd-certfile", pki.certificate("admin")));
        command.arg(file("etcd-keyfile", pki.key("admin")));
        command.arg(format!("--secure-port={}", self.options.port));
        command.args(["--bind-address=127.0.0.1", "--advertise-address=172.31.1.1"]);
        command.arg(file("tls-cert-file", pki.certificate("server")));
        command.arg(file("tls-private-key-file", pki.key("server")));
        command.arg("--service-account-issuer=https://kubernetes.default.svc");
        command.arg(file("service-account-key-file", pki.certificate("server")));
        command.arg(file("service-account-signing-key-file", pki.key("server")));
        command.arg(file("token-auth-file", self.tokens()));
        command.args(["--authorization-mode=RBAC", "--endpoint-reconciler-type=none"]);
        command.arg("--service-cluster-ip-range=10.101.0.0/16,fd00:101::/112");
        // No controller makes the service accounts that pods would need.
        command.arg("--disable-admission-plugins=ServiceAccount");
        command.args(&self.options.flags);
        self.spawn(command)
    }

    /// Starts the controllers of endpoints and namespaces.
    ///
    /// # Errors
    /// When they are not installed.
    pub fn start_controllers(&self) -> Result<Child, LabError> {
        let mut command = self.command("kube-controller-manager");
        for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            command.arg(format!("--{flag}={}", self.kubeconfig().display()));
        }
        command.args(["--leader-elect=false", "--secure-port=0"]);
        command.arg(format!("--controllers={CONTROLLERS}"));
        self.spawn(command)
    }

    /// Whether it is ready.
    ///
    /// # Errors
    /// Why it is not.
    pub fn is_ready(&self) -> Result<(), LabError> {
        self.kubectl(&["get", "--raw", "/readyz"]).map(drop)
    }

    /// Runs `kubectl` as `admin`. Returns its output.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<Vec<u8>, LabError> {
        let mut command = self.command("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        // Its cache of what the API server has must not outlive the API server.
        command.arg("--cache-dir").arg(self.options.folder.join("cache"));
        run(command, "")
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.options.folder.join("kubeconfig")
    }

    /// The last lines that it and its controllers logged.
    pub fn log(&self, lines: usize) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    fn spawn(&self, mut command: Command) -> Result<Child, LabError> {
        let path = self.log_file();
        let io = |source| LabError::Io { path: path.clone(), source };
        let log = File::options().create(true).append(true).open(&path).map_err(io)?;
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(io)?).stderr(log);
        command
            .spawn()
            .map_err(|_| LabError::Missing(command.get_program().to_string_lossy().into_owned()))
    }

    fn command(&self, program: &str) -> Command {
        let program = match &self.options.programs {
            Some(folder) => folder.join(program),
            None => PathBuf::from(program),
        };
        let mut command = match self.options.wrapper.as_slice() {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.current_dir(&self.options.folder);
        command
    }

    fn pki(&self) -> ClusterPki {
        ClusterPki::new(&self.options.pki)
    }

    fn tokens(&self) -> PathBuf {
        self.options.folder.join("tokens.csv")
    }

    fn log_file(&self) -> PathBuf {
        self.options.folder.join("log")
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), LabError> {
        fs::write(path, text).map_err(|source| LabError::Io { path: path.into(), source })
    }
}
