//! Starts and connects the parts of the daemon.
//!
//! The tasks belong to [`serve`] and end with it: the watches of manifests, users file and credentials, the writer, health
//! and metrics, the admin API. The cluster has a thread ([`crate::cluster`]). No task needs a cleanup: after the process
//! was killed, the next one compares the etcd with the manifests and continues.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use mesh_admin::health::Health;
use mesh_certs::{Clock, ClusterPki, CredentialFiles, Receiver, Store};
use mesh_etcd::{LastAddresses, Target};
use mesh_files::FolderWatch;
use mesh_follow::{ConnectionPhase, Failure};
use mesh_source::cluster_directory::ClusterDirectory;
use mesh_source_kube::{Connection, DrainConfigMap, FollowedUsers, KubeRequests};
use mesh_wire::{cluster_ranges::ClusterRanges, users_file::UsersFile};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};

use crate::{
    admin::{ApiserverAdmin, unready},
    args::{Args, SourceKind},
    certificates::Issuing,
    cluster::Cluster,
    identity_allocation::IdentityRecording,
    installation,
    metrics::Metrics,
    source::ApiServer,
    users_file,
    writer::{EtcdFailure, StoreState, Writer},
};

/// How long to write pending changes before the process ends.
const DRAIN: Duration = Duration::from_secs(5);
/// The same while the etcd is not connected.
const AWAY: Duration = Duration::from_secs(1);
/// What was read of an API server and waits for the cluster's thread, at most: pages of lists, or single changes.
const EVENTS: usize = 4;
/// How often readiness is computed.
const READINESS: Duration = Duration::from_millis(200);

/// What the tasks share.
#[derive(Clone)]
struct Shared {
    cluster: Arc<Cluster>,
    store: Arc<Mutex<StoreState>>,
    metrics: Metrics,
}

/// Runs until a signal stops it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let started = SystemTime::now();
    tracing::info!(
        version = mesh_admin::version::line(),
        configuration = args.in_force,
        "starting"
    );
    let directory = ClusterDirectory::new(&args.config_dir);
    let metrics = Metrics::default();
    let health = Health::new(metrics.exported());
    let recording = IdentityRecording { wait: args.identity_wait(), adopt: args.adopt_identities };
    // `drain.yaml` is in the parent folder of the manifests.
    let watches =
        [FolderWatch::new(&directory.manifests()), FolderWatch::shallow(directory.path())];
    let logs = watches.each_ref().map(FolderWatch::write_log).into();
    let rules = &args.identity_labels;
    let mut installed = None;
    let (cluster, following) = match args.source {
        SourceKind::Manifests => {
            (Cluster::open(&directory, rules, recording, logs, metrics.clone())?, None)
        }
        SourceKind::Kubernetes => {
            let connection = Connection::open(&args.api.choice()).await?;
            if let Some(lifetime) = args.certificate_lifetime {
                let settings = directory.settings()?;
                let ranges = ClusterRanges {
                    pod_cidrs: settings.pod_cidrs,
                    node_cidrs: settings.node_cidrs,
                    service_cidrs: settings.service_cidrs,
                };
                let issuing = Issuing {
                    cluster: settings.name,
                    namespace: connection.namespace().to_owned(),
                    pki: ClusterPki::new(&directory.pki()),
                    lifetime,
                };
                installed = Some((issuing, ranges, connection.clone()));
            }
            let (sender, events) = mpsc::channel(EVENTS);
            let (requests, receiver) = mpsc::unbounded_channel();
            let (object_events, events_receiver) = mpsc::unbounded_channel();
            let config_map = DrainConfigMap::new(connection.clone());
            let runtime = Handle::current();
            let api_server = ApiServer { events, requests, object_events, config_map, runtime };
            let cluster = Cluster::open_kubernetes(
                &directory,
                rules,
                recording,
                api_server,
                metrics.clone(),
            )?;
            let looked = Arc::clone(&cluster);
            let wake = move || looked.look();
            let (users, followed) = mpsc::channel(EVENTS);
            let asked = KubeRequests { identities: receiver, events: events_receiver };
            let following = mesh_source_kube::follow(connection, sender, users, asked, wake);
            (cluster, Some((following, followed)))
        }
    };
    let follows = following.is_some();
    let (following, config_map) = following.unzip();
    let following = async {
        match following {
            Some(following) => following.await,
            None => std::future::pending().await,
        }
    };
    let store = Arc::new(Mutex::new(StoreState::default()));
    let installation = async {
        match installed {
            Some((issuing, ranges, api)) => {
                installation::keep(issuing, ranges, api, &store).await;
            }
            None => std::future::pending().await,
        }
    };
    let shared = Shared { cluster: Arc::clone(&cluster), store: Arc::clone(&store), metrics };
    let (users_sender, users) = watch::channel(None);
    let (drain_sender, drain) = watch::channel(false);
    let (trouble_sender, trouble) = watch::channel(None);
    let writing =
        write(args.clone(), directory.clone(), shared.clone(), users, drain, trouble_sender);
    let admin = ApiserverAdmin {
        args: args.clone(),
        cluster: Arc::clone(&cluster),
        store: Arc::clone(&store),
        trouble: trouble.clone(),
        started,
        pki: directory.pki(),
        peers: directory.peers(),
    };
    let stop = mesh_admin::stop_signal()?;
    let asked_to_stop = async {
        stop.await;
        tracing::info!("stopping: writing pending changes");
        // A recent change may not have been noticed yet.
        let _ = time::timeout(DRAIN, cluster.flush()).await;
        let _ = drain_sender.send(true);
        let connected = || store.lock().unwrap_or_else(PoisonError::into_inner).connected;
        let began = Instant::now();
        while began.elapsed() < if connected() { DRAIN } else { AWAY } {
            time::sleep(READINESS).await;
        }
        tracing::warn!(
            "not everything could be written in time; the next apiserver will write the rest"
        );
    };
    let users_path = directory.users_file();
    tokio::select! {
        () = cluster.ended() => bail!("the cluster's thread failed: see the log"),
        () = watch_manifests(&cluster, watches), if !follows => {}
        () = following => bail!("following the API server ended: see the log"),
        () = follow_users(&users_path, config_map, users_sender, &store) => {}
        () = installation => {}
        // In its own task, so that its computations over all keys do not delay the others.
        () = task(writing) => tracing::info!("everything is written"),
        () = asked_to_stop => {}
        () = task(watch_readiness(shared, trouble, health.clone())) => {}
        served = health.serve(args.metrics_address) => {
            served.with_context(|| format!("--metrics-address {}", args.metrics_address))?;
        }
        served = mesh_admin::serve(&args.admin_socket, admin) => served.context("--admin-socket")?,
    }
    Ok(())
}

