//! Explains a choice: makes the plan again, and lists every backend with it.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_model::{
    ClusterId, Protocol, ServiceName,
    lb::{Backend, BackendState, Condition, Frontend, Group, NodeHealth},
};

use super::{Balancer, Service};
use crate::{
    backend_health::{BackendHealth, Counts},
    cluster::ClusterState,
    explanation::{
        Basis, Candidate, Explanation, GroupShare, Reason, Share, Tier, TierCluster, Usage,
    },
    locality::{Locality, Narrowing},
    nodes::Nodes,
    plan::{Part, Pass, Plan, Reach, TierPlan},
    pool::{Location, Member, Pool, PoolKey},
    port_names,
    traffic_policy::{Placement, TrafficPolicy},
};

mod sentence;

/// What is looked at for each backend of a frontend.
struct View<'a> {
    balancer: &'a Balancer,
    taken: bool,
    policy: &'a TrafficPolicy,
    plan: &'a Plan,
    groups: &'a BTreeMap<Group, GroupShare>,
}

impl Balancer {
    /// Why a frontend of ours leads where it leads; `None` where it is none.
    pub fn explain(&self, frontend: &Frontend) -> Option<Explanation> {
        self.explain_beside(frontend, std::iter::empty())
    }

    /// The same, beside backends of the service to which no frontend can lead: they have no port, which is 0 then, or SCTP
    /// alone. Each with the name of its port, and what its cluster reports of it.
    pub fn explain_beside<'a>(
        &self,
        frontend: &Frontend,
        unusable: impl Iterator<Item = (Backend, &'a str, &'a BackendState)>,
    ) -> Option<Explanation> {
        let (owner, key) = self.frontends.get(frontend)?;
        let service = self.services.get(owner)?;
        let (policy, pool) = (service.policy.as_ref()?, service.pools.get(key)?);
        let plan = Plan::new(policy, &self.clusters, &pool.counts);
        let taken = self.rules.takes(service);
        let groups = group_shares(&plan);
        let view = View { balancer: self, taken, policy, plan: &plan, groups: &groups };
        let members = pool.members().map(|(location, member)| {
            let found = port_names::matching(service.pools.iter(), key, &location.backend);
            let port_name = found.map_or(&key.port_name, |found| found.port_name);
            let candidate = view.candidate(location, member, port_name);
            let Some(named) = port_names::sentence(&key.port_name, port_name) else {
                return candidate;
            };
            Candidate { because: format!("{}; {named}", candidate.because), ..candidate }
        });
        let others = view.other_ports(service, pool, key);
        let mut backends: Vec<Candidate> = members.chain(others).collect();
        let mut known: HashSet<(ClusterId, IpAddr)> =
            backends.iter().map(|c| (c.backend.cluster, c.backend.address)).collect();
        let unusable = unusable.filter(|(backend, ..)| {
            backend.address.is_ipv4() == key.is_ipv4
                && known.insert((backend.cluster, backend.address))
        });
        backends.extend(
            unusable.map(|(backend, port_name, state)| view.unusable(backend, port_name, state)),
        );
        let local = pool.counts.get(&self.rules.local).into_iter().flat_map(Counts::usable);
        backends.sort_by(|one, other| one.order().cmp(&other.order()));
        Some(Explanation {
            service: Arc::clone(owner),
            port_name: Arc::clone(&key.port_name),
            frontend: *frontend,
            traffic: Arc::clone(&policy.traffic),
            settings: taken.then(|| pool.settings()),
            locality: self.client.sentence(&policy.traffic, local),
            basis: basis(plan.pass),
            tiers: plan.tiers.iter().map(|tier| self.tier(tier, plan.minimum)).collect(),
            groups: groups.into_values().collect(),
            backends,
        })
    }

    /// The frontends of a service of ours, whether they are taken or not.
    pub fn frontends(&self, service: &ServiceName) -> Vec<Frontend> {
        let pools = self.services.get(service).into_iter().flat_map(|s| s.pools.values());
        let mut frontends: Vec<Frontend> =
            pools.flat_map(|pool| pool.frontends.iter().copied()).collect();
        frontends.sort_unstable();
        frontends
    }

    /// Our services.
    pub fn services(&self) -> Vec<Arc<ServiceName>> {
        let ours = self.services.iter().filter(|(_, service)| service.policy.is_some());
        let mut names: Vec<Arc<ServiceName>> = ours.map(|(name, _)| Arc::clone(name)).collect();
        names.sort_unstable();
        names
    }

    /// Whether a service of ours is in the tables, or would be if it had frontends.
    pub fn takes(&self, service: &ServiceName) -> bool {
        self.services.get(service).is_some_and(|service| self.rules.takes(service))
    }

    /// The settings of a local service.
    pub fn traffic(&self, service: &ServiceName) -> Option<&mesh_model::ServiceTraffic> {
        Some(&self.services.get(service)?.policy.as_ref()?.traffic)
    }

    fn tier(&self, plan: &TierPlan, minimum: Option<u8>) -> Tier {
        let cluster = |(part, usable): &(Part, u64)| TierCluster {
            cluster: self.name(part.cluster),
            weight: part.place.weight,
            state: self.state(part.cluster),
            usable: *usable,
        };
        Tier {
            number: plan.tier + 1,
            clusters: plan.parts.iter().map(cluster).collect(),
            usable: plan.usable,
            meant: plan.meant,
            health: Share::of(plan.usable, plan.meant).min(Share::WHOLE),
            minimum,
            capacity: Share(plan.capacity),
            load: Share(plan.load),
        }
    }

    fn name(&self, cluster: ClusterId) -> Arc<str> {
        match self.clusters.get(&cluster) {
            Some(view) => view.name.as_str().into(),
            None => format!("id {cluster}").into(),
        }
    }

    fn state(&self, cluster: ClusterId) -> ClusterState {
        self.clusters.get(&cluster).map(|view| view.state).unwrap_or_default()
    }
}

