//! The task that makes routes, and keeps the node's own masquerading off traffic to other clusters.

use std::time::Duration;

use ipnet::IpNet;
use mesh_core::Prune;
use mesh_model::lb::{Route, RouteDelta};
use mesh_routes::{KernelRoutes, Masquerade, RouteTable};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

/// What the driver sees of it.
pub(crate) struct Routes {
    orders: mpsc::UnboundedSender<Order>,
    report: watch::Receiver<Report>,
}

/// How routes are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// All that are wanted, each with why it is not there.
    pub(crate) routes: Vec<(Route, Option<String>)>,
    /// Ranges that several nodes claim.
    pub(crate) contested: Vec<IpNet>,
    /// Why packets may lose their source address.
    pub(crate) masquerade: Option<String>,
}

enum Order {
    Routes(Vec<RouteDelta>),
    Prune(Prune),
}

/// The task.
pub(crate) struct RoutesTask {
    orders: mpsc::UnboundedReceiver<Order>,
    report: watch::Sender<Report>,
    table: RouteTable,
    kernel: KernelRoutes,
    masquerade: Masquerade,
    problem: Option<String>,
    pod_cidrs: Vec<IpNet>,
}

/// How often the kernel's routes are compared with the wanted ones although nothing happened.
const AUDIT: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);

impl Routes {
    /// A handle, and what must run for it.
    pub(crate) fn new(
        table: RouteTable,
        kernel: KernelRoutes,
        pod_cidrs: Vec<IpNet>,
    ) -> (Self, RoutesTask) {
        let (orders, receiver) = mpsc::unbounded_channel();
        let (report, report_receiver) = watch::channel(Report::default());
        let masquerade = Masquerade::default();
        let task = RoutesTask {
            orders: receiver,
            report,
            table,
            kernel,
            masquerade,
            problem: None,
            pod_cidrs,
        };
        (Self { orders, report: report_receiver }, task)
    }

    pub(crate) fn send(&self, routes: Vec<RouteDelta>) {
        if !routes.is_empty() {
            let _ = self.orders.send(Order::Routes(routes));
        }
    }

    pub(crate) fn prune(&self, prune: Prune) {
        let _ = self.orders.send(Order::Prune(prune));
    }

    pub(crate) fn report(&self) -> watch::Ref<'_, Report> {
        self.report.borrow()
    }
}

impl RoutesTask {
    /// Makes routes until nobody wants any.
    pub(crate) async fn run(mut self) {
        let mut audit = interval(AUDIT);
        let mut retry = interval(RETRY);
        for timer in [&mut audit, &mut retry] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    None => return,
                    Some(order) => {
                        self.take(order);
                        while let Ok(order) = self.orders.try_recv() {
                            self.take(order);
                        }
                    }
                },
                _ = audit.tick() => match self.kernel.list().await {
                    Ok(found) => self.table.observe(found),
                    Err(error) => tracing::warn!(%error, "routes cannot be compared"),
                },
                _ = retry.tick() => {
                    if self.problem.is_none() && !self.table.has_failed() {
                        continue;
                    }
                }
            }
            self.carry_out().await;
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Routes(deltas) => deltas.into_iter().for_each(|delta| self.table.apply(delta)),
            Order::Prune(prune) => self.table.prune(|range| prune.route(range)),
        }
    }

    async fn carry_out(&mut self) {
        for op in self.table.plan() {
            let result = self.kernel.execute(op).await.map_err(|error| error.to_string());
            if let Err(reason) = &result {
                tracing::warn!(?op, reason, "a route cannot be made");
            }
            self.table.done(op, result);
        }
        let ranges: Vec<IpNet> = self.table.ranges().into_iter().collect();
        self.problem =
            self.masquerade.apply(&self.pod_cidrs, &ranges).await.err().map(|e| e.to_string());
        let routes = self.table.routes();
        self.report.send_replace(Report {
            routes: routes.map(|(r, failure)| (r.clone(), failure.map(str::to_owned))).collect(),
            contested: self.table.contested().copied().collect(),
            masquerade: self.problem.clone(),
        });
    }
}
