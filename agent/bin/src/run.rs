//! Putting the stages together.
//!
//! The order at start is what keeps traffic flowing: the programs are replaced by ours on the tables that the previous
//! run left, before anything is known; then clusters are followed, and after each initial sync only what the cluster
//! does not have is removed. Where the former tables are of another layout, ours are filled first and the programs
//! replaced then (`docs/adr/0012`).
//!
//! Threads, all ended with the process:
//!
//! * `health`: probes, answers, verdicts, and the state word by which programs avoid a cluster.
//! * `core`: the driver of the core, alone, so that the time from an event to the kernel is its own work.
//! * `followers`: one task for each cluster, from the bytes of its etcd to batches of events.
//! * the main thread: routes, files, the admin API, metrics.
//!
//! None needs to clean up: the kernel keeps everything.

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher as _, RandomState},
    path::Path,
    pin::pin,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use mesh_admin::health::Health;
use mesh_balance::Rules;
use mesh_core::{Config, Core, LocalState, RestoredCluster};
use mesh_dataplane::{
    Bypass, Forecast, ForeignCgroups, Former, Inherited, LbWriter, PinRoot, Sizes, TakenOver,
    take_over,
};
use mesh_enforce::{Enforcer, Interfaces};
use mesh_files::{Lock, cgroup2_in, first_cgroup2};
use mesh_follow::{PeerConfig, Role};
use mesh_health::{HealthOptions, Order, PeerStates, Verdicts};
use mesh_hooks::{Place, ProbeAnswerHandle, ProbeAnswerTask, ProgramsHandle, ProgramsTask, Waits};
use mesh_layout::{LOCAL_PLAIN_PASSES, LOCAL_UNSYNCED, policy};
use mesh_merge::LocalRanges;
use mesh_metrics::Metrics;
use mesh_model::{ClusterId, ClusterLimit, ClusterName, Identity};
use mesh_node::{Audit, Node, PolicyWriter, RecentRepairs, Writers, unready};
use mesh_peers::{FileRanges, Peers, PeersConfig, follower_thread};
use mesh_pods::{Attachment, AttachmentsTask};
use mesh_policy_kernel::{Hooks, Sizes as PolicySizes};
use mesh_routes::{KubeProxyNeed, KubeProxyWatch, RouteWriters};
use mesh_snapshot::{Part, Snapshot};
use mesh_sockets::{BackendSockets, SocketTerminator};
use mesh_state_dir::{EtcdAddresses, Snapshots};
use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use crate::{
    admin::AgentAdmin,
    alone,
    args::{Args, Policy, PolicyArgs, ProbeAnswerer, Replacement, Routes, entries},
    driver::{Audits, Driver},
    message::{Message, ask},
    pods::PodsAdmin,
};

/// How long a predecessor may take to be gone: a killed process holds its locks until its last thread is dead.
const PREDECESSOR: Duration = Duration::from_secs(5);
/// Messages that may wait for the driver; more, and the etcds wait.
const MESSAGES: usize = 64;
/// How often readiness is recomputed.
const READINESS: Duration = Duration::from_millis(200);
/// How often it is read what the programs counted.
const COUNTING: Duration = Duration::from_secs(1);