fn basis(pass: Option<Pass>) -> Basis {
    match pass {
        None => Basis::Empty,
        Some(pass) if pass.reach == Reach::All => Basis::NoAnsweringNode,
        Some(pass) if pass.reach == Reach::Unverified => Basis::Unverified,
        Some(pass) if pass.terminating => Basis::Terminating,
        Some(pass) if pass.weightless => Basis::WeightZero,
        Some(_) => Basis::Ready,
    }
}

/// The groups in use, each with what the kernel gives it.
fn group_shares(plan: &Plan) -> BTreeMap<Group, GroupShare> {
    let mut groups = BTreeMap::<Group, GroupShare>::new();
    for tier in plan.tiers.iter().filter(|tier| tier.load > 0) {
        for (part, usable) in tier.parts.iter().filter(|(_, usable)| *usable > 0) {
            let Placement { group, weight, .. } = part.place;
            let share = groups.entry(group).or_insert(GroupShare {
                group,
                tier: tier.tier + 1,
                weight,
                backends: 0,
                kernel_weight: plan.chosen.weights.0.get(group.number()).copied().unwrap_or(0),
                share: Share(0),
            });
            share.backends += usable;
        }
    }
    let all = groups.values().map(|group| u64::from(group.kernel_weight)).sum();
    for group in groups.values_mut() {
        group.share = Share::of(group.kernel_weight.into(), all);
    }
    groups
}

// === impl View ===

