//! Which routes there should be.
//!
//! Architecture invariant: a change costs what it changes, whatever the number of nodes. The outcome of routes is
//! reported to the table, and nothing here waits for it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use mesh_model::{
    ClusterName,
    lb::{Route, RouteDelta},
};
use mesh_reconcile::Class;

use crate::route_target::{NextHop, OtherRoute, RouteEvent};

/// The routes to clusters' pods as their nodes define them, and their state.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// By range, in the order in which they were reported: the first one is wanted.
    wanted: BTreeMap<IpNet, Vec<Route>>,
    /// Ranges that several nodes claim.
    contested: BTreeSet<IpNet>,
    /// The reasons for routes that are not in place.
    states: BTreeMap<IpNet, RouteState>,
    /// Ranges to which another program's route comes first.
    others: BTreeMap<IpNet, OtherRoute>,
}

/// The consequence of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// A range is of the mesh now, over this next hop.
    Claimed {
        /// The pods' range.
        range: IpNet,
        /// The node that leads there.
        next_hop: NextHop,
    },
    /// Another node leads to a range.
    Moved {
        /// The pods' range.
        range: IpNet,
        /// The node that leads there.
        next_hop: NextHop,
    },
    /// A range no longer belongs to the mesh.
    Released {
        /// The pods' range.
        range: IpNet,
    },
}

/// The state of a wanted route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RouteState {
    /// In the kernel, or about to be.
    #[default]
    InPlace,
    /// Its next hop is not on a link of this node. The network may lead there by itself: probes show whether it does.
    OffLink,
    /// The kernel does not take it.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A cluster's routes, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSummary {
    /// All ranges that its nodes lead to.
    pub ranges: usize,
    /// Those whose next hop is not on a link, and answers probes.
    pub routed_by_the_network: usize,
    /// Those whose next hop is not on a link, and does not answer probes.
    pub unreachable: usize,
    /// Those that the kernel refuses.
    pub failed: usize,
    /// One that is unreachable or failed, and why.
    pub example: Option<(IpNet, RouteState)>,
}

// === impl RouteChange ===

impl RouteChange {
    /// The request for a writer of routes.
    pub fn route(&self) -> (IpNet, Option<NextHop>) {
        match *self {
            Self::Claimed { range, next_hop } | Self::Moved { range, next_hop } => {
                (range, Some(next_hop))
            }
            Self::Released { range } => (range, None),
        }
    }
}

// === impl RouteTable ===

impl RouteTable {
    /// Takes a delta; `None` where nothing follows from it.
    pub fn apply(&mut self, delta: RouteDelta) -> Option<RouteChange> {
        match delta {
            RouteDelta::Added(route) => self.add(route),
            RouteDelta::Removed(route) => self.remove(&route),
        }
    }

    fn add(&mut self, route: Route) -> Option<RouteChange> {
        let (range, next_hop) = (route.range, NextHop::Via(route.via));
        let routes = self.wanted.entry(range).or_default();
        if routes.contains(&route) {
            return None;
        }
        routes.push(route);
        if routes.len() > 1 {
            self.contested.insert(range);
            return None;
        }
        Some(RouteChange::Claimed { range, next_hop })
    }

    fn remove(&mut self, route: &Route) -> Option<RouteChange> {
        let range = route.range;
        let routes = self.wanted.get_mut(&range)?;
        let at = routes.iter().position(|other| other == route)?;
        routes.remove(at);
        if routes.len() < 2 {
            self.contested.remove(&range);
        }
        let next = routes.first().map(|next| NextHop::Via(next.via));
        match next {
            None => {
                self.wanted.remove(&range);
                self.others.remove(&range);
                self.states.remove(&range);
                Some(RouteChange::Released { range })
            }
            Some(next_hop) if at == 0 && next_hop != NextHop::Via(route.via) => {
                // The state of the former one means nothing for this one.
                self.states.remove(&range);
                Some(RouteChange::Moved { range, next_hop })
            }
            Some(_) => None,
        }
    }

