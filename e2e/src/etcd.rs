//! An etcd on loopback that trusts one cluster's CA, for tests that need no mesh.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use mesh_certs::{Ca, Clock, ClusterPki, CredentialFiles, Profile, Receiver, Store};
use mesh_etcd::{Connection, LastAddresses, Target};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{mesh::eventually, netns::binary};

/// An etcd with its CA, in a temporary folder. It is killed on drop.
#[derive(Debug)]
pub struct Etcd {
    folder: TempDir,
    port: u16,
    /// The port for other members. There are none.
    peer_port: u16,
    child: Option<Child>,
    /// The program: a path, or a name in `PATH`.
    program: PathBuf,
    flags: Vec<String>,
    /// Whether `clustermesh-apiserver etcd-init` starts it.
    protected: bool,
}

/// The environment variable with the default etcd of tests and labs; Debian's if it is not set.
const PROGRAM: &str = "CLUSTERMESH_LAB_ETCD";
/// How long an etcd may take to answer after its start.
const STARTING: Duration = Duration::from_secs(10);

impl Etcd {
    /// Starts an etcd of cluster `a`: empty, and without authentication.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same for another cluster.
    pub fn of(cluster: &str) -> Self {
        let mut etcd = Self::make(cluster, &[]);
        etcd.start_again();
        etcd
    }

    /// The same with this program, and more flags.
    pub fn running(program: &Path, flags: &[&str]) -> Self {
        let mut etcd = Self::make("a", flags);
        etcd.program = program.into();
        etcd.start_again();
        etcd
    }

    /// The same with more flags.
    pub fn with(flags: &[&str]) -> Self {
        let mut etcd = Self::make("a", flags);
        etcd.start_again();
        etcd
    }

    /// An etcd that `etcd-init` sets up at each start, before other clients can reach it.
    pub fn protected(flags: &[&str]) -> Self {
        let mut etcd = Self::make("a", flags);
        etcd.protected = true;
        etcd.start_again();
        etcd
    }

    /// An etcd that is not started yet.
    pub fn new(flags: &[&str]) -> Self {
        Self::make("a", flags)
    }

    fn make(cluster: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        ClusterPki::new(&folder.path().join("pki"))
            .create(cluster, "clustermesh", &[], Ca::ISSUED_LIFETIME)
            .expect("certificates");
        let [port, peer_port] = free_ports();
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let program = env::var_os(PROGRAM).map_or_else(|| "etcd".into(), PathBuf::from);
        let settings = "name: a\nid: 1\npodCIDRs: [10.1.0.0/16]\nnodeCIDRs: [172.31.1.0/24]\n";
        fs::write(folder.path().join("cluster.yaml"), settings).expect("a file");
        Self { folder, port, peer_port, child: None, program, flags, protected: false }
    }

    /// Starts it again after [`Etcd::kill`], with its data.
    pub fn start_again(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut command = match self.protected {
            true => self.etcd_init(&["--exec"]),
            false => Command::new(&self.program),
        };
        command.args(self.words());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.child = Some(command.spawn().expect("etcd is installed: run `make setup` once"));
        let address = (Ipv4Addr::LOCALHOST, self.port);
        eventually("the etcd listens", || {
            TcpStream::connect(address).map(drop).map_err(|e| format!("{e}: {}", self.log_text()))
        });
    }

    /// `clustermesh-apiserver etcd-init` with these flags. The caller appends the etcd's flags ([`Etcd::words`]).
    pub fn etcd_init(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(binary().with_file_name("clustermesh-apiserver"));
        command.arg("etcd-init").arg("--config-dir").arg(self.folder()).args(flags);
        command.args(["--log-format", "text", "--"]).arg(&self.program);
        command
    }

    /// The etcd's flags.
    pub fn words(&self) -> Vec<String> {
        let url = format!("https://127.0.0.1:{}", self.port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let pki = ClusterPki::new(&self.pki());
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let file = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        let words = vec![
            file("data-dir", self.data()),
            flag("listen-client-urls", &url),
            flag("advertise-client-urls", &url),
            flag("listen-peer-urls", &peer),
            flag("initial-advertise-peer-urls", &peer),
            flag("initial-cluster", &format!("default={peer}")),
            flag("client-cert-auth", "true"),
            flag("logger", "zap"),
            flag("heartbeat-interval", "20"),
            flag("election-timeout", "200"),
            file("trusted-ca-file", pki.certificate("ca")),
            file("cert-file", pki.certificate("server")),
            file("key-file", pki.key("server")),
        ];
        words.into_iter().chain(self.flags.iter().cloned()).collect()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it ends");
        }
    }

