//! Putting the stages together.
//!
//! Tasks, all owned by [`run`] and ended with it: the folder's watcher, the journal's watcher, the users file's watcher, the credentials'
//! watcher, the writer, health and metrics, the admin API. None holds anything that must be put away: a process that is
//! killed leaves an etcd whose next writer compares and goes on.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use mesh_admin::health::Health;
use mesh_certs::{Clock, CredentialFiles, Receiver, Store};
use mesh_etcd::{LastAddresses, Target};
use mesh_files::FolderWatch;
use mesh_follow::{ConnectionPhase, Failure};
use mesh_source::cluster_directory::ClusterDirectory;
use mesh_wire::users_file::UsersFile;
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time,
};

use crate::{
    admin::{ApiserverAdmin, unready},
    args::Args,
    cluster::{Cluster, IdentityRecording},
    metrics::Metrics,
    writer::{EtcdFailure, StoreState, Writer},
};

/// How long what is pending may take when it is time to end.
const DRAIN: Duration = Duration::from_secs(5);
/// The same, while the etcd is away.
const AWAY: Duration = Duration::from_secs(1);
/// How often readiness is worked out anew.
const READINESS: Duration = Duration::from_millis(200);
/// How often it is looked for what other replicas decided: as long as their numbers are published by one alone.
const JOURNAL: Duration = Duration::from_millis(250);

/// Runs until told to stop.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let started = SystemTime::now();
    tracing::info!(version = mesh_admin::version::line(), configuration = ?args, "starting");
    let directory = ClusterDirectory::new(&args.config_dir);
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let health = Health::new(registry);
    let keeping = IdentityRecording {
        wait: Duration::from_secs(args.identity_wait_seconds),
        adopt: args.adopt_identities,
    };
    let cluster = Cluster::open(&directory, &args.identity_labels, keeping, metrics.clone())?;
    let pki = directory.pki();
    let files = CredentialFiles {
        authority: pki.join("ca.crt"),
        certificate: pki.join("admin.crt"),
        key: pki.join("admin.key"),
    };
    let (users_sender, users) = watch::channel(None);
    let (drain_sender, drain) = watch::channel(false);
    let store = Arc::new(Mutex::new(StoreState::default()));
    let (trouble_sender, trouble) = watch::channel(None);
    let write = async {
        let (credentials, receiver) = open_credentials(files, &pki, &store).await;
        let writer = Writer {
            cluster: Arc::clone(&cluster),
            target: Target {
                endpoints: vec![args.etcd_endpoint.clone()],
                host_aliases: Vec::new(),
                credentials: receiver,
                clock: Clock::system(),
                last_addresses: LastAddresses::default(),
            },
            users,
            heartbeat: Duration::from_secs(args.heartbeat_seconds),
            drain,
            trouble: trouble_sender,
            state: Arc::clone(&store),
            metrics,
        };
        tokio::select! {
            () = watch_credentials(credentials, &pki, &store) => {}
            () = writer.run() => {}
        }
    };
    let admin = ApiserverAdmin {
        args: args.clone(),
        cluster: Arc::clone(&cluster),
        store: Arc::clone(&store),
        trouble,
        started,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told_to_stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop: writing what is pending");
        // What changed a moment ago may not have been noticed yet.
        cluster.scan();
        let _ = drain_sender.send(true);
        let connected = || store.lock().unwrap_or_else(PoisonError::into_inner).connected;
        let began = Instant::now();
        while began.elapsed() < if connected() { DRAIN } else { AWAY } {
            time::sleep(READINESS).await;
        }
        tracing::warn!(
            "not everything could be written in time; whoever comes next compares and goes on"
        );
    };
    tokio::select! {
        () = watch_manifests(&cluster, &directory) => {}
        () = watch_journal(&cluster, &store) => {}
        () = watch_users(directory.users_file(), users_sender) => {}
        () = watch_readiness(&cluster, &store, &health) => {}
        () = write => tracing::info!("everything is written"),
        () = told_to_stop => {}
        served = health.clone().serve(args.metrics_address) => {
            served.with_context(|| format!("--metrics-address {}", args.metrics_address))?;
        }
        served = mesh_admin::serve(&args.admin_socket, admin) => served.context("--admin-socket")?,
    }
    Ok(())
}

async fn watch_manifests(cluster: &Cluster, directory: &ClusterDirectory) {
    let mut folder = FolderWatch::new(&directory.manifests());
    // What is drained is beside them.
    let mut beside = FolderWatch::shallow(directory.path());
    loop {
        cluster.scan();
        tokio::select! {
            () = folder.changed() => {}
            () = beside.changed() => {}
        }
    }
}

/// Other replicas decide things too, and time does.
async fn watch_journal(cluster: &Cluster, store: &Mutex<StoreState>) {
    loop {
        let synced = store.lock().unwrap_or_else(PoisonError::into_inner).synced;
        cluster.tick(synced, Instant::now());
        time::sleep(JOURNAL).await;
    }
}

/// A file that is missing or broken says nothing: not that there is nobody.
async fn watch_users(path: PathBuf, users: watch::Sender<Option<UsersFile>>) {
    // The file's folder: the file itself is replaced by renaming.
    let mut folder = FolderWatch::shallow(path.parent().unwrap_or(&path));
    loop {
        match fs::read_to_string(&path) {
            Ok(text) => match UsersFile::parse(&text) {
                Ok(file) => {
                    users.send_if_modified(|current| {
                        let changed = current.as_ref() != Some(&file);
                        *current = Some(file);
                        changed
                    });
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "keeping the users as they are")
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "keeping the users as they are")
            }
        }
        folder.changed().await;
    }
}

/// Reads the credentials for the first time, as soon as they can be used.
async fn open_credentials(
    files: CredentialFiles,
    pki: &Path,
    state: &Mutex<StoreState>,
) -> (Store, Receiver) {
    let mut folder = FolderWatch::shallow(pki);
    loop {
        match Store::open(files.clone(), SystemTime::now()) {
            Ok(opened) => return opened,
            Err(error) => {
                tracing::warn!(%error, "there are no credentials for the own etcd");
                let failure = Failure::new(ConnectionPhase::Tls, error.to_string());
                state.lock().unwrap_or_else(PoisonError::into_inner).trouble =
                    Some(EtcdFailure::from(&failure));
            }
        }
        folder.changed().await;
    }
}

async fn watch_credentials(store: Store, pki: &Path, state: &Mutex<StoreState>) {
    let mut folder = FolderWatch::shallow(pki);
    loop {
        folder.changed().await;
        let problem = store.reload(SystemTime::now()).err().map(|error| error.to_string());
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) =
            problem.as_ref().filter(|problem| state.files.as_ref() != Some(*problem))
        {
            tracing::warn!(problem, "keeping the credentials as they are");
        }
        state.files = problem;
    }
}

async fn watch_readiness(cluster: &Cluster, store: &Mutex<StoreState>, health: &Health) {
    let mut was_ready = false;
    loop {
        let state = store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reasons = unready(cluster, &state);
        if reasons.is_empty() != was_ready {
            was_ready = reasons.is_empty();
            tracing::info!(ready = was_ready, ?reasons, "readiness");
        }
        health.set(reasons);
        time::sleep(READINESS).await;
    }
}
