//! The backends that serve a port of one name and protocol, in one family: what the frontends of that port lead to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use mesh_model::{
    ClusterId, Protocol, ServiceTraffic,
    lb::{Backend, Change, Frontend, Group, Hints, NodeHealth, Settings, Weights},
};

use crate::{
    backend_health::{BackendHealth, Counts},
    locality::Client,
    nodes::Nodes,
    plan::Chosen,
};

/// Which of a service's pools.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolKey {
    pub(crate) port_name: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) is_ipv4: bool,
}

/// A pool's backends, and which of them are used.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// The frontends that lead here.
    pub(crate) frontends: BTreeSet<Frontend>,
    /// In the order of clusters and nodes: what happens to one of these happens to a row of them.
    members: BTreeMap<Location, Member>,
    nodes: HashMap<Backend, Arc<str>>,
    pub(crate) counts: BTreeMap<ClusterId, Counts>,
    /// Some cluster has backends in a state that none of its backends had when the choice was made.
    reshaped: bool,
    chosen: Chosen,
    settings: Settings,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Location {
    pub(crate) cluster: ClusterId,
    pub(crate) node: Arc<str>,
    pub(crate) backend: Backend,
}

/// A backend of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) backend_health: BackendHealth,
    pub(crate) node_is_derived: bool,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) hints: Option<Arc<Hints>>,
    /// It is reported under another name of its port, and here because the pool's frontends lead to that one too.
    pub(crate) by_other_name: bool,
}

/// A backend that is not where it was, or not how it was; or is new, or gone.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) backend: Backend,
    pub(crate) before: Option<(Arc<str>, BackendHealth)>,
    pub(crate) now: Option<(Arc<str>, BackendHealth)>,
}

/// The backends that the frontends of a pool lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) chosen: Chosen,
    pub(crate) settings: Settings,
}

// === impl PoolKey ===

impl PoolKey {
    pub(crate) fn of_frontend(port_name: &Arc<str>, frontend: &Frontend) -> Self {
        let (protocol, is_ipv4) = (frontend.protocol, frontend.address.is_ipv4());
        Self { port_name: Arc::clone(port_name), protocol, is_ipv4 }
    }

    pub(crate) fn of_backend(port_name: &Arc<str>, backend: &Backend) -> Self {
        let (protocol, is_ipv4) = (backend.protocol, backend.address.is_ipv4());
        Self { port_name: Arc::clone(port_name), protocol, is_ipv4 }
    }

    /// Whether it differs in nothing but the name.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        (self.protocol, self.is_ipv4) == (other.protocol, other.is_ipv4)
    }

    /// Whether frontends of one may lead to what is reported under the other's name: one of the two has none.
    pub(crate) fn may_share(&self, other: &Self) -> bool {
        self.is_alike(other) && self.port_name.is_empty() != other.port_name.is_empty()
    }
}

// === impl Location ===

impl Location {
    fn new(backend: Backend, node: &Arc<str>) -> Self {
        Self { cluster: backend.cluster, node: Arc::clone(node), backend }
    }

    /// Before all of a node.
    fn first(cluster: ClusterId, node: &str) -> Self {
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let backend =
            Backend { address, port: 0, protocol: Protocol::Tcp, cluster: ClusterId::NONE };
        Self { cluster, node: node.into(), backend }
    }
}

// === impl Pool ===

