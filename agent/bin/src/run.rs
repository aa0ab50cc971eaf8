//! Putting the stages together.
//!
//! The order at start is what keeps traffic flowing: the programs are exchanged for ours on the tables that a former life
//! left, before anything is known; then clusters are followed, and only what they told in full is let go of. Where a former
//! life's tables are of another layout, they are filled first and the programs exchanged then (`docs/adr/0012`).
//!
//! Tasks, all owned by [`serve`] and ended with it: the mesh (owner of tables and routes), the prober, the probe echo, one
//! follower a cluster, the watcher of the peer files, the watcher of attachments, health and metrics, the admin API. None needs to be put away: the kernel keeps everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use mesh_admin::health::Health;
use mesh_balance::{Balancer, Rules};
use mesh_dataplane::{Forecast, Former, Inherited, PinRoot, Sizes, TakenOver, take_over};
use mesh_files::{FolderWatch, Lock};
use mesh_follow::{PeerConfig, Role};
use mesh_merge::{Merge, OwnRanges};
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_routes::{KernelRoutes, Masquerade, RouteTable};
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

use crate::{
    admin::{AgentAdmin, ask, unready},
    args::Args,
    mesh::{
        Audit, Health as NodeHealth, Input, LocalReadiness, Mesh, NodePods, ProgramUpgrade,
        RestoredState, RetryQueue, Sockets, Staleness,
    },
    metrics::Metrics,
    own_cgroup::Bypass,
    peers::Peers,
    pods::{self, PodsAdmin},
    probe::ProbeSocket,
    prober::{self, Prober},
};

/// How long a predecessor may take to be gone: a killed process holds its locks until its last thread is dead.
const PREDECESSOR: Duration = Duration::from_secs(5);
/// How often readiness is worked out anew.
const READINESS: Duration = Duration::from_millis(200);

/// Runs until told to stop.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let started = SystemTime::now();
    tracing::info!(version = mesh_admin::version::line(), configuration = ?args, "starting");
    let name = ClusterName::new(&args.cluster_name).context("--cluster-name")?;
    let limit =
        ClusterLimit::try_from(args.max_connected_clusters).context("--max-connected-clusters")?;
    let id = ClusterId::new(args.cluster_id, limit).context("--cluster-id")?;
    fs::create_dir_all(&args.state_dir)
        .with_context(|| format!("--state-dir {}", args.state_dir.display()))?;
    let _lock = Lock::wait(&args.state_dir.join("lock"), PREDECESSOR)?;

    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let health = Health::new(registry);
    let socket = ProbeSocket::bind(args.probe_port).await;
    let socket = socket.map_err(|error| tracing::warn!(%error, "nobody can be probed")).ok();
    let (prober, probing) = Prober::new(name.clone(), socket);
    let mesh = open_mesh(&args, &name, (id, limit), metrics, prober).await?;
    let addresses = mesh.restored.addresses();
    let (sender, receiver) = Peers::channel();
    let node = Some(args.node_name.clone());
    let own = PeerConfig {
        name,
        role: Role::Remote,
        own_id: id,
        node,
        endpoints: 1,
        limit,
        uuid: None,
        id: None,
    };
    let folder = args.config_dir.join("peers");
    let peers =
        Peers::new(own, args.local_config.clone(), folder.clone(), addresses, sender.clone());
    let admin = AgentAdmin { args: args.clone(), mesh: sender.clone(), started };
    let pods_admin = PodsAdmin { mesh: sender.clone() };

    // Tasks of their own: they are not to wait for what else there is to do.
    let probing = task(probing.run());
    let echoing = task(prober::echo(args.probe_port));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = mesh.run(receiver) => {}
        () = probing => {}
        () = echoing => {}
        () = watch_peers(peers, folder, args.local_config.clone(), sender.clone()) => {}
        () = pods::watch(args.pods_dir(), sender.clone()) => {}
        () = watch_readiness(&sender, &health) => {}
        served = health.clone().serve(args.metrics_address) => {
            served.with_context(|| format!("--metrics-address {}", args.metrics_address))?;
        }
        served = mesh_admin::serve_with_pods(&args.admin_socket, admin, pods_admin) => {
            served.context("--admin-socket")?;
        }
        _ = terminate.recv() => tracing::info!("told to stop; the kernel goes on with what it has"),
        _ = interrupt.recv() => tracing::info!("told to stop; the kernel goes on with what it has"),
    }
    Ok(())
}

/// Runs beside everything else, and ends with it.
async fn task(work: impl Future<Output = ()> + Send + 'static) {
    let mut tasks = JoinSet::new();
    tasks.spawn(work);
    while tasks.join_next().await.is_some() {}
}