/// Follows the users of peers: in the ConfigMap that an API server has, else in the file.
async fn follow_users(
    path: &Path,
    config_map: Option<mpsc::Receiver<FollowedUsers>>,
    users: watch::Sender<Option<UsersFile>>,
    state: &Mutex<StoreState>,
) {
    match config_map {
        Some(config_map) => users_file::follow_config_map(config_map, users, state).await,
        None => users_file::follow(path, users, state).await,
    }
}

/// Runs work in its own task, which is aborted when this future is dropped.
async fn task(work: impl Future<Output = ()> + Send + 'static) {
    let mut tasks = JoinSet::new();
    tasks.spawn(work);
    while tasks.join_next().await.is_some() {}
}

/// Writes until `drain` is true and everything is written.
async fn write(
    args: Args,
    directory: ClusterDirectory,
    shared: Shared,
    users: watch::Receiver<Option<UsersFile>>,
    drain: watch::Receiver<bool>,
    trouble: watch::Sender<Option<Failure>>,
) {
    let pki = directory.pki();
    let files = CredentialFiles {
        ca: pki.join("ca.crt"),
        certificate: pki.join("admin.crt"),
        key: pki.join("admin.key"),
    };
    let (credentials, receiver) = open_credentials(files, &pki, &shared.store).await;
    let published = receiver.clone();
    shared.metrics.set_certificates(&published.current());
    let heartbeat = args.heartbeat();
    let writer = Writer {
        cluster: shared.cluster,
        target: Target {
            endpoints: vec![args.etcd_endpoint],
            host_aliases: Vec::new(),
            credentials: receiver,
            clock: Clock::system(),
            last_addresses: LastAddresses::default(),
        },
        users,
        extra_users: args.etcd_extra_users,
        heartbeat,
        quota: args.etcd_quota_bytes,
        trusted_peers: args.trusted_peers,
        drain,
        trouble,
        state: Arc::clone(&shared.store),
        metrics: shared.metrics.clone(),
    };
    tokio::select! {
        () = watch_credentials((credentials, published), &pki, &shared.store, &shared.metrics) => {}
        () = writer.run() => {}
    }
}

async fn watch_manifests(cluster: &Cluster, watches: [FolderWatch; 2]) {
    let [mut folder, mut beside] = watches;
    loop {
        cluster.look();
        tokio::select! {
            () = folder.changed() => {}
            () = beside.changed() => {}
        }
    }
}

/// Waits until the credentials can be used.
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
                tracing::warn!(%error, "there are no credentials for the cluster's etcd");
                let failure = Failure::new(ConnectionPhase::Tls, error.to_string());
                state.lock().unwrap_or_else(PoisonError::into_inner).trouble =
                    Some(EtcdFailure::from(&failure));
            }
        }
        folder.changed().await;
    }
}

async fn watch_credentials(
    (store, published): (Store, Receiver),
    pki: &Path,
    state: &Mutex<StoreState>,
    metrics: &Metrics,
) {
    let mut folder = FolderWatch::shallow(pki);
    loop {
        folder.changed().await;
        let problem = store.reload(SystemTime::now()).err().map(|error| error.to_string());
        metrics.set_certificates(&published.current());
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) =
            problem.as_ref().filter(|problem| state.files.as_ref() != Some(*problem))
        {
            tracing::warn!(
                problem,
                "the new credentials cannot be used; keeping the previous ones"
            );
        }
        state.files = problem;
    }
}

async fn watch_readiness(
    shared: Shared,
    trouble: watch::Receiver<Option<Failure>>,
    health: Health,
) {
    let mut was_ready = false;
    loop {
        let state = shared.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (view, now) = (shared.cluster.view(), Instant::now());
        let reasons = unready(&view, &state, now);
        let reasons: Vec<String> = reasons.into_iter().map(|problem| problem.message).collect();
        if reasons.is_empty() != was_ready {
            was_ready = reasons.is_empty();
            tracing::info!(ready = was_ready, reasons = reasons.join("; "), "readiness");
        }
        let fallback = mesh_files::watch_fallback().is_some();
        // The same number as in the admin API.
        let single = [state.files.is_some(), trouble.borrow().is_some(), fallback];
        let problems = [reasons.len(), view.problems.len(), state.problems(now).len()];
        let problems = single.map(usize::from).into_iter().chain(problems).sum::<usize>();
        shared.metrics.problems.set(problems.try_into().unwrap_or(u64::MAX));
        health.set(reasons);
        shared.metrics.file_watch_fallback.set(fallback.into());
        time::sleep(READINESS).await;
    }
}
