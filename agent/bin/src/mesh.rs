//! The agent's one place where everything meets: what clusters say, the kernel's tables, the routes.
//!
//! One task owns all of it, so nothing is locked and everything happens in one order. It may be stopped anywhere: the
//! kernel keeps what was written, and the next life begins from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use mesh_dataplane::{KernelMaps, Occupancy, Programs, Tables};
use mesh_decide::{Probe, Probes, Services, decide};
use mesh_follow::{PeerCommand, PeerEvent, Refusal, Status};
use mesh_merge::{Delta, Merge};
use mesh_model::{
    ClusterId, ClusterName, RecordKind, ServiceName,
    lb::{Backend, Change, Frontend, RouteDelta, ServiceDelta},
};
use mesh_routes::{KernelRoutes, Masquerade, RouteTable};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use crate::{
    metrics::{Metrics, PeerLabel},
    own_cgroup::Bypass,
    peers::Handle,
    probe::ProbeSocket,
};

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
    pub(crate) programs: Programs,
    pub(crate) tables: Tables<KernelMaps>,
    pub(crate) routes: RouteTable,
    pub(crate) kernel_routes: KernelRoutes,
    pub(crate) masquerade: Masquerade,
    pub(crate) masquerade_problem: Option<String>,
    /// The agent's own sockets, which the programs leave alone.
    pub(crate) bypass: Bypass,
    pub(crate) probes: Probes,
    /// Nodes became known: they are probed now, not when the next second begins.
    pub(crate) probe_now: bool,
    pub(crate) peers: BTreeMap<ClusterName, Handle>,
    pub(crate) peer_problems: Vec<String>,
    /// The folder was read once: the peers are all there are.
    pub(crate) peers_known: bool,
    /// Records of each cluster that its grant does not cover.
    pub(crate) refused: BTreeMap<ClusterName, (u64, String)>,
    /// Changes that the tables had no room for.
    pub(crate) failed: BTreeMap<Change, String>,
    pub(crate) metrics: Metrics,
}

/// How often what failed is tried again, nodes are probed and metrics are set.
const TICK: Duration = Duration::from_secs(1);
/// How often the kernel's routes are compared with the wanted ones although nothing happened.
const AUDIT: Duration = Duration::from_secs(30);

/// What `mesh-decide` asks about services.
struct View<'a>(&'a Merge);