/// Takes over the kernel's tables and routes.
async fn open_mesh(
    args: &Args,
    name: &ClusterName,
    (id, limit): (ClusterId, ClusterLimit),
    metrics: Metrics,
    prober: Prober,
) -> anyhow::Result<Mesh> {
    let cgroup = match &args.cgroup_root {
        Some(root) => root.clone(),
        None => first_cgroup2()
            .context("no cgroup2 is mounted: mount one, or name it with --cgroup-root")?,
    };
    let sizes = Sizes {
        services: args.max_services,
        backends: args.max_backends,
        slots: args.max_slots,
        groups: args.max_weighted_services,
    };
    let pins = PinRoot::open(&args.pin_root)?;
    let pin_lock = pins.lock(PREDECESSOR).context("--pin-root")?;
    let TakenOver { mut programs, tables, former } =
        take_over(pins, sizes, Instant::now()).with_context(|| {
            "the kernel's tables (--max-services, --max-backends, --max-slots, --max-weighted-services)"
        })?;
    let held = tables.inherited();
    let unbalanced = tables.unbalanced()?;
    let health = NodeHealth::new(prober, tables.cut().collect(), Instant::now());
    let bypass = Bypass::find();
    programs.set_bypass(bypass.cgroup.as_slice())?;
    let program_upgrade = match former {
        Former::Nothing | Former::Same | Former::Resized(_) => {
            programs.attach(&cgroup).with_context(|| format!("cgroup {}", cgroup.display()))?;
            tracing::info!(cgroup = %cgroup.display(), ?former, ?held, ?bypass, "the programs are in place");
            None
        }
        Former::OtherLayout => {
            tracing::info!("programs of another release stay in place until the tables are filled");
            Some(ProgramUpgrade::new(cgroup))
        }
    };
    let sockets = Sockets::new(&mut programs, args.end_tcp_of_cut_clusters);
    let kernel_routes = KernelRoutes::open()?;
    let routes = RouteTable::restore(kernel_routes.list().await?);
    let budget = Duration::from_secs(args.staleness_budget_seconds);
    let bare = held == Inherited::default();
    let (state, now) = (&args.state_dir, Instant::now());
    let restored = RestoredState::open(state, name, limit, bare, budget, now)
        .with_context(|| format!("--state-dir {}", args.state_dir.display()))?;
    let ranges = OwnRanges {
        pod_cidrs: args.pod_cidrs.clone(),
        node_cidrs: args.node_cidrs.clone(),
        service_cidrs: args.service_cidrs.clone(),
    };
    Ok(Mesh {
        own: name.clone(),
        node: args.node_name.clone(),
        own_routes: args.own_routes,
        pod_cidrs: args.pod_cidrs.clone(),
        merge: Merge::new(name.clone(), ranges),
        balancer: Balancer::new(
            Rules { own: id, replace_kube_proxy: args.replace_kube_proxy },
            name.clone(),
        ),
        clusters_moved: true,
        nodes_moved: false,
        // What a former life left is looked at in any case.
        routes_moved: true,
        programs,
        _pin_lock: pin_lock,
        program_upgrade,
        tables,
        routes,
        kernel_routes,
        masquerade: Masquerade::default(),
        masquerade_problem: None,
        bypass,
        health,
        staleness: Staleness::new(budget),
        local_readiness: LocalReadiness::new(args.kube_proxy, Instant::now()),
        peers: BTreeMap::new(),
        peer_problems: Vec::new(),
        peers_known: false,
        refused: BTreeMap::new(),
        waiting: BTreeSet::new(),
        quarantined: BTreeMap::new(),
        failed: RetryQueue::default(),
        forecast: Forecast::default(),
        restored,
        pods: NodePods::new(args.pods_dir(), unbalanced),
        sockets,
        audit: Audit::new(Duration::from_secs(args.audit_interval_seconds), Instant::now()),
        metrics,
    })
}

async fn watch_peers(mut peers: Peers, folder: PathBuf, local: PathBuf, mesh: mpsc::Sender<Input>) {
    let mut folder = FolderWatch::new(&folder);
    let mut local = FolderWatch::shallow(local.parent().unwrap_or(&local));
    let troubled = peers.troubled();
    loop {
        let (problems, known) = peers.reconcile().await;
        for problem in &problems {
            tracing::warn!(problem, "peer files");
        }
        if mesh.send(Input::PeersRead { problems, known }).await.is_err() {
            return;
        }
        tokio::select! {
            () = folder.changed() => {}
            () = local.changed() => {}
            () = troubled.notified() => {}
        }
    }
}

async fn watch_readiness(mesh: &mpsc::Sender<Input>, health: &Health) {
    let mut was_ready = false;
    while let Some(reasons) = ask(mesh, unready).await {
        if reasons.is_empty() != was_ready {
            was_ready = reasons.is_empty();
            tracing::info!(ready = was_ready, ?reasons, "readiness");
        }
        health.set(reasons);
        tokio::time::sleep(READINESS).await;
    }
}

/// The first cgroup2 mount, at its own place or under a hybrid hierarchy.
fn first_cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut fields| {
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(point).to_owned())
    })
}