/// Runs until it is stopped.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(mut args: Args) -> anyhow::Result<()> {
    let started = SystemTime::now();
    let flags = [&mut args.pod_cidrs, &mut args.node_cidrs, &mut args.service_cidrs];
    let ranges = FileRanges::take(&args.local_config, flags);
    tracing::info!(
        version = mesh_admin::version::line(),
        configuration = args.in_force,
        "starting"
    );
    let name = ClusterName::new(&args.cluster_name).context("--cluster-name")?;
    let limit =
        ClusterLimit::try_from(args.max_connected_clusters).context("--max-connected-clusters")?;
    let id = ClusterId::new(args.cluster_id, limit).context("--cluster-id")?;
    fs::create_dir_all(&args.state_dir)
        .with_context(|| format!("--state-dir {}", args.state_dir.display()))?;
    let _lock = Lock::wait(&args.state_dir.join("lock"), PREDECESSOR)?;

    let metrics = Metrics::default();
    let health = Health::new(metrics.exported());
    let pins = PinRoot::open(&args.pin_root)?;
    let mut stop = pin!(mesh_admin::stop_signal()?);
    if alone::must_wait(&args, pins.has_tables()?)? {
        tokio::select! {
            served = alone::wait(&args, started, &health) => served?,
            () = &mut stop => return Ok(()),
        }
    }
    let probing =
        HealthOptions { local: name.clone(), port: args.probe_port, endings: args.endings() };
    let probing = mesh_health::Health::start(probing)?;
    let (remember, remembered) = mpsc::unbounded_channel();
    let (needed, needed_receiver) = watch::channel(KubeProxyNeed::None);
    let kube_proxy = KubeProxyWatch::new(args.kube_proxy.known(), needed_receiver);
    let parts = Parts { pins, probing, remember, needed, metrics: metrics.clone() };
    let (driver, programs_task, probe_answer_task) = open(&args, &name, (id, limit), parts)?;
    let addresses = EtcdAddresses::open(&args.state_dir);
    let (sender, receiver) = mpsc::channel(MESSAGES);
    let local = PeerConfig {
        name,
        role: Role::Remote,
        local_id: id,
        node: Some(args.node_name.clone()),
        endpoints: 1,
        limit,
        uuid: None,
        id: None,
    };
    let config = PeersConfig {
        local,
        local_file: args.local_config.clone(),
        folder: args.config_dir.join("peers"),
        previous: driver.previous_peers(),
        last_addresses: addresses.addresses(),
    };
    let peers = Peers::new(config, sender.clone(), follower_thread()?);
    let (attachments, looks) =
        AttachmentsTask::new(args.pods_dir(), args.netns_dir.clone(), remembered, sender.clone());
    let programs = driver.programs();
    let admin = AgentAdmin {
        args: args.clone(),
        driver: sender.clone(),
        started,
        programs: programs.clone(),
    };
    let pods_admin = PodsAdmin { driver: sender.clone(), looks };

    let mut ended = core_thread(driver, receiver)?;
    tokio::select! {
        _ = &mut ended => anyhow::bail!("the core has ended"),
        () = programs_task.run() => {}
        () = probe_answer_task.run() => {}
        () = peers.run() => {}
        () = attachments.run() => {}
        () = addresses.run() => {}
        () = kube_proxy.run(sender.clone()) => {}
        () = ranges.changed() => {
            tracing::info!("the cluster has other ranges: this run ends, and the next one takes them");
        }
        () = watch_readiness(&sender, &health) => {}
        () = count_connections(programs.clone(), metrics) => {}
        served = health.clone().serve(args.metrics_address) => {
            served.with_context(|| format!("--metrics-address {}", args.metrics_address))?;
        }
        served = mesh_admin::serve_with_pods(&args.admin_socket, admin, pods_admin) => {
            served.context("--admin-socket")?;
        }
        () = &mut stop => {}
    }
    tracing::info!("stopping; the kernel goes on with what it has");
    let stopped = async { sender.send(Message::Stop).await.is_ok() && ended.await.is_ok() };
    let _ = timeout(PREDECESSOR, stopped).await;
    Ok(())
}

/// The thread of the driver. The returned handle ends when it does.
fn core_thread(
    driver: Driver,
    inbox: mpsc::Receiver<Message>,
) -> anyhow::Result<oneshot::Receiver<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
    let (sender, ended) = oneshot::channel();
    thread::Builder::new().name("core".into()).spawn(move || {
        runtime.block_on(driver.run(inbox));
        let _ = sender.send(());
    })?;
    Ok(ended)
}

/// The state words by which programs avoid clusters, as health writes them.
struct Words(mesh_dataplane::PeerStates);

impl PeerStates for Words {
    fn cut(&self) -> Vec<ClusterId> {
        self.0.cut().collect()
    }

    fn set_cut(&mut self, cluster: ClusterId, cut: bool) {
        self.0.set_cut(cluster, cut);
    }
}

/// What the driver needs of other tasks.
struct Parts {
    pins: PinRoot,
    probing: (mesh_health::Health, Verdicts),
    remember: mpsc::UnboundedSender<(Attachment, Identity)>,
    needed: watch::Sender<KubeProxyNeed>,
    metrics: Metrics,
}

