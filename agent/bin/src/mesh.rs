//! The agent's one place where everything meets: what clusters say, the kernel's tables, the routes.
//!
//! One task owns all of it, so nothing is locked and everything happens in one order. It may be stopped anywhere: the
//! kernel keeps what was written, and the next life begins from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use mesh_balance::Balancer;
use mesh_dataplane::{Forecast, KernelMaps, Level, PinLock, Programs, Tables};
use mesh_follow::{PeerCommand, PeerEvent, Refusal, Status};
use mesh_merge::{Delta, Merge};
use mesh_model::ClusterName;
use mesh_pods::AttachmentKey;
use mesh_routes::{KernelRoutes, Masquerade, RouteTable};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use crate::{metrics::Metrics, own_cgroup::Bypass, peers::Handle, prober::until};

mod audit;
mod decisions;
mod health;
mod local_readiness;
mod metrics_collect;
mod pods;
mod program_upgrade;
mod quarantine;
mod restored;
mod retry_queue;
mod sockets;
mod staleness;
mod tables;

pub(crate) use audit::Audit;
pub(crate) use health::Health;
pub(crate) use local_readiness::LocalReadiness;
pub(crate) use pods::{NodePods, PodAnswer};
pub(crate) use program_upgrade::ProgramUpgrade;
pub(crate) use quarantine::Lifted;
pub(crate) use restored::RestoredState;
pub(crate) use retry_queue::{RetryQueue, flag_of};
pub(crate) use sockets::Sockets;
pub(crate) use staleness::Staleness;

/// What the mesh's task is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// What a cluster says.
    Peer(ClusterName, Vec<PeerEvent>),
    /// A cluster is followed, for the first time or otherwise than before.
    SetPeer(ClusterName, Handle),
    /// A cluster is followed no more.
    RemovePeer(ClusterName),
    /// The peer files were read.
    PeersRead {
        /// What is wrong with them.
        problems: Vec<String>,
        /// Whoever is not followed by now is no peer.
        known: bool,
    },
    /// A peer that was over its budget is heard again.
    LiftQuarantine(ClusterName, oneshot::Sender<Lifted>),
    /// The folder of attachments may have changed.
    PodsChanged,
    /// An attachment came or went; the answer comes when it is known who it is.
    LookAtPod(AttachmentKey, oneshot::Sender<PodAnswer>),
    /// Somebody wants to know something.
    Query(Query),
}

/// A look at the mesh, answered between two changes.
pub(crate) struct Query(pub(crate) Box<dyn FnOnce(&Mesh) + Send>);

/// Everything.
pub(crate) struct Mesh {
    pub(crate) own: ClusterName,
    pub(crate) node: String,
    pub(crate) own_routes: bool,
    pub(crate) pod_cidrs: Vec<IpNet>,
    pub(crate) merge: Merge,
    pub(crate) balancer: Balancer,
    /// How clusters are may be otherwise than the balancer was told.
    pub(crate) clusters_moved: bool,
    /// Somebody said something of nodes: it may say where backends are.
    pub(crate) nodes_moved: bool,
    /// Other routes are wanted than those that were carried out.
    pub(crate) routes_moved: bool,
    pub(crate) programs: Programs,
    pub(crate) _pin_lock: PinLock,
    /// Programs of another release are still in place.
    pub(crate) program_upgrade: Option<ProgramUpgrade>,
    pub(crate) tables: Tables<KernelMaps>,
    pub(crate) routes: RouteTable,
    pub(crate) kernel_routes: KernelRoutes,
    pub(crate) masquerade: Masquerade,
    pub(crate) masquerade_problem: Option<String>,
    /// The agent's own sockets, which the programs leave alone.
    pub(crate) bypass: Bypass,
    pub(crate) health: Health,
    pub(crate) staleness: Staleness,
    pub(crate) local_readiness: LocalReadiness,
    pub(crate) peers: BTreeMap<ClusterName, Handle>,
    pub(crate) peer_problems: Vec<String>,
    /// The folder was read once: the peers are all there are.
    pub(crate) peers_known: bool,
    /// Records of each cluster that its grant does not cover.
    pub(crate) refused: BTreeMap<ClusterName, (u64, String)>,
    /// Peers that hold because their number is another's.
    pub(crate) waiting: BTreeSet<ClusterName>,
    /// Peers that were over their budget, and in what.
    pub(crate) quarantined: BTreeMap<ClusterName, String>,
    /// Changes that the tables had no room for.
    pub(crate) failed: RetryQueue,
    /// When there will be no room.
    pub(crate) forecast: Forecast,
    /// What this life found on disk, and leaves there.
    pub(crate) restored: RestoredState,
    pub(crate) pods: NodePods,
    pub(crate) sockets: Sockets,
    pub(crate) audit: Audit,
    pub(crate) metrics: Metrics,
}

