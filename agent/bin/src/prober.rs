//! The task that probes: apart from the mesh's, so that neither waits for the other. A large list must not look like a dead
//! network, nor keep us from answering.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_balance::{HealthChange, Probes, Report, Target, targets};
use mesh_core::{Core, ProbeNodes};
use mesh_follow::{PeerCommand, Status};
use mesh_model::ClusterName;
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};

use crate::{
    follower::Follower,
    probe::{EchoSocket, Heard, ProbeSocket},
};

/// What the prober is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// A cluster is followed: how to ask its etcd, and to hear of the answer.
    Follow(ClusterName, Etcd),
    /// A cluster is followed no more.
    Forget(ClusterName),
    /// The nodes of a cluster to probe.
    Probe(ClusterName, Vec<Target>),
    /// A former life cut this cluster.
    IsCut(ClusterName),
}

/// Whoever follows an etcd.
#[derive(Clone, Debug)]
pub(crate) struct Etcd {
    pub(crate) commands: mpsc::Sender<PeerCommand>,
    pub(crate) status: watch::Receiver<Status>,
}

/// How the mesh's task sees the prober.
#[derive(Debug)]
pub(crate) struct Prober {
    orders: mpsc::UnboundedSender<Order>,
    changes: mpsc::UnboundedReceiver<HealthChange>,
    report: watch::Receiver<Arc<Report>>,
}

/// The prober itself.
pub(crate) struct ProberTask {
    probes: Probes,
    socket: Option<ProbeSocket>,
    etcds: BTreeMap<ClusterName, Etcd>,
    orders: mpsc::UnboundedReceiver<Order>,
    changes: mpsc::UnboundedSender<HealthChange>,
    report: watch::Sender<Arc<Report>>,
    reported: Instant,
}

/// How often the report is made anew while there are probes, beside when something changed.
const REPORT: Duration = Duration::from_secs(1);

impl Prober {
    /// A prober, and what must run for it.
    pub(crate) fn new(own: ClusterName, socket: Option<ProbeSocket>) -> (Self, ProberTask) {
        let (order, orders) = mpsc::unbounded_channel();
        let (change, changes) = mpsc::unbounded_channel();
        let now = Instant::now();
        let probes = Probes::new(own, now);
        let (report_sender, report) = watch::channel(Arc::new(probes.report()));
        let task = ProberTask {
            probes,
            socket,
            etcds: BTreeMap::new(),
            orders,
            changes: change,
            report: report_sender,
            reported: now,
        };
        (Self { orders: order, changes, report }, task)
    }

    pub(crate) fn order(&self, order: Order) {
        // It ends with the process.
        let _ = self.orders.send(order);
    }

    /// A cluster is followed.
    pub(crate) fn follow(&self, name: &ClusterName, follower: &Follower) {
        let (commands, status) = (follower.commands.clone(), follower.status.clone());
        self.order(Order::Follow(name.clone(), Etcd { commands, status }));
    }

    /// A cluster is no longer followed.
    pub(crate) fn forget(&self, name: &ClusterName) {
        self.order(Order::Forget(name.clone()));
    }

    /// The nodes of a cluster that may be probed.
    pub(crate) fn probe(&self, core: &Core, nodes: ProbeNodes) {
        let me = format!("{}/{}", core.local(), core.node());
        let ProbeNodes { cluster, nodes, in_use } = nodes;
        let all = nodes.iter().map(|(name, ips)| (name.as_ref(), ips.as_slice()));
        let targets = targets(&me, &cluster, all, &in_use);
        self.order(Order::Probe(cluster, targets));
    }

    /// What became of somebody. Cancel-safe.
    pub(crate) async fn change(&mut self) -> HealthChange {
        match self.changes.recv().await {
            Some(change) => change,
            None => pending().await,
        }
    }

    /// What more there is to say by now.
    pub(crate) fn more(&mut self) -> impl Iterator<Item = HealthChange> {
        std::iter::from_fn(|| self.changes.try_recv().ok())
    }