/// Takes over the kernel's tables and routes.
fn open(
    args: &Args,
    name: &ClusterName,
    (id, limit): (ClusterId, ClusterLimit),
    parts: Parts,
) -> anyhow::Result<(Driver, ProgramsTask, ProbeAnswerTask)> {
    let cgroup = match &args.cgroup_root {
        Some(root) => {
            cgroup2_in(root).with_context(|| format!("--cgroup-root {}", root.display()))?
        }
        None => first_cgroup2()
            .context("no cgroup2 is mounted: mount one, or name it with --cgroup-root")?,
    };
    let sizes = Sizes {
        services: args.max_services,
        backends: args.max_backends,
        slots: args.max_slots,
        groups: args.max_weighted_services,
    };
    let now = Instant::now();
    let pins = parts.pins;
    let pin_lock = pins.lock(PREDECESSOR).context("--pin-root")?;
    let TakenOver { mut programs, mut tables, former } =
        take_over(pins.clone(), sizes, now).with_context(|| {
            "the kernel's tables (--max-services, --max-backends, --max-slots, --max-weighted-services)"
        })?;
    tables.set_local_cluster(id);
    let inherited = tables.inherited();
    let found = tables.local_state();
    let unbalanced = tables.unbalanced()?;
    let bypass = Bypass::find();
    programs.set_bypass(bypass.cgroup.as_slice())?;
    let attached = match (former, ForeignCgroups::find(&cgroup)) {
        (Former::OtherLayout, _) => {
            tracing::info!("programs of another release stay in place until the tables are filled");
            Err(Waits::Exchange("the local cluster".into()))
        }
        (_, Err(why)) => {
            tracing::error!(%why, "the programs would have no effect and are not attached");
            Err(Waits::Effect(why.to_string()))
        }
        (Former::Nothing | Former::Same | Former::Resized(_), Ok(foreign)) => {
            programs.attach(&cgroup).with_context(|| format!("cgroup {}", cgroup.display()))?;
            let Inherited { frontends, backends } = inherited;
            tracing::info!(
                cgroup = %cgroup.display(),
                frontends,
                backends,
                agent_cgroup = bypass.cgroup,
                "the programs are in place, with what the previous run left"
            );
            Ok(foreign)
        }
    };
    let list = programs.take_sockets().map_err(|error| error.to_string());
    let sockets = BackendSockets::new(list.and_then(|list| {
        let terminator = SocketTerminator::start(move |protocol| list.read(protocol));
        terminator.map_err(|error| error.to_string())
    }));
    let seed = RandomState::new().hash_one(&args.node_name);
    let routes = RouteWriters::open(&args.pod_cidrs, args.routes == Routes::Auto, seed)?;
    // Services in snapshots are for a kernel that has nothing: any other knows better.
    let bare = inherited == Inherited::default();
    let folder = args.state_dir.join("snapshots");
    let part = if bare { Part::All } else { Part::Identities };
    let mut snapshots = Snapshots::open(folder, name, limit, part, now)
        .with_context(|| format!("--state-dir {}", args.state_dir.display()))?;
    let restored = snapshots.take_all().into_iter().map(|(name, snapshot)| {
        let Snapshot { cluster: _, id, uuid, records, known } = snapshot;
        (name, RestoredCluster { id, uuid, records, known })
    });
    let restored: BTreeMap<ClusterName, RestoredCluster> = restored.collect();
    let config = Config {
        local: name.clone(),
        node: args.node_name.clone(),
        rules: Rules {
            local: id,
            node: Some(args.node_name.as_str().into()),
            replace_kube_proxy: args.replace_kube_proxy != Replacement::False,
        },
        ranges: LocalRanges {
            pod_cidrs: args.pod_cidrs.clone(),
            node_cidrs: args.node_cidrs.clone(),
            service_cidrs: args.service_cidrs.clone(),
        },
        local_routes: args.own_routes,
        staleness_budget: args.staleness_budget(),
        snapshots: restored,
        unbalanced,
        local_state: (!bare).then_some(LocalState {
            unsure: found & LOCAL_UNSYNCED != 0,
            plain_passes: found & LOCAL_PLAIN_PASSES != 0,
        }),
    };
    let (health, verdicts) = parts.probing;
    health.order(Order::States(Box::new(Words(tables.peer_states()))));
    let (programs, programs_task) =
        ProgramsHandle::new(programs, bypass, Place { root: cgroup, attached });
    let by_kernel = args.probe_answer == ProbeAnswerer::Kernel;
    let policy_pins = pins.policy();
    let (probe_answer, probe_answer_task) =
        ProbeAnswerHandle::new(pins, args.probe_port, by_kernel);
    let writers = Writers {
        health,
        programs,
        routes,
        probe_answer,
        snapshots,
        sockets,
        remember: parts.remember,
        kube_proxy: parts.needed,
    };
    let audits = Audits::new(args.audit_interval(), now);
    let policy = match args.policy.policy {
        Policy::Off => {
            Hooks::remove(&policy_pins).context("--policy off")?;
            None
        }
        Policy::On => Some(enforcement(name, &args.policy, &policy_pins).context("--policy on")?),
    };
    let node = Node {
        core: Core::new(config, now),
        followers: BTreeMap::new(),
        lb: LbWriter::new(tables, seed),
        writers,
        attachment_problems: Vec::new(),
        forecast: Forecast::default(),
        audit: Audit::default(),
        recent_repairs: RecentRepairs::default(),
        policy,
    };
    let driver = Driver::new(node, verdicts, audits, parts.metrics, pin_lock);
    Ok((driver, programs_task, probe_answer_task))
}

/// What enforces policies: programs that are loaded, and at no interface yet.
fn enforcement(name: &ClusterName, args: &PolicyArgs, pins: &Path) -> anyhow::Result<PolicyWriter> {
    let (hooks, tables) = Hooks::load(PolicySizes::NODE, entries(policy::sizes::FLOWS), pins)?;
    let enforcer =
        Enforcer::new(name.clone(), args.options(), tables, PolicySizes::NODE, args.refused());
    let interfaces = Interfaces::start(hooks)?;
    tracing::info!(
        "policies are enforced on this node's pods; this is unfinished: see the documents"
    );
    Ok(PolicyWriter { enforcer, interfaces, is_filled: false })
}

async fn watch_readiness(driver: &mpsc::Sender<Message>, health: &Health) {
    let mut was_ready = false;
    while let Some(reasons) = ask(driver, unready).await {
        if reasons.is_empty() != was_ready {
            was_ready = reasons.is_empty();
            tracing::info!(ready = was_ready, reasons = reasons.join("; "), "readiness");
        }
        health.set(reasons);
        sleep(READINESS).await;
    }
}

async fn count_connections(programs: ProgramsHandle, metrics: Metrics) {
    loop {
        metrics.set_connections(&programs.counters().await);
        sleep(COUNTING).await;
    }
}