    /// Takes the outcome of a route. A late report of a range that is no longer wanted is ignored.
    pub fn report(&mut self, event: RouteEvent) {
        match event {
            RouteEvent::Recovered(range) => drop(self.states.remove(&range)),
            RouteEvent::Failed(range, failure) => {
                let state = match failure.class() {
                    Class::Deferred => RouteState::OffLink,
                    Class::Failed | Class::NoRoom(_) => {
                        RouteState::Failed { reason: failure.reason().to_owned() }
                    }
                };
                if self.wanted.contains_key(&range) {
                    self.states.insert(range, state);
                }
            }
            RouteEvent::Other(range, Some(other)) if self.wanted.contains_key(&range) => {
                self.others.insert(range, other);
            }
            RouteEvent::Other(range, _) => drop(self.others.remove(&range)),
        }
    }

    /// The wanted routes, each with its state.
    pub fn routes(&self) -> impl Iterator<Item = (&Route, RouteState)> {
        self.wanted.iter().filter_map(|(range, routes)| {
            Some((routes.first()?, self.states.get(range).cloned().unwrap_or_default()))
        })
    }

    /// Routes that are not in place, with why: costs what it finds.
    pub fn not_in_place(&self) -> impl Iterator<Item = (&Route, &RouteState)> {
        let first = |range| self.wanted.get(range).and_then(|routes| routes.first());
        self.states.iter().filter_map(move |(range, state)| Some((first(range)?, state)))
    }

    /// A cluster's routes. `answers` returns whether probes through a route are answered.
    pub fn summary(
        &self,
        cluster: &ClusterName,
        mut answers: impl FnMut(&Route) -> bool,
    ) -> RouteSummary {
        let of_cluster =
            |routes: &&Vec<Route>| routes.first().is_some_and(|r| r.cluster == *cluster);
        let mut summary = RouteSummary {
            ranges: self.wanted.values().filter(of_cluster).count(),
            ..RouteSummary::default()
        };
        for (route, state) in self.not_in_place().filter(|(route, _)| route.cluster == *cluster) {
            match state {
                RouteState::InPlace => continue,
                RouteState::OffLink if answers(route) => {
                    summary.routed_by_the_network += 1;
                    continue;
                }
                RouteState::OffLink => summary.unreachable += 1,
                RouteState::Failed { .. } => summary.failed += 1,
            }
            summary.example.get_or_insert_with(|| (route.range, state.clone()));
        }
        summary
    }

    /// Ranges that several nodes claim, with all claims: the first one has the route.
    pub fn contested(&self) -> impl Iterator<Item = (&IpNet, &[Route])> {
        let claims = |range| Some((range, self.wanted.get(range)?.as_slice()));
        self.contested.iter().filter_map(claims)
    }