impl View<'_> {
    fn candidate(&self, location: &Location, member: &Member, port_name: &Arc<str>) -> Candidate {
        let place = self.place(location.cluster);
        let (usage, reason) = self.judge(location, member.backend_health, place);
        Candidate {
            backend: location.backend,
            port_name: Arc::clone(port_name),
            cluster: self.balancer.name(location.cluster),
            node: Some(&location.node).filter(|node| node.as_ref() != Nodes::UNKNOWN).cloned(),
            zone: member.zone.clone(),
            condition: member.backend_health.condition(),
            node_health: self.balancer.nodes.health(location.cluster, &location.node),
            cluster_state: self.balancer.state(location.cluster),
            tier: place.map(|place| place.tier + 1),
            usage,
            reason,
            because: self.sentence(reason, usage, place, location),
        }
    }

    /// Backends of the service that serve another port only.
    fn other_ports(&self, service: &Service, pool: &Pool, key: &PoolKey) -> Vec<Candidate> {
        let addresses: HashSet<_> = pool
            .members()
            .map(|(location, _)| (location.cluster, location.backend.address))
            .collect();
        let alike = |(other, _): &(&PoolKey, &Pool)| other.is_ipv4 == key.is_ipv4 && *other != key;
        let others = service.pools.iter().filter(alike).flat_map(|(other, pool)| {
            pool.members().map(move |(location, member)| (other, location, member))
        });
        let mut listed = HashSet::new();
        let strangers = others.filter(|(_, location, member)| {
            let address = (location.cluster, location.backend.address);
            !member.by_other_name
                && !addresses.contains(&address)
                && listed.insert(location.backend)
        });
        let candidates = strangers.map(|(other, location, member)| {
            let candidate = self.candidate(location, member, &other.port_name);
            let (usage, reason) = (Usage::LeftOut, Reason::OtherPort);
            let port = match key.port_name.as_ref() {
                "" => format!("a {} port", key.protocol),
                name => format!("a {} port {name:?}", key.protocol),
            };
            let because = format!("its address does not serve {port}");
            Candidate { usage, reason, because, ..candidate }
        });
        candidates.collect()
    }

    /// One to which no frontend can lead.
    fn unusable(&self, backend: Backend, port_name: &str, state: &BackendState) -> Candidate {
        let BackendState { condition, node, node_is_derived, zone, hints } = state.clone();
        let node = node.unwrap_or_else(|| Nodes::UNKNOWN.into());
        let location = Location { cluster: backend.cluster, node, backend };
        let health = self.balancer.nodes.health(location.cluster, &location.node);
        let backend_health = BackendHealth::new(condition, health, Locality::Any);
        let member = Member { backend_health, node_is_derived, zone, hints, by_other_name: false };
        let candidate = self.candidate(&location, &member, &port_name.into());
        match candidate.reason {
            Reason::NotGlobal | Reason::NotTaken | Reason::ClusterStale => candidate,
            _ => {
                let reason = match backend.protocol {
                    Protocol::Sctp => Reason::Sctp,
                    Protocol::Tcp | Protocol::Udp => Reason::NoPort,
                };
                let because = self.sentence(reason, Usage::LeftOut, None, &location);
                Candidate { usage: Usage::LeftOut, reason, because, ..candidate }
            }
        }
    }

    fn place(&self, cluster: ClusterId) -> Option<Placement> {
        let name = self.balancer.clusters.get(&cluster).map(|view| &view.name);
        self.policy.place(cluster, name)
    }

    fn judge(
        &self,
        location: &Location,
        backend_health: BackendHealth,
        place: Option<Placement>,
    ) -> (Usage, Reason) {
        let left_out = |reason| (Usage::LeftOut, reason);
        let Some(place) = place else { return left_out(Reason::NotGlobal) };
        let state = self.balancer.state(location.cluster);
        if !self.taken {
            return left_out(Reason::NotTaken);
        } else if backend_health.locality() == Locality::OtherNode {
            return left_out(Reason::OtherNode);
        } else if state == ClusterState::Stale {
            return left_out(Reason::ClusterStale);
        } else if backend_health.condition() == Condition::NotReady {
            return left_out(Reason::NotReady);
        }
        if self.plan.chosen.group(location.cluster, backend_health).is_some() {
            return (Usage::InUse(self.share(place)), self.why_used(place));
        }
        let (condition, node) = (backend_health.condition(), backend_health.node());
        let terminating = condition == Condition::Terminating;
        let pass = self.plan.pass;
        let reason = match pass {
            _ if state.is_last() && !pass.is_some_and(Pass::reaches_cut) => match state {
                ClusterState::Drained => Reason::ClusterDrained,
                _ => Reason::ClusterCut,
            },
            _ if !pass.is_none_or(|pass| pass.reaches(node)) => match node {
                NodeHealth::Unverified => Reason::NodeUnverified,
                NodeHealth::Alive | NodeHealth::Dead => Reason::NodeDead,
            },
            // Backends that shut down, or have no weight, are used: only in another tier.
            _ if terminating && !pass.is_some_and(|pass| pass.terminating) => Reason::Terminating,
            _ if !backend_health.locality().is_used(self.narrowing(location.cluster)) => {
                Reason::HintedElsewhere
            }
            _ if place.weight == 0 && !pass.is_some_and(|pass| pass.weightless) => {
                Reason::WeightZero
            }
            _ => Reason::LaterTier,
        };
        (Usage::Fallback, reason)
    }

    /// By which hints a cluster's backends are narrowed.
    fn narrowing(&self, cluster: ClusterId) -> Option<Narrowing> {
        let parts = self.plan.tiers.iter().flat_map(|tier| &tier.parts);
        let mut parts = parts.filter(|(part, _)| part.cluster == cluster);
        parts.next().and_then(|(part, _)| part.narrowing)
    }

    fn why_used(&self, place: Placement) -> Reason {
        let before = self.plan.tiers.iter().filter(|tier| tier.tier < place.tier);
        match basis(self.plan.pass) {
            Basis::NoAnsweringNode => Reason::NoAnsweringNode,
            Basis::Unverified => Reason::NoVerifiedNode,
            Basis::Terminating => Reason::OnlyTerminating,
            Basis::WeightZero => Reason::OnlyWeightZero,
            _ if before.clone().any(|tier| tier.load > 0) => Reason::SpillOver,
            _ if place.tier > 0 => Reason::Failover,
            _ => Reason::Ready,
        }
    }

    /// The share of one backend of a group.
    fn share(&self, place: Placement) -> Share {
        let group = self.groups.get(&place.group);
        group.map(|group| Share(group.share.0 / group.backends.max(1))).unwrap_or_default()
    }
}

// === impl Candidate ===

impl Candidate {
    fn order(&self) -> (&str, Option<&str>, Backend) {
        (&self.cluster, self.node.as_deref(), self.backend)
    }
}
