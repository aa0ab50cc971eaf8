//! Explains a choice: makes the plan again, and lists every backend with it.

use std::{collections::BTreeMap, sync::Arc};

use mesh_model::{
    ClusterId, ServiceName,
    lb::{Backend, Condition, Frontend, Group, NodeHealth},
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
    traffic_policy::{Placement, TrafficPolicy},
};

/// What an explanation needs for each backend of a frontend.
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
        let (owner, key) = self.frontends.get(frontend)?;
        let service = self.services.get(owner)?;
        let (policy, pool) = (service.policy.as_ref()?, service.pools.get(key)?);
        let plan = Plan::new(policy, &self.clusters, &pool.counts);
        let taken = self.rules.takes(service);
        let groups = group_shares(&plan);
        let view = View { balancer: self, taken, policy, plan: &plan, groups: &groups };
        let members = pool.members().map(|(location, member)| view.candidate(location, member));
        let others = view.other_ports(service, pool, key);
        let mut backends: Vec<Candidate> = members.chain(others).collect();
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
    fn candidate(&self, location: &Location, member: &Member) -> Candidate {
        let place = self.place(location.cluster);
        let (usage, reason) = self.judge(location, member.backend_health, place);
        Candidate {
            backend: location.backend,
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
        let addresses: std::collections::HashSet<_> = pool
            .members()
            .map(|(location, _)| (location.cluster, location.backend.address))
            .collect();
        let alike = |(other, _): &(&PoolKey, &Pool)| other.is_ipv4 == key.is_ipv4 && *other != key;
        let others = service.pools.iter().filter(alike).flat_map(|(_, pool)| pool.members());
        let strangers = others.filter(|(location, _)| {
            !addresses.contains(&(location.cluster, location.backend.address))
        });
        let candidates = strangers.map(|(location, member)| {
            let candidate = self.candidate(location, member);
            let (usage, reason) = (Usage::LeftOut, Reason::OtherPort);
            let port = match key.port_name.as_ref() {
                "" => format!("an unnamed {} port", key.protocol),
                name => format!("a {} port {name:?}", key.protocol),
            };
            let because = format!("its address does not serve {port}");
            Candidate { usage, reason, because, ..candidate }
        });
        candidates.collect()
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

    fn sentence(
        &self,
        reason: Reason,
        usage: Usage,
        place: Option<Placement>,
        location: &Location,
    ) -> String {
        let (cluster, node) = (self.balancer.name(location.cluster), &location.node);
        let gets = || self.gets(usage, place, location.cluster);
        match reason {
            Reason::Ready => format!("ready: {}", gets()),
            Reason::Failover => format!("no tier before this one has a usable backend: {}", gets()),
            Reason::SpillOver => {
                format!("the tiers before this one cannot carry everything: {}", gets())
            }
            Reason::OnlyWeightZero => {
                format!("{cluster} has weight 0, and no other backend is ready: {}", gets())
            }
            Reason::OnlyTerminating => {
                format!("it shuts down, and no backend is ready: {}", gets())
            }
            Reason::NoAnsweringNode => {
                format!("no node answers, so all count as if they did: {}", gets())
            }
            Reason::LaterTier => {
                let carry = "the tiers before this one carry everything";
                match place {
                    Some(place) => format!("it is of tier {}: {carry}", place.tier + 1),
                    None => carry.into(),
                }
            }
            Reason::WeightZero => format!("{cluster} has weight 0, and others can be used"),
            Reason::Terminating => {
                "it shuts down or is drained by its cluster, and others are ready".into()
            }
            Reason::NoVerifiedNode => {
                format!(
                    "node {node} has never answered, and no backend on one that did is left: {}",
                    gets()
                )
            }
            Reason::NodeDead => format!("node {node} does not answer"),
            Reason::NodeUnverified => {
                format!("node {node} has never answered, while others of {cluster} do")
            }
            Reason::ClusterCut => {
                format!("cluster {cluster} is unreachable: neither its nodes nor its etcd answer")
            }
            Reason::ClusterDrained => {
                format!("cluster {cluster} is drained here (clustermesh undrain {cluster} --from)")
            }
            Reason::NotReady => "it is not ready".into(),
            Reason::ClusterStale => {
                format!(
                    "cluster {cluster} has been disconnected for too long: what it reported is not used"
                )
            }
            Reason::OtherNode => {
                let asked = "internalTrafficPolicy is Local, so connections stay on their node";
                match self.balancer.rules.local == location.cluster {
                    _ if **node == *Nodes::UNKNOWN => {
                        format!("{asked}, and it is not known on which node it is")
                    }
                    true => format!("{asked}, and it is on node {node}"),
                    false => format!("{asked}, and it is on node {node} of cluster {cluster}"),
                }
            }
            Reason::HintedElsewhere => {
                let here = self.balancer.client.here(self.narrowing(location.cluster));
                format!("its hints are for clients elsewhere, and others are for those {here}")
            }
            Reason::NotGlobal => {
                format!("it is of cluster {cluster}, and the service is not global")
            }
            Reason::NotTaken => {
                "the service is not global, and those are left to kube-proxy".into()
            }
            Reason::OtherPort => "its address does not serve the port".into(),
        }
    }

    /// How a used backend's share comes about.
    fn gets(&self, usage: Usage, place: Option<Placement>, cluster: ClusterId) -> String {
        let share = usage.share();
        let Some(place) = place else { return format!("it gets {share}") };
        let tier = self.plan.tiers.iter().find(|tier| tier.tier == place.tier);
        let load = Share(tier.map_or(0, |tier| tier.load));
        let group = self.groups.get(&place.group);
        let (of, weight) = group.map_or((0, place.weight), |group| (group.backends, group.weight));
        let tier = place.tier + 1;
        let view = self.balancer.clusters.get(&cluster);
        let weights = &self.policy.traffic.weights;
        let of = match view.filter(|view| weights.contains_key(&view.name)) {
            _ if !self.policy.shares_are_of_clusters() => format!("{of} of weight {weight}"),
            Some(view) => format!("{of} of {}, which has weight {weight}", view.name),
            None => format!("{of} of clusters that have weight {weight} each"),
        };
        format!("tier {tier} carries {load}, and it gets {share} as one of {of}")
    }
}

// === impl Candidate ===

impl Candidate {
    fn order(&self) -> (&str, Option<&str>, Backend) {
        (&self.cluster, self.node.as_deref(), self.backend)
    }
}