    /// Ranges to which another program's route comes first.
    pub fn others(&self) -> impl Iterator<Item = (&IpNet, &OtherRoute)> {
        self.others.iter()
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use mesh_reconcile::Failure;

    use super::*;

    fn route(range: &str, via: &str, cluster: &str) -> Route {
        Route {
            range: range.parse().unwrap(),
            via: via.parse().unwrap(),
            cluster: ClusterName::new(cluster).unwrap(),
            node: via.into(),
        }
    }

    fn shown(change: Option<RouteChange>) -> String {
        match change {
            None => "nothing".into(),
            Some(change) => {
                let (range, next_hop) = change.route();
                let via = next_hop.and_then(|hop| hop.via()).map(|via| via.to_string());
                let verb = match change {
                    RouteChange::Claimed { .. } => '+',
                    RouteChange::Moved { .. } => '=',
                    RouteChange::Released { .. } => '-',
                };
                format!("{verb}{range} {}", via.unwrap_or_default())
            }
        }
    }

    #[test]
    fn a_range_goes_to_its_first_claimant_and_then_to_the_next() {
        let mut table = RouteTable::default();
        let one = route("10.2.1.0/24", "172.31.2.1", "b");
        let two = route("10.2.1.0/24", "172.31.2.9", "c");
        let three = route("10.2.1.0/24", "172.31.2.7", "c");
        assert_eq!(shown(table.apply(RouteDelta::Added(one.clone()))), "+10.2.1.0/24 172.31.2.1");
        assert_eq!(table.apply(RouteDelta::Added(one.clone())), None);
        assert_eq!(table.apply(RouteDelta::Added(two.clone())), None);
        assert_eq!(table.apply(RouteDelta::Added(three.clone())), None);
        let (range, claims) = table.contested().next().unwrap();
        assert_eq!((range, claims), (&one.range, &[one.clone(), two.clone(), three.clone()][..]));
        assert_eq!(table.apply(RouteDelta::Removed(three)), None);
        assert_eq!(shown(table.apply(RouteDelta::Removed(one.clone()))), "=10.2.1.0/24 172.31.2.9");
        assert_eq!(table.contested().count(), 0);
        assert_eq!(table.apply(RouteDelta::Removed(one)), None, "it has none any more");
        assert_eq!(shown(table.apply(RouteDelta::Removed(two))), "-10.2.1.0/24 ");
        assert!(table.is_empty());
    }

    #[test]
    fn what_is_off_link_is_a_problem_only_where_probes_are_not_answered() {
        let mut table = RouteTable::default();
        for last in 1..5 {
            let (range, via) = (format!("10.2.{last}.0/24"), format!("172.31.2.{last}"));
            table.apply(RouteDelta::Added(route(&range, &via, "b")));
        }
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let off_link = || Failure::deferred("off link");
        table.report(RouteEvent::Failed(net("10.2.1.0/24"), off_link()));
        table.report(RouteEvent::Failed(net("10.2.2.0/24"), off_link()));
        table.report(RouteEvent::Failed(net("10.2.3.0/24"), Failure::failed("refused")));
        table.report(RouteEvent::Failed(net("10.9.9.0/24"), off_link()));
        let b = ClusterName::new("b").unwrap();
        let answers = |route: &Route| route.via.to_string() == "172.31.2.1";
        let failed = RouteState::Failed { reason: "refused".into() };
        assert_eq!(
            table.summary(&b, answers),
            RouteSummary {
                ranges: 4,
                routed_by_the_network: 1,
                unreachable: 1,
                failed: 1,
                example: Some((net("10.2.2.0/24"), RouteState::OffLink)),
            }
        );
        let states: Vec<RouteState> = table.routes().map(|(_, state)| state).collect();
        assert_eq!(states, [RouteState::OffLink, RouteState::OffLink, failed, RouteState::InPlace]);
        table.report(RouteEvent::Recovered(net("10.2.3.0/24")));
        // Where another node leads to the range, nothing is known of that yet.
        table.apply(RouteDelta::Added(route("10.2.2.0/24", "172.31.2.7", "b")));
        table.apply(RouteDelta::Removed(route("10.2.2.0/24", "172.31.2.2", "b")));
        let summary = table.summary(&b, |_| true);
        assert_eq!((summary.unreachable, summary.failed, summary.example), (0, 0, None));
        assert_eq!(table.not_in_place().count(), 1);
    }

    #[test]
    fn others_routes_are_remembered_while_the_range_is_wanted() {
        let mut table = RouteTable::default();
        let wanted = route("10.2.1.0/24", "172.31.2.1", "b");
        let other = OtherRoute { protocol: 12, metric: 20 };
        table.report(RouteEvent::Other(wanted.range, Some(other)));
        assert_eq!(table.others().count(), 0);
        table.apply(RouteDelta::Added(wanted.clone()));
        table.report(RouteEvent::Other(wanted.range, Some(other)));
        assert_eq!(table.others().next(), Some((&wanted.range, &other)));
        table.apply(RouteDelta::Removed(wanted));
        assert_eq!(table.others().count(), 0);
    }
}