    /// How everything stood lately.
    pub(crate) fn report(&self) -> Arc<Report> {
        Arc::clone(&self.report.borrow())
    }
}

impl ProberTask {
    /// Probes until nobody gives orders any more.
    pub(crate) async fn run(mut self) {
        loop {
            let due = self.probes.next_timeout();
            let first = tokio::select! {
                biased;
                heard = hear(self.socket.as_ref()) => heard,
                order = self.orders.recv() => match order {
                    Some(order) => {
                        self.take(order);
                        Vec::new()
                    }
                    None => return,
                },
                () = until(due) => Vec::new(),
            };
            // Whatever was answered by now is known before anybody is missed.
            let now = Instant::now();
            let more = self.socket.as_ref().map(ProbeSocket::heard).unwrap_or_default();
            for heard in first.into_iter().chain(more) {
                match heard {
                    Heard::Answer(probe) => self.probes.answered(probe, now),
                    Heard::Refusal(probe) => self.probes.refused(probe, now),
                }
            }
            while let Ok(order) = self.orders.try_recv() {
                self.take(order);
            }
            self.ask_etcds(now);
            let probes = self.probes.due(now, number);
            if let Some(socket) = &self.socket {
                probes.into_iter().for_each(|probe| socket.ask(probe));
            }
            self.tell(now);
        }
    }

    fn take(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Follow(name, etcd) => {
                self.etcds.insert(name, etcd);
            }
            Order::Forget(name) => {
                self.etcds.remove(&name);
                self.probes.remove(&name, now);
            }
            Order::Probe(name, targets) => self.probes.set_targets(&name, &targets, now),
            Order::IsCut(name) => self.probes.inherit_cut(&name),
        }
    }

    fn ask_etcds(&mut self, now: Instant) {
        for name in self.probes.etcds_awaited() {
            let (connected, answers) = self.etcd(&name);
            self.probes.etcd_says(&name, connected, answers, now);
        }
        for name in self.probes.etcds_to_ask(now) {
            let (connected, answers) = self.etcd(&name);
            let commands = self.etcds.get(&name).map(|etcd| &etcd.commands);
            // One that is too busy to be asked is asked the next time.
            if !connected || commands.is_some_and(|asks| asks.try_send(PeerCommand::Ask).is_ok()) {
                self.probes.etcd_asked(&name, connected, answers, now);
            }
        }
    }

    fn etcd(&self, name: &ClusterName) -> (bool, u64) {
        let Some(etcd) = self.etcds.get(name) else { return (false, 0) };
        let status = etcd.status.borrow();
        (status.connected, status.answers)
    }

    fn tell(&mut self, now: Instant) {
        let due = now.saturating_duration_since(self.reported) >= REPORT;
        if self.probes.take_news() || due {
            self.report.send_replace(Arc::new(self.probes.report()));
            self.reported = now;
        }
        for change in self.probes.take_changes() {
            let _ = self.changes.send(change);
        }
    }
}

/// Answers whoever asks whether we are there.
pub(crate) async fn echo(port: u16) {
    match EchoSocket::bind(port).await {
        Ok(socket) => loop {
            let error = socket.serve().await;
            tracing::warn!(%error, "the probe echo");
            tokio::time::sleep(REPORT).await;
        },
        Err(error) => {
            tracing::warn!(%error, port, "no probe echo: others cannot tell that this node is there");
        }
    }
    pending().await
}

async fn hear(socket: Option<&ProbeSocket>) -> Vec<Heard> {
    if let Some(socket) = socket {
        match socket.hear().await {
            Ok(heard) => return heard,
            Err(error) => tracing::warn!(%error, "probes cannot be received"),
        }
    }
    pending().await
}

/// Waits for a time; for ever where there is none.
pub(crate) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

/// A number that nobody can guess well enough to answer in another's place.
fn number() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