    /// Sends it a signal: with `SIGSTOP` it hangs until `SIGCONT`.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().expect("it runs").id();
        kill(Pid::from_raw(pid.try_into().expect("a pid")), signal).expect("it runs");
    }

    /// Its data folder. It must not run when that is changed.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its temporary folder, which is also the cluster directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The port for clients, on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its log so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The folder with its CA, and with the certificates `admin` and `local`.
    pub fn pki(&self) -> PathBuf {
        self.folder.path().join("pki")
    }

    /// Issues a certificate for `user` by `ca`, and writes it to [`Etcd::pki`] under `name`, which is returned.
    pub fn certificate(&self, ca: &Ca, user: &str, name: &str) -> String {
        let profile = Profile::Client { user: user.into() };
        let issued = ca.issue(&profile, SystemTime::now(), Ca::ISSUED_LIFETIME);
        ClusterPki::new(&self.pki()).write(name, &issued.expect("a certificate")).expect("a file");
        name.into()
    }

    /// Its CA.
    pub fn ca(&self) -> Ca {
        ClusterPki::new(&self.pki()).ca(SystemTime::now()).expect("a CA")
    }

    /// A target for connections with the certificate `name` in [`Etcd::pki`].
    pub fn target(&self, name: &str) -> Target {
        let ca = ClusterPki::new(&self.pki()).certificate("ca");
        Target {
            endpoints: vec![format!("https://127.0.0.1:{}", self.port)],
            host_aliases: Vec::new(),
            credentials: self.credentials(name, &ca),
            clock: Clock::system(),
            last_addresses: LastAddresses::default(),
        }
    }

    /// The credentials `name` in [`Etcd::pki`], with the CA that must have issued the server's certificate.
    pub fn credentials(&self, name: &str, ca: &Path) -> Receiver {
        mesh_certs::install_crypto();
        let pki = ClusterPki::new(&self.pki());
        let (certificate, key) = (pki.certificate(name), pki.key(name));
        let files = CredentialFiles { ca: ca.into(), certificate, key };
        Store::open(files, SystemTime::now()).expect("sound credentials").1
    }

    /// Connects with the certificate `name` in [`Etcd::pki`]. Retries: an etcd that has just started may reset a
    /// connection.
    pub async fn connect(&self, name: &str) -> Connection {
        let began = Instant::now();
        loop {
            match mesh_etcd::connect(&self.target(name), 0).await {
                Ok(connection) => return connection,
                Err(failure) => assert!(began.elapsed() < STARTING, "{failure:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs `etcdctl` with the certificate `name`. Returns its output, or its errors.
    pub fn etcdctl(&self, name: &str, args: &[&str]) -> Result<String, String> {
        self.etcdctl_fed(name, args, "")
    }

    /// The same, with an input.
    pub fn etcdctl_fed(&self, name: &str, args: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.etcdctl_command(name, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("etcdctl is installed: run `make setup` once");
        // If it ends early, its output has the reason.
        let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Starts a watch of a prefix by `etcdctl`, from the first revision on.
    pub fn watch(&self, name: &str, prefix: &str) -> Watch {
        let mut command =
            self.etcdctl_command(name, &["watch", "--prefix", "--rev=1", "-w=json", prefix]);
        let output = self.folder.path().join(format!("watch-{}", prefix.replace('/', "-")));
        command.stdin(Stdio::null()).stdout(File::create(&output).expect("a file"));
        Watch { child: command.spawn().expect("etcdctl is installed"), output }
    }

    /// A command of `etcdctl` with the certificate `name`.
    pub fn etcdctl_command(&self, name: &str, args: &[&str]) -> Command {
        let pki = ClusterPki::new(&self.pki());
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3");
        command.arg(format!("--endpoints=https://127.0.0.1:{}", self.port));
        command.arg("--cacert").arg(pki.certificate("ca"));
        command.arg("--cert").arg(pki.certificate(name)).arg("--key").arg(pki.key(name));
        command.args(args);
        command
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

/// A running watch, and what it has reported. It is killed on drop.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    output: PathBuf,
}

impl Watch {
    /// The changes of each revision so far: `+` and a key that was put, `-` and a key that was deleted.
    pub fn revisions(&mut self) -> BTreeMap<i64, Vec<String>> {
        let mut revisions = BTreeMap::<i64, Vec<String>>::new();
        let text = fs::read_to_string(&self.output).expect("what it printed");
        for response in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            for event in response["Events"].as_array().into_iter().flatten() {
                let sign = if event["type"] == 1 { '-' } else { '+' };
                let key = base64(event["kv"]["key"].as_str().expect("a key"));
                let revision = event["kv"]["mod_revision"].as_i64().expect("a revision");
                revisions.entry(revision).or_default().push(format!("{sign}{key}"));
            }
        }
        revisions
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Decodes base64, which `etcdctl` uses for bytes in JSON.
pub fn base64(text: &str) -> String {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u32> = text.bytes().filter_map(digit).map(u32::from).collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let all = group.iter().fold(0, |all, digit| all << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend(all.to_be_bytes()[1..].iter().take(group.len() * 6 / 8));
    }
    String::from_utf8(bytes).expect("text")
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Two ports that are free now.
pub fn free_ports() -> [u16; 2] {
    let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    // Listen on both at once, so that they differ.
    let listeners = [(); 2].map(listen);
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}
