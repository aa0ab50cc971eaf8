//! `etcd-init`: users and roles are set up in an etcd that nothing else can reach yet.
//!
//! Between the start of an empty etcd and the moment when it knows users, a client with a certificate of the CA may do
//! anything, each peer among them. So the etcd runs first with Unix sockets in a folder that only its owner may enter,
//! is set up there, and ends; then it may listen for others. So again after a lost disk, and at each start: what
//! another client did to users meanwhile, as by a password on one of ours, is undone.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use mesh_certs::{CredentialFiles, Credentials, Store};
use mesh_etcd::{Connection, connect_privately};
use mesh_etcd_setup::{Desired, set_up_privately};
use mesh_source::cluster_directory::ClusterDirectory;
use mesh_wire::users_file::UsersFile;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::args::EtcdInitArgs;

/// The etcd while it is set up. It ends with its owner.
struct PrivateEtcd {
    child: Child,
    /// Its working folder, with its sockets.
    folder: tempfile::TempDir,
}

/// Its sockets. etcd wants a name and a port, and makes a file of it in its working folder.
const CLIENTS: &str = "clients:0";
const MEMBERS: &str = "members:0";
/// How long an etcd may take to answer: one with a full disk quota reads all of it first.
const START: Duration = Duration::from_secs(120);
/// How long it may take to end.
const END: Duration = Duration::from_secs(30);
/// How often it is looked whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// Sets up the etcd that a command starts, and becomes it if asked to.
pub(crate) fn run(args: EtcdInitArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(set_up(&args))?;
    drop(runtime);
    if !args.exec {
        return Ok(());
    }
    let (program, flags) = args.etcd.split_first().context("no command")?;
    let failed = Command::new(program).args(flags).exec();
    Err(failed).with_context(|| program.clone())
}

async fn set_up(args: &EtcdInitArgs) -> anyhow::Result<()> {
    let directory = ClusterDirectory::new(&args.config_dir);
    let desired = desired(&directory, &args.extra_users)?;
    let pki = directory.pki();
    let files = CredentialFiles {
        ca: pki.join("ca.crt"),
        certificate: pki.join("admin.crt"),
        key: pki.join("admin.key"),
    };
    let (_, credentials) = Store::open(files, SystemTime::now())?;
    let mut etcd = PrivateEtcd::start(&args.etcd)?;
    let connection = etcd.connect(credentials.current()).await?;
    set_up_privately(&mut connection.users(), &desired).await?;
    drop(connection);
    etcd.stop()?;
    tracing::info!(users = desired.users.len(), "the etcd's users are set up");
    Ok(())
}

/// Users as they should be. Without a file that can be read no peer's user is removed.
fn desired(directory: &ClusterDirectory, extra: &[String]) -> anyhow::Result<Desired> {
    let settings = directory.settings()?;
    let path = directory.users_file();
    let file = match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => None,
        Ok(text) => Some(UsersFile::parse(&text).with_context(|| path.display().to_string())?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let (mut desired, refused) = Desired::new(&settings.name, &file.clone().unwrap_or_default());
    for user in refused {
        tracing::warn!(%user, "users.yaml");
    }
    desired.peers_known = file.is_some();
    desired.extra = extra.iter().cloned().collect();
    Ok(desired)
}

// === impl PrivateEtcd ===

impl PrivateEtcd {
    /// Starts it, as a command would, but for where it listens.
    #[expect(unsafe_code, reason = "the child asks to end with us, between fork and exec")]
    fn start(command: &[String]) -> anyhow::Result<Self> {
        let (program, flags) = command.split_first().context("no command")?;
        let data =
            flags.iter().find_map(|flag| flag.trim_start_matches('-').strip_prefix("data-dir="));
        ensure!(
            data.is_some_and(|path| Path::new(path).is_absolute()),
            "the etcd's command has no --data-dir=PATH with an absolute path"
        );
        // A folder that only its owner may enter.
        let folder = tempfile::Builder::new().prefix("etcd-init-").tempdir()?;
        let mut etcd = Command::new(program);
        // Of a flag that is there twice the last counts.
        etcd.args(flags)
            .arg(format!("--listen-client-urls=unixs://{CLIENTS}"))
            .arg(format!("--listen-peer-urls=unix://{MEMBERS}"))
            .arg("--enable-grpc-gateway=false")
            .current_dir(folder.path())
            .stdin(Stdio::null());
        let die_with_us =
            || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from);
        // SAFETY: between fork and exec the child only calls prctl(2).
        unsafe { etcd.pre_exec(die_with_us) };
        let child = etcd.spawn().with_context(|| program.clone())?;
        Ok(Self { child, folder })
    }

    /// Connects as soon as it answers.
    async fn connect(&mut self, credentials: Arc<Credentials>) -> anyhow::Result<Connection> {
        let socket: PathBuf = self.folder.path().join(CLIENTS);
        let deadline = Instant::now() + START;
        loop {
            let failure = match connect_privately(&socket, Arc::clone(&credentials)).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => failure,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("the etcd ended by itself: {status}. Its own log says why");
            }
            ensure!(Instant::now() < deadline, "the etcd does not answer: {failure}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it, when all is on its disk.
    fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        let deadline = Instant::now() + END;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the etcd does not end");
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for PrivateEtcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