/// How often what failed is tried again and metrics are set.
const TICK: Duration = Duration::from_secs(1);
/// How often the kernel's routes are compared with the wanted ones although nothing happened.
const AUDIT: Duration = Duration::from_secs(30);

impl Query {
    /// A look, and where its result will be.
    pub(crate) fn new<T: Send + 'static>(
        look: impl FnOnce(&Mesh) -> T + Send + 'static,
    ) -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        let query = Self(Box::new(move |mesh| {
            let _ = sender.send(look(mesh));
        }));
        (query, receiver)
    }
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Query")
    }
}

impl Mesh {
    /// Takes what comes, until nobody is left to say anything.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut audit = interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.settle().await;
        loop {
            let refresh = self.health.due();
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => return,
                },
                change = self.health.prober.change() => self.take_health(change).await,
                () = until(refresh) => self.refresh_targets(Instant::now()),
                _ = tick.tick() => self.tick().await,
                _ = audit.tick() => {
                    self.audit_bypass();
                    self.audit_routes().await;
                }
            }
        }
    }

    async fn take(&mut self, input: Input) {
        let same = matches!(input, Input::Peer(..) | Input::PodsChanged | Input::LookAtPod(..))
            || matches!(input, Input::Query(_));
        self.clusters_moved |= !same;
        match input {
            Input::Peer(name, events) => {
                events.into_iter().for_each(|event| self.peer_event(&name, event));
                self.settle().await;
            }
            Input::SetPeer(name, handle) => {
                let displaced = match name == self.own {
                    true => None,
                    false => self.merge.set_peer(&name, handle.claims.clone()),
                };
                self.hold_displaced(displaced, &name);
                self.remember(&name, handle.uuid);
                let budget = handle.budget;
                // Its follower is another one, which has not been told to hold.
                self.waiting.remove(&name);
                self.health.follow(&name, &handle);
                let before = self.peers.insert(name.clone(), handle);
                // Somebody has thought about it.
                if before.is_some_and(|before| before.budget != budget) {
                    self.lift_quarantine(&name);
                }
                self.hold_quarantined();
                self.settle().await;
            }
            Input::RemovePeer(name) => {
                tracing::info!(peer = %name, "removed");
                self.merge.remove_peer(&name);
                self.peers.remove(&name);
                self.refused.remove(&name);
                self.quarantined.remove(&name);
                self.waiting.remove(&name);
                self.forget_health(&name);
                self.forget_silence(&name);
                self.renumber_health(Instant::now());
                self.forget_strangers().await;
                self.settle().await;
                self.release_held();
            }
            Input::PeersRead { problems, known } => {
                self.peer_problems = problems;
                self.peers_known = known;
                if known {
                    self.forget_strangers().await;
                }
                self.prune(Instant::now());
                self.settle().await;
            }
            Input::LiftQuarantine(name, answer) => {
                let _ = answer.send(self.lift_quarantine(&name));
            }
            Input::PodsChanged => self.scan_pods(),
            Input::LookAtPod(key, answer) => self.look_at_pod(key, answer),
            Input::Query(query) => (query.0)(self),
        }
    }

    fn peer_event(&mut self, name: &ClusterName, event: PeerEvent) {
        self.clusters_moved |= !matches!(event, PeerEvent::Record(_) | PeerEvent::Rejected(_));
        match event {
            PeerEvent::Connected => tracing::info!(peer = %name, "connected"),
            PeerEvent::Disconnected => {
                tracing::warn!(peer = %name, "disconnected; what it said stays")
            }
            PeerEvent::Refused(Refusal::OverBudget(reason)) => self.quarantine(name, reason),
            PeerEvent::Refused(refusal) => tracing::warn!(peer = %name, %refusal, "refused"),
            PeerEvent::Rejected(reason) => {
                tracing::warn!(peer = %name, reason, "a record was rejected");
                // Counted where it was rejected; the last reason is that of either kind.
                self.refused.entry(name.clone()).or_default().1 = reason;
            }
            // On its way when it was told to hold.
            PeerEvent::Config(_) | PeerEvent::Record(_) if self.quarantined.contains_key(name) => {}
            PeerEvent::Config(config) => {
                tracing::info!(peer = %name, id = %config.id, "accepted");
                let before = self.known_ids();
                self.recognise(name, &config);
                match self.merge.set_id(name, config.id) {
                    Ok(()) => {
                        self.renumber_health(Instant::now());
                        if !before.is_subset(&self.known_ids()) {
                            self.release_held();
                        }
                    }
                    Err(in_use) => {
                        let refusal = Refusal::IdInUse { id: in_use.id, other: in_use.other };
                        if let Some(handle) = self.peers.get(name) {
                            let _ = handle.commands.try_send(PeerCommand::Hold(refusal));
                            self.waiting.insert(name.clone());
                        }
                    }
                }
            }
            PeerEvent::Record(record) => {
                self.heard(name, &record);
                if let Err(refused) = self.merge.apply(name, record) {
                    tracing::warn!(peer = %name, %refused, "a record was refused");
                    let (count, last) = self.refused.entry(name.clone()).or_default();
                    *count += 1;
                    *last = refused.to_string();
                }
                self.check_budget(name);
            }
        }
    }

    /// A peer had the number that another is granted: it waits for one of its own.
    fn hold_displaced(&mut self, displaced: Option<ClusterName>, by: &ClusterName) {
        let granted = || self.merge.granted_id(by);
        let Some((displaced, id)) = displaced.zip(granted()) else { return };
        tracing::warn!(peer = %displaced, %id, granted = %by, "its number is another's by the grant");
        let refusal = Refusal::IdInUse { id, other: by.clone() };
        if let Some(handle) = self.peers.get(&displaced) {
            let _ = handle.commands.try_send(PeerCommand::Hold(refusal));
            self.waiting.insert(displaced);
        }
    }

    /// A number is free again: whoever waited for it may have it.
    fn release_held(&mut self) {
        for name in std::mem::take(&mut self.waiting) {
            // One in quarantine asks for the number when it is let out.
            let released = self.peers.get(&name).filter(|_| !self.quarantined.contains_key(&name));
            let Some(handle) = released else { continue };
            if handle.commands.try_send(PeerCommand::Release).is_err() {
                self.waiting.insert(name);
            }
        }
    }

    /// Brings the kernel to what the merge says now.
    async fn settle(&mut self) {
        let now = Instant::now();
        if self.clusters_moved {
            self.look_at_clusters(now);
        }
        for delta in self.merge.take_deltas() {
            match delta {
                Delta::Service(delta) => {
                    self.sockets.hear(&delta);
                    self.service(&delta, now);
                }
                Delta::Route(delta) => {
                    self.health.refresh();
                    (self.nodes_moved, self.routes_moved) = (true, true);
                    self.route(delta);
                }
                Delta::Pod(pod) => self.hear_of_pod(&pod),
                Delta::Confirmed { cluster, kind, .. } => {
                    tracing::info!(peer = %cluster, ?kind, "told in full");
                    self.health.refresh();
                    self.told_in_full(&cluster);
                    self.prune(now);
                    (self.clusters_moved, self.nodes_moved) = (true, true);
                }
            }
        }
        if std::mem::take(&mut self.clusters_moved) {
            self.look_at_clusters(now);
            self.forget_clusters(now);
        }
        if std::mem::take(&mut self.nodes_moved) {
            self.place_backends(now);
        }
        self.end_sockets_to_the_gone(now);
        self.upgrade_programs(now);
        if std::mem::take(&mut self.routes_moved) {
            self.carry_out_routes().await;
        }
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        self.look_at_clusters(now);
        self.place_backends(now);
        self.apply(self.failed.changes(), now);
        self.hold_quarantined();
        self.upgrade_programs(now);
        if self.masquerade_problem.is_some() || self.routes.has_failed() {
            self.carry_out_routes().await;
        }
        self.forget_foreign_cuts(now);
        self.look_for_silence(now);
        self.tell_own_state(now).await;
        self.keep_for_the_next_life(now).await;
        self.forget_impatient();
        self.audit_tables(now);
        self.observe_occupancy(now);
        self.set_metrics();
    }

    /// How a followed cluster stands.
    pub(crate) fn status(&self, name: &ClusterName) -> Status {
        self.peers.get(name).map(|handle| handle.status.borrow().clone()).unwrap_or_default()
    }

    /// How many of a cluster's records its grant does not cover.
    pub(crate) fn refused_count(&self, name: &ClusterName) -> u64 {
        self.refused.get(name).map_or(0, |(count, _)| *count)
    }

    /// How full the tables are.
    pub(crate) fn levels(&self) -> [Level; 4] {
        self.forecast.levels(&self.tables.occupancy(), Instant::now())
    }
}
