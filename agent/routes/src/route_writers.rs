//! The path to other clusters' pods: the wanted state goes to two writers, each a task of its own, and nothing waits
//! for them.

use ipnet::IpNet;
use mesh_model::lb::{Route, RouteDelta};
use mesh_reconcile::{Options, Status, Writer};
use tokio::sync::mpsc;

use crate::{
    Exempt, ExemptSet, MasqueradeError, MasqueradeTarget, NextHop, RouteChange, RouteError,
    RouteEvent, RouteState, RouteTable, RouteTarget,
};

/// Wanted routes, and their writers.
#[derive(Debug)]
pub struct RouteWriters {
    table: RouteTable,
    routes: Writer<IpNet, NextHop>,
    /// The kernel is to have routes: the network does not lead to pods by itself.
    makes_routes: bool,
    exempt: Writer<Exempt, ()>,
    events: mpsc::UnboundedReceiver<RouteEvent>,
}

/// Why routes cannot be written at all.
#[derive(Debug, thiserror::Error)]
pub enum RouteWritersError {
    /// No routes.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// No nftables.
    #[error(transparent)]
    Masquerade(#[from] MasqueradeError),
}

// === impl RouteWriters ===

impl RouteWriters {
    /// Starts the writers. Packets from `pods` to the mesh keep their source. With `makes_routes` off those of a previous run
    /// go as their clusters are listed, and no new ones come.
    pub fn open(pods: &[IpNet], makes_routes: bool, seed: u64) -> Result<Self, RouteWritersError> {
        let (sender, events) = mpsc::unbounded_channel();
        let target = RouteTarget::open(sender)?;
        let (routes, _) = Writer::spawn("routes", target, RouteTarget::options(seed));
        let target = MasqueradeTarget::open()?;
        let (exempt, _) = Writer::spawn("masquerade", target, Options::default());
        let pods =
            pods.iter().map(|range| (Exempt { set: ExemptSet::Pods, range: *range }, Some(())));
        exempt.want(pods.collect());
        Ok(Self { table: RouteTable::default(), routes, makes_routes, exempt, events })
    }

    /// Takes a change of the ranges that clusters' nodes lead to.
    pub fn apply(&mut self, delta: RouteDelta) {
        let Some(change) = self.table.apply(delta) else { return };
        if self.makes_routes {
            self.routes.want(vec![change.route()]);
        }
        let exempt = match change {
            RouteChange::Claimed { range, .. } => (range, Some(())),
            RouteChange::Released { range } => (range, None),
            RouteChange::Moved { .. } => return,
        };
        let (range, wanted) = exempt;
        self.exempt.want(vec![(Exempt { set: ExemptSet::Mesh, range }, wanted)]);
    }

    /// State that a previous run left may be pruned if this returns true for its range.
    pub fn may_prune(&self, may: impl Fn(&IpNet) -> bool + Clone + Send + Sync + 'static) {
        self.routes.may_prune(may.clone());
        self.exempt.may_prune(move |exempt| exempt.set == ExemptSet::Mesh && may(&exempt.range));
    }

    /// The outcome of a route.
    ///
    /// Cancel safety: it is received or stays in the channel.
    pub async fn event(&mut self) -> Option<RouteEvent> {
        self.events.recv().await
    }

    /// Records the outcome of a route.
    pub fn report(&mut self, event: RouteEvent) {
        self.table.report(event);
    }

    /// The routes that are wanted, and their state.
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Problems for an operator. `answers` returns whether probes of a route's next hop are answered, or soon will be:
    /// then the network leads there by itself.
    pub fn problems(&self, answers: impl Fn(&Route) -> bool) -> Vec<String> {
        let mut problems: Vec<String> = Vec::new();
        let is_problem = |(route, state): &(&Route, &RouteState)| {
            **state != RouteState::OffLink || !answers(route)
        };
        let mut not_in_place = self.table.not_in_place().filter(is_problem);
        if let Some((route, state)) = not_in_place.next() {
            let more = match not_in_place.count() {
                0 => String::new(),
                more => format!(", and {more} more are not installed"),
            };
            let (range, node, cluster) = (route.range, &route.node, &route.cluster);
            let reason = reason(state);
            problems
                .push(format!("route to {range} ({node} of cluster {cluster}): {reason}{more}"));
        }
        for (range, claims) in self.table.contested() {
            let nodes: Vec<String> =
                claims.iter().map(|route| format!("{}/{}", route.cluster, route.node)).collect();
            problems
                .push(format!("several nodes claim the pod range {range}: {}", nodes.join(", ")));
        }
        let exempt = self.exempt.status().borrow().clone();
        if let Some(problem) = trouble(&exempt) {
            problems.push(format!(
                "packets to other clusters may lose their source address: {problem}"
            ));
        }
        problems.extend(self.routes.status().borrow().last_error.clone());
        problems
    }

    /// How much of what other programs changed was repaired since the start, by kind.
    pub fn repairs(&self) -> Vec<(u64, &'static str)> {
        [("routes", self.routes.status()), ("masquerade exemptions", self.exempt.status())]
            .map(|(what, status)| (status.borrow().repairs, what))
            .into_iter()
            .filter(|(repairs, _)| *repairs > 0)
            .collect()
    }
}

/// Why a route is not in place.
pub fn reason(state: &RouteState) -> &str {
    match state {
        RouteState::InPlace => "in place",
        RouteState::OffLink => {
            "the next hop is not on a link of this node, and no probe of it is answered"
        }
        RouteState::Failed { reason } => reason,
    }
}

fn trouble(status: &Status) -> Option<String> {
    let failing = status.reasons.first().map(|reason| reason.failure.to_string());
    failing.or_else(|| status.last_error.clone())
}