impl Pool {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.frontends.is_empty()
    }

    /// Sets a backend's state, in place of its former one.
    pub(crate) fn set(&mut self, backend: Backend, node: Arc<str>, member: Member) -> Moved {
        let before = self.take(&backend);
        self.reshaped |= self.counts.entry(backend.cluster).or_default().add(member.backend_health);
        let now = Some((Arc::clone(&node), member.backend_health));
        self.members.insert(Location::new(backend, &node), member);
        self.nodes.insert(backend, node);
        Moved { backend, before, now }
    }

    /// Takes a backend out; `None` where there is no such backend.
    pub(crate) fn remove(&mut self, backend: &Backend) -> Option<Moved> {
        let before = Some(self.take(backend)?);
        Some(Moved { backend: *backend, before, now: None })
    }

    /// The node and the zone that a backend is in.
    pub(crate) fn get(&self, backend: &Backend) -> Option<(&Arc<str>, &Member)> {
        let node = self.nodes.get(backend)?;
        Some((node, self.members.get(&Location::new(*backend, node))?))
    }

    /// The same, if it is reported under the pool's name.
    pub(crate) fn reported(&self, backend: &Backend) -> Option<(&Arc<str>, &Member)> {
        self.get(backend).filter(|(_, member)| !member.by_other_name)
    }

    /// A backend is reported under the pool's name no more. Returns whether it was.
    pub(crate) fn is_no_more_reported(&mut self, backend: &Backend) -> bool {
        let node = self.nodes.get(backend);
        let location = node.map(|node| Location::new(*backend, node));
        match location.and_then(|location| self.members.get_mut(&location)) {
            Some(member) => !mem::replace(&mut member.by_other_name, true),
            None => false,
        }
    }

    /// Takes out those that are reported under other names.
    pub(crate) fn remove_by_other_names(&mut self) -> Vec<Moved> {
        let others = self.members.iter().filter(|(_, member)| member.by_other_name);
        let others: Vec<Backend> = others.map(|(location, _)| location.backend).collect();
        others.iter().filter_map(|backend| self.remove(backend)).collect()
    }

    /// The node of some backends is otherwise than before.
    pub(crate) fn set_node(
        &mut self,
        cluster: ClusterId,
        node: &str,
        health: NodeHealth,
    ) -> Vec<Moved> {
        let row = self.members.range_mut(Location::first(cluster, node)..);
        let row = row.take_while(|(at, _)| at.cluster == cluster && at.node.as_ref() == node);
        change(row, &mut self.counts, &mut self.reshaped, |_, member| {
            member.backend_health.on(health)
        })
    }

    /// It means something else for clients where backends are.
    pub(crate) fn set_localities(
        &mut self,
        client: &Client,
        traffic: Option<&ServiceTraffic>,
    ) -> Vec<Moved> {
        let all = self.members.iter_mut();
        change(
            all,
            &mut self.counts,
            &mut self.reshaped,
            |Location { cluster, node, .. }, member| {
                let hints = member.hints.as_deref();
                let location = (*cluster, &**node, member.node_is_derived);
                member.backend_health.at(client.locality(traffic, location, hints))
            },
        )
    }

    /// All backends, in the order of clusters and nodes.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&Location, &Member)> {
        self.members.iter()
    }

    /// The backends in use, each with its group.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (Backend, Group)> {
        self.members.iter().filter_map(|(location, member)| {
            Some((location.backend, self.chosen.group(location.cluster, member.backend_health)?))
        })
    }

    pub(crate) fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings
    }

    /// Whether a choice that does not count backends is still the same, after some moved.
    pub(crate) fn is_shaped_as_before(&self) -> bool {
        !self.reshaped
    }

    /// Makes a new choice, or keeps the present one, after backends moved. Returns the resulting changes of the
    /// frontends, additions first and removals last. Costs as much as what moved, and a look at the clusters whose
    /// choice differs from before.
    pub(crate) fn settle(
        &mut self,
        choice: Option<Choice>,
        moved: &[Moved],
        nodes: &mut Nodes,
        changes: &mut Vec<Change>,
    ) {
        self.reshaped = false;
        let (before, was) = match choice {
            Some(Choice { chosen, settings }) => {
                (mem::replace(&mut self.chosen, chosen), mem::replace(&mut self.settings, settings))
            }
            None => (self.chosen.clone(), self.settings),
        };
        let (mut come, mut go) = (Vec::new(), Vec::new());
        let mut shift = |backend: Backend, before: Option<Group>, now: Option<Group>| match now {
            Some(group) if before != now => come.push((backend, group)),
            None if before.is_some() => go.push(backend),
            _ => {}
        };
        for Moved { backend, before: from, now: to } in moved {
            let group = |chosen: &Chosen, place: &Option<(Arc<str>, BackendHealth)>| {
                place
                    .as_ref()
                    .and_then(|(_, backend_health)| chosen.group(backend.cluster, *backend_health))
            };
            let (then, now) = (group(&before, from), group(&self.chosen, to));
            if let Some((node, _)) = to.as_ref().filter(|_| now.is_some()) {
                nodes.used(backend.cluster, node);
            }
            if let Some((node, _)) = from.as_ref().filter(|_| then.is_some()) {
                nodes.unused(backend.cluster, node);
            }
            shift(*backend, then, now);
        }
        let clusters = before.differences(&self.chosen);
        if !clusters.is_empty() {
            let moved: HashSet<&Backend> = moved.iter().map(|moved| &moved.backend).collect();
            for cluster in clusters {
                let row = self.members.range(Location::first(cluster, Nodes::UNKNOWN)..);
                let row = row.take_while(|(at, _)| at.cluster == cluster);
                for (location, member) in row.filter(|(at, _)| !moved.contains(&at.backend)) {
                    let then = before.group(cluster, member.backend_health);
                    let now = self.chosen.group(cluster, member.backend_health);
                    match (then, now) {
                        (None, Some(_)) => nodes.used(cluster, &location.node),
                        (Some(_), None) => nodes.unused(cluster, &location.node),
                        _ => {}
                    }
                    shift(location.backend, then, now);
                }
            }
        }
        for frontend in &self.frontends {
            // A frontend that no longer refuses is set before the last backend is removed, and one that refuses again
            // after the first is added.
            let lenient = self.settings.pass_if_empty;
            let set =
                (was != self.settings).then_some(Change::SetFrontend(*frontend, self.settings));
            let weights = (before.weights != self.chosen.weights)
                .then_some(Change::SetWeights(*frontend, self.chosen.weights));
            changes.extend(set.filter(|_| lenient));
            changes.extend(come.iter().map(|(b, group)| Change::AddBackend(*frontend, *b, *group)));
            changes.extend(weights);
            changes.extend(set.filter(|_| !lenient));
            changes.extend(go.iter().map(|b| Change::RemoveBackend(*frontend, *b)));
        }
    }

    /// Everything that a new frontend leads to.
    pub(crate) fn announce(&self, frontend: Frontend, changes: &mut Vec<Change>) {
        changes.push(Change::SetFrontend(frontend, self.settings));
        changes.extend(self.in_use().map(|(b, group)| Change::AddBackend(frontend, b, group)));
        if self.chosen.weights != Weights::ONE {
            changes.push(Change::SetWeights(frontend, self.chosen.weights));
        }
    }

    fn take(&mut self, backend: &Backend) -> Option<(Arc<str>, BackendHealth)> {
        let node = self.nodes.remove(backend)?;
        let member = self.members.remove(&Location::new(*backend, &node))?;
        let counts = self.counts.get_mut(&backend.cluster)?;
        self.reshaped |= counts.remove(member.backend_health);
        if counts.is_empty() {
            self.counts.remove(&backend.cluster);
        }
        Some((node, member.backend_health))
    }
}

/// Backends stay where they are, and are otherwise.
fn change<'a>(
    members: impl Iterator<Item = (&'a Location, &'a mut Member)>,
    counts: &mut BTreeMap<ClusterId, Counts>,
    reshaped: &mut bool,
    health: impl Fn(&Location, &Member) -> BackendHealth,
) -> Vec<Moved> {
    let mut moved = Vec::new();
    for (location, member) in members {
        let (before, now) = (member.backend_health, health(location, member));
        if before == now {
            continue;
        }
        member.backend_health = now;
        let counts = counts.entry(location.cluster).or_default();
        *reshaped |= counts.remove(before);
        *reshaped |= counts.add(now);
        let place = |health| Some((Arc::clone(&location.node), health));
        moved.push(Moved { backend: location.backend, before: place(before), now: place(now) });
    }
    moved
}
