//! Which routes there should be, and which there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use mesh_model::lb::{Route, RouteDelta};

/// The routes that are wanted, and those of ours that are in the kernel.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// By range, in the order in which they were told: the first one is wanted.
    wanted: BTreeMap<IpNet, Vec<Route>>,
    /// Ours, as last seen in the kernel.
    installed: BTreeMap<IpNet, IpAddr>,
    /// Found in the kernel at start, and not wanted by anybody in this life so far.
    held: BTreeSet<IpNet>,
    /// What the kernel did not take.
    failed: BTreeMap<IpNet, String>,
}

/// A change to the kernel's routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A route that is not there yet.
    Add {
        /// Where it leads.
        range: IpNet,
        /// Over whom.
        via: IpAddr,
    },
    /// A route of ours over another node.
    Replace {
        /// Where it leads.
        range: IpNet,
        /// Over whom.
        via: IpAddr,
    },
    /// A route of ours less.
    Remove {
        /// Where it led.
        range: IpNet,
        /// Over whom.
        via: IpAddr,
    },
}

impl RouteTable {
    /// Begins with the routes of ours that are in the kernel. They stay until they are wanted, or [`RouteTable::prune`]
    /// lets them go.
    pub fn restore(found: impl IntoIterator<Item = (IpNet, IpAddr)>) -> Self {
        let installed: BTreeMap<IpNet, IpAddr> = found.into_iter().collect();
        Self { held: installed.keys().copied().collect(), installed, ..Self::default() }
    }

    /// Takes a change; [`RouteTable::plan`] says what follows.
    pub fn apply(&mut self, delta: RouteDelta) {
        match delta {
            RouteDelta::Added(route) => {
                self.held.remove(&route.range);
                let routes = self.wanted.entry(route.range).or_default();
                if !routes.contains(&route) {
                    routes.push(route);
                }
            }
            RouteDelta::Removed(route) => {
                if let Some(routes) = self.wanted.get_mut(&route.range) {
                    routes.retain(|other| *other != route);
                    if routes.is_empty() {
                        self.wanted.remove(&route.range);
                        self.failed.remove(&route.range);
                    }
                }
            }
        }
    }

    /// Lets go of what was found at start and nobody wants, where `may` says that its cluster has told all its nodes.
    pub fn prune(&mut self, may: impl Fn(&IpNet) -> bool) {
        self.held.retain(|range| !may(range));
    }

    /// Takes a fresh look at the kernel: somebody else may have changed our routes.
    pub fn observe(&mut self, found: impl IntoIterator<Item = (IpNet, IpAddr)>) {
        self.installed = found.into_iter().collect();
        self.held.retain(|range| self.installed.contains_key(range));
    }

    /// What to do so that the kernel's routes are the wanted ones.
    pub fn plan(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        for (range, routes) in &self.wanted {
            let Some(via) = routes.first().map(|route| route.via) else { continue };
            match self.installed.get(range) {
                None => ops.push(Op::Add { range: *range, via }),
                Some(installed) if *installed != via => {
                    ops.push(Op::Replace { range: *range, via })
                }
                Some(_) => {}
            }
        }
        for (range, via) in &self.installed {
            if !self.wanted.contains_key(range) && !self.held.contains(range) {
                ops.push(Op::Remove { range: *range, via: *via });
            }
        }
        ops
    }

    /// Says how an op went.
    pub fn done(&mut self, op: Op, result: Result<(), String>) {
        match (op, result) {
            (Op::Add { range, via } | Op::Replace { range, via }, Ok(())) => {
                self.installed.insert(range, via);
                self.failed.remove(&range);
            }
            (Op::Add { range, .. } | Op::Replace { range, .. }, Err(reason)) => {
                self.failed.insert(range, reason);
            }
            (Op::Remove { range, .. }, Ok(())) => {
                self.installed.remove(&range);
            }
            (Op::Remove { .. }, Err(_)) => {}
        }
    }

    /// Whether the kernel did not take a wanted route.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The wanted routes, each with what the kernel said if it did not take it.
    pub fn routes(&self) -> impl Iterator<Item = (&Route, Option<&str>)> {
        self.wanted.iter().filter_map(|(range, routes)| {
            Some((routes.first()?, self.failed.get(range).map(String::as_str)))
        })
    }