impl Services for View<'_> {
    fn frontends(&self, service: &ServiceName) -> impl Iterator<Item = (Frontend, &str)> {
        self.0.frontends_of(service)
    }

    fn backends(&self, service: &ServiceName) -> impl Iterator<Item = (Backend, &str)> {
        self.0.backends_of(service)
    }
}

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
    pub(crate) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        socket: Option<ProbeSocket>,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut audit = interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.settle().await;
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => {
                        self.take(input).await;
                        if std::mem::take(&mut self.probe_now) {
                            self.probe(socket.as_ref()).await;
                        }
                    }
                    None => return,
                },
                _ = tick.tick() => self.tick(socket.as_ref()).await,
                _ = audit.tick() => {
                    self.audit_bypass();
                    self.audit_routes().await;
                }
                probe = answer(socket.as_ref()) => self.probes.answered(probe, Instant::now()),
            }
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Peer(name, events) => {
                events.into_iter().for_each(|event| self.peer_event(&name, event));
                self.settle().await;
            }
            Input::SetPeer(name, handle) => {
                if name != self.own {
                    self.merge.set_peer(&name, handle.claims.clone());
                }
                self.peers.insert(name, handle);
            }
            Input::RemovePeer(name) => {
                tracing::info!(peer = %name, "removed");
                self.merge.remove_peer(&name);
                self.peers.remove(&name);
                self.refused.remove(&name);
                self.probes.set_nodes(&name, std::iter::empty());
                self.settle().await;
                self.release_held();
            }
            Input::PeersRead { problems, known } => {
                self.peer_problems = problems;
                self.peers_known = known;
                self.prune(Instant::now());
                self.settle().await;
            }
            Input::Query(query) => (query.0)(self),
        }
    }

    fn peer_event(&mut self, name: &ClusterName, event: PeerEvent) {
        match event {
            PeerEvent::Connected => tracing::info!(peer = %name, "connected"),
            PeerEvent::Disconnected => {
                tracing::warn!(peer = %name, "disconnected; what it said stays")
            }
            PeerEvent::Refused(refusal) => tracing::warn!(peer = %name, %refusal, "refused"),
            PeerEvent::Rejected(reason) => {
                tracing::warn!(peer = %name, reason, "a record was rejected")
            }
            PeerEvent::Config(config) => {
                tracing::info!(peer = %name, id = %config.id, "accepted");
                let before = self.known_ids();
                match self.merge.set_id(name, config.id) {
                    Ok(()) if before.is_subset(&self.known_ids()) => {}
                    Ok(()) => self.release_held(),
                    Err(in_use) => {
                        let refusal = Refusal::IdInUse { id: in_use.id, other: in_use.other };
                        if let Some(handle) = self.peers.get(name) {
                            let _ = handle.commands.try_send(PeerCommand::Hold(refusal));
                        }
                    }
                }
            }
            PeerEvent::Record(record) => {
                if let Err(refused) = self.merge.apply(name, record) {
                    tracing::warn!(peer = %name, %refused, "a record was refused");
                    let (count, last) = self.refused.entry(name.clone()).or_default();
                    *count += 1;
                    *last = refused.to_string();
                }
            }
        }
    }

    /// A number is free again: whoever waited for it may have it.
    fn release_held(&self) {
        for handle in self.peers.values() {
            let _ = handle.commands.try_send(PeerCommand::Release);
        }
    }

    /// Brings the kernel to what the merge says now.
    async fn settle(&mut self) {
        let now = Instant::now();
        for delta in self.merge.take_deltas() {
            match delta {
                Delta::Service(delta) => self.service(&delta, now),
                Delta::Route(delta) => self.route(delta),
                Delta::Confirmed { cluster, kind, .. } => {
                    tracing::info!(peer = %cluster, ?kind, "told in full");
                    self.probe_now |= kind == RecordKind::Node;
                    self.prune(now);
                }
            }
        }
        self.carry_out_routes().await;
    }

    fn service(&mut self, delta: &ServiceDelta, now: Instant) {
        for change in decide(delta, &View(&self.merge)) {
            self.apply(change, now);
        }
    }

    fn apply(&mut self, change: Change, now: Instant) {
        match self.tables.apply(change, now) {
            Ok(()) => {
                self.metrics.changes.inc();
                self.failed.remove(&change);
                // What would have been added must not be tried again once it is to be removed.
                match change {
                    Change::RemoveFrontend(gone) => {
                        self.failed.retain(|failed, _| frontend_of(failed) != gone)
                    }
                    Change::RemoveBackend(frontend, backend) => {
                        self.failed.remove(&Change::AddBackend(frontend, backend));
                    }
                    Change::AddFrontend(_) | Change::AddBackend(..) => {}
                }
            }
            Err(error) => {
                tracing::error!(?change, %error, "the kernel's tables do not take a change; trying again");
                self.failed.insert(change, error.to_string());
            }
        }
    }

    fn route(&mut self, delta: RouteDelta) {
        let (RouteDelta::Added(route) | RouteDelta::Removed(route)) = &delta;
        let own = route.cluster == self.own;
        if own && (!self.own_routes || route.node == self.node) {
            return;
        }
        self.routes.apply(delta);
    }

    /// Lets go of what a former life left in the kernel, as far as the clusters that it is of have told everything.
    fn prune(&mut self, now: Instant) {
        let confirmed = |kind| -> BTreeSet<ClusterId> {
            let clusters = self.merge.clusters();
            clusters
                .filter(|(name, _)| self.merge.is_confirmed(name, kind))
                .map(|(_, id)| id)
                .collect()
        };
        let all = |kind| {
            self.peers_known && self.peers.keys().all(|name| self.merge.is_confirmed(name, kind))
        };
        let own_told = self.merge.is_confirmed(&self.own, RecordKind::Service);
        let (services, all_services) = (confirmed(RecordKind::Service), all(RecordKind::Service));
        let (all_nodes, known) = (all(RecordKind::Node), self.known_ids());
        // A backend of a number that nobody has is of a peer that is gone, once all peers' numbers are known.
        self.tables.prune_backends(
            |id| services.contains(&id) || (all_services && !known.contains(&id)),
            now,
        );
        if own_told && let Err(error) = self.tables.prune_frontends(now) {
            tracing::error!(%error, "frontends of a former life cannot be removed");
        }
        let merge = &self.merge;
        let told = self.peers.iter().filter(|(name, _)| merge.is_confirmed(name, RecordKind::Node));
        let told: Vec<IpNet> = told
            .filter_map(|(_, handle)| handle.claims.as_ref())
            .flat_map(|c| c.pod_cidrs.clone())
            .collect();
        self.routes.prune(|range| all_nodes || told.iter().any(|granted| granted.contains(range)));
    }

    fn known_ids(&self) -> BTreeSet<ClusterId> {
        self.merge.clusters().map(|(_, id)| id).collect()
    }

    async fn carry_out_routes(&mut self) {
        let ops = self.routes.plan();
        for op in ops {
            let result = self.kernel_routes.execute(op).await.map_err(|error| error.to_string());
            if let Err(reason) = &result {
                tracing::warn!(?op, reason, "a route cannot be made");
            }
            self.routes.done(op, result);
        }
        let ranges: Vec<IpNet> = self.routes.ranges().into_iter().collect();
        self.masquerade_problem =
            self.masquerade.apply(&self.pod_cidrs, &ranges).await.err().map(|e| e.to_string());
        if let Some(problem) = &self.masquerade_problem {
            tracing::warn!(problem, "packets to other clusters may lose their source address");
        }
    }

    /// Whoever has joined the agent's cgroup since is balanced again.
    fn audit_bypass(&mut self) {
        let bypass = Bypass::find();
        if bypass == self.bypass {
            return;
        }
        tracing::warn!(before = ?self.bypass, now = ?bypass, "the agent's own sockets");
        match self.programs.set_bypass(bypass.cgroup.as_slice()) {
            Ok(()) => self.bypass = bypass,
            Err(error) => tracing::warn!(%error, "the agent's own sockets"),
        }
    }

    async fn audit_routes(&mut self) {
        match self.kernel_routes.list().await {
            Ok(found) => self.routes.observe(found),
            Err(error) => tracing::warn!(%error, "routes cannot be compared"),
        }
        self.carry_out_routes().await;
    }

    async fn tick(&mut self, socket: Option<&ProbeSocket>) {
        let now = Instant::now();
        let failed: Vec<Change> = self.failed.keys().copied().collect();
        failed.into_iter().for_each(|change| self.apply(change, now));
        self.probe(socket).await;
        self.set_metrics();
    }

    /// Sends the probes that are due.
    async fn probe(&mut self, socket: Option<&ProbeSocket>) {
        for name in self.peers.keys() {
            // By IPv4 where there is one.
            let address =
                |ips: &[std::net::IpAddr]| ips.iter().min_by_key(|ip| ip.is_ipv6()).copied();
            let nodes =
                self.merge.nodes(name).filter(|(node, _)| *name != self.own || *node != self.node);
            let nodes = nodes.filter_map(|(node, ips)| Some((node, address(ips)?)));
            self.probes.set_nodes(name, nodes);
        }
        if let Some(socket) = socket {
            for probe in self.probes.due(Instant::now(), rand_nonce) {
                socket.ask(probe).await;
            }
        }
    }

    fn set_metrics(&self) {
        let count = |n: usize| n.try_into().unwrap_or(u64::MAX);
        for (name, handle) in &self.peers {
            let label = PeerLabel { peer: name.to_string() };
            let status = handle.status.borrow();
            let counts = self.merge.counts(name);
            let records = counts.nodes + counts.identities + counts.addresses + counts.services;
            self.metrics.peer_ready.get_or_create(&label).set(status.is_synced().into());
            self.metrics.peer_reconnects.get_or_create(&label).set(status.reconnects);
            self.metrics
                .peer_rejected
                .get_or_create(&label)
                .set(status.rejected + self.refused_count(name));
            self.metrics.peer_records.get_or_create(&label).set(count(records));
        }
        let held = self.tables.held();
        self.metrics.held_frontends.set(count(held.frontends));
        self.metrics.held_backends.set(count(held.backends));
        self.metrics.failed_changes.set(count(self.failed.len()));
        self.metrics.routes.set(count(self.routes.routes().count()));
        self.metrics
            .failed_routes
            .set(count(self.routes.routes().filter(|(_, failure)| failure.is_some()).count()));
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
    pub(crate) fn occupancy(&self) -> Occupancy {
        self.tables.occupancy()
    }
}

async fn answer(socket: Option<&ProbeSocket>) -> Probe {
    if let Some(socket) = socket {
        match socket.answer().await {
            Ok(probe) => return probe,
            Err(error) => tracing::warn!(%error, "the probe echo"),
        }
    }
    std::future::pending().await
}

fn frontend_of(change: &Change) -> Frontend {
    match change {
        Change::AddFrontend(frontend)
        | Change::RemoveFrontend(frontend)
        | Change::AddBackend(frontend, _)
        | Change::RemoveBackend(frontend, _) => *frontend,
    }
}

/// A number that nobody can guess well enough to answer in another's place.
fn rand_nonce() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
