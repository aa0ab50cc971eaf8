//! `etcd-init`: sets up users and roles in an etcd that no other client can reach.
//!
//! Until an empty etcd has users, any client with a certificate of the CA may do anything, also each peer. So this first
//! starts the etcd on Unix sockets in a folder that only its owner can enter, sets it up, and stops it. Then the etcd may
//! listen for other clients. This happens at each start, also after the data was lost. It undoes what other clients did to
//! users, for example a password that they set.

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

/// The etcd while it is set up. It is killed on drop.
struct PrivateEtcd {
    child: Child,
    /// Its working directory, with its sockets.
    folder: tempfile::TempDir,
}

/// Its sockets. etcd requires a name and a port, and creates a file with that name in its working directory.
const CLIENTS: &str = "clients:0";
const MEMBERS: &str = "members:0";
/// How long an etcd may take to answer. With a large database it takes a while to load.
const START: Duration = Duration::from_secs(120);
/// How long it may take to stop.
const END: Duration = Duration::from_secs(30);
/// The interval between two attempts.
const LOOK: Duration = Duration::from_millis(10);

/// Sets up the etcd that a command starts. With `--exec`, replaces this process by it.
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

/// The desired users and roles. If there is no users file, or it is empty, peers' users are not removed.
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
    /// Starts it with the flags of a command, but listening on Unix sockets.
    #[expect(unsafe_code, reason = "the child asks to end with us, between fork and exec")]
    fn start(command: &[String]) -> anyhow::Result<Self> {
        let (program, flags) = command.split_first().context("no command")?;
        let data =
            flags.iter().find_map(|flag| flag.trim_start_matches('-').strip_prefix("data-dir="));
        ensure!(
            data.is_some_and(|path| Path::new(path).is_absolute()),
            "the etcd's command has no --data-dir=PATH with an absolute path"
        );
        // Only the owner can enter this folder.
        let folder = tempfile::Builder::new().prefix("etcd-init-").tempdir()?;
        let mut etcd = Command::new(program);
        // The last one of duplicate flags counts.
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

    /// Connects to it, as soon as it answers.
    async fn connect(&mut self, credentials: Arc<Credentials>) -> anyhow::Result<Connection> {
        let socket: PathBuf = self.folder.path().join(CLIENTS);
        let deadline = Instant::now() + START;
        loop {
            let failure = match connect_privately(&socket, Arc::clone(&credentials)).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => failure,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("the etcd ended: {status}. See its log");
            }
            ensure!(Instant::now() < deadline, "the etcd does not answer: {failure}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops it, so that all data is on disk.
    fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        let deadline = Instant::now() + END;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the etcd does not stop");
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