    /// Where the mesh is: what is wanted, and what a former life wanted and nobody has taken back yet.
    pub fn ranges(&self) -> BTreeSet<IpNet> {
        self.wanted.keys().chain(&self.held).copied().collect()
    }

    /// Ranges that several nodes claim: the first one has the route.
    pub fn contested(&self) -> impl Iterator<Item = &IpNet> {
        self.wanted.iter().filter(|(_, routes)| routes.len() > 1).map(|(range, _)| range)
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::ClusterName;

    use super::*;

    fn route(range: &str, via: &str) -> Route {
        Route {
            range: range.parse().unwrap(),
            via: via.parse().unwrap(),
            cluster: ClusterName::new("b").unwrap(),
            node: via.into(),
        }
    }

    fn found(routes: &[(&str, &str)]) -> Vec<(IpNet, IpAddr)> {
        routes.iter().map(|(range, via)| (range.parse().unwrap(), via.parse().unwrap())).collect()
    }

    fn carry_out(table: &mut RouteTable) -> Vec<String> {
        let ops = table.plan();
        ops.iter().for_each(|op| table.done(*op, Ok(())));
        let shown = ops.into_iter().map(|op| match op {
            Op::Add { range, via } => format!("+{range} {via}"),
            Op::Replace { range, via } => format!("={range} {via}"),
            Op::Remove { range, .. } => format!("-{range}"),
        });
        shown.collect()
    }

    #[test]
    fn routes_come_change_and_go() {
        let mut table = RouteTable::default();
        let (one, moved) = (route("10.2.1.0/24", "172.31.2.1"), route("10.2.1.0/24", "172.31.2.9"));
        table.apply(RouteDelta::Added(one.clone()));
        assert_eq!(carry_out(&mut table), ["+10.2.1.0/24 172.31.2.1"]);
        assert!(carry_out(&mut table).is_empty());
        // A second claim waits until the first is gone.
        table.apply(RouteDelta::Added(moved.clone()));
        assert!(carry_out(&mut table).is_empty());
        assert_eq!(table.contested().count(), 1);
        table.apply(RouteDelta::Removed(one));
        assert_eq!(carry_out(&mut table), ["=10.2.1.0/24 172.31.2.9"]);
        table.apply(RouteDelta::Removed(moved));
        assert_eq!(carry_out(&mut table), ["-10.2.1.0/24"]);
    }

    #[test]
    fn a_restart_keeps_what_it_finds_until_all_was_told() {
        let mut table = RouteTable::restore(found(&[
            ("10.2.1.0/24", "172.31.2.1"),
            ("10.2.2.0/24", "172.31.2.2"),
            ("10.3.1.0/24", "172.31.3.1"),
        ]));
        table.apply(RouteDelta::Added(route("10.2.1.0/24", "172.31.2.1")));
        assert!(carry_out(&mut table).is_empty());
        assert_eq!(table.ranges().len(), 3);
        table.prune(|range| range.to_string().starts_with("10.2."));
        assert_eq!(carry_out(&mut table), ["-10.2.2.0/24"]);
        table.prune(|_| true);
        assert_eq!(carry_out(&mut table), ["-10.3.1.0/24"]);
    }

    #[test]
    fn what_somebody_else_did_is_undone() {
        let mut table = RouteTable::default();
        table.apply(RouteDelta::Added(route("10.2.1.0/24", "172.31.2.1")));
        carry_out(&mut table);
        table.observe(found(&[("10.2.9.0/24", "172.31.2.1")]));
        assert_eq!(carry_out(&mut table), ["+10.2.1.0/24 172.31.2.1", "-10.2.9.0/24"]);
    }

    #[test]
    fn a_failure_is_remembered_until_it_is_over() {
        let mut table = RouteTable::default();
        table.apply(RouteDelta::Added(route("10.2.1.0/24", "172.31.2.1")));
        let op = table.plan()[0];
        table.done(op, Err("not on a link".into()));
        assert_eq!(table.routes().next().unwrap().1, Some("not on a link"));
        assert_eq!(table.plan().len(), 1, "tried again");
        table.done(op, Ok(()));
        assert_eq!(table.routes().next().unwrap().1, None);
    }
}
