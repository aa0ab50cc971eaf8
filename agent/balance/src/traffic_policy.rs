//! The tier and weight that a Service gives each cluster, and from these the group of the cluster's backends.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_model::{
    Affinity, ClusterId, ClusterName, ServiceTraffic, WeightsOf,
    lb::{Group, Weights},
};

use crate::cluster::ClusterView;

/// A service's settings, computed for the present clusters.
#[derive(Debug)]
pub(crate) struct TrafficPolicy {
    pub(crate) traffic: Arc<ServiceTraffic>,
    local: ClusterId,
    /// The group of each kind of cluster; more than there are groups share the last.
    groups: BTreeMap<GroupKey, Group>,
}

/// The values that clusters have in common whose backends are in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey {
    tier: usize,
    weight: Reverse<u32>,
    /// A cluster that has its weight as a whole is in no group with another; [`ClusterId::NONE`] for all others.
    alone: ClusterId,
}

/// Where a cluster's backends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) tier: usize,
    pub(crate) weight: u32,
    pub(crate) group: Group,
}

/// The weight of a cluster that is not named.
const DEFAULT_WEIGHT: u32 = 1;

impl TrafficPolicy {
    /// Groups follow from the annotations and from which clusters exist, not from their health: a backend changes its
    /// group only with one of the two.
    pub(crate) fn new(
        traffic: Arc<ServiceTraffic>,
        local: ClusterId,
        clusters: &BTreeMap<ClusterId, ClusterView>,
    ) -> Self {
        let mut policy = Self { traffic, local, groups: BTreeMap::new() };
        let mut keys: BTreeSet<GroupKey> = match &*policy.traffic {
            traffic if !traffic.global => BTreeSet::new(),
            traffic if traffic.weights.is_empty() && traffic.tiers.is_empty() => {
                let tiers = if traffic.affinity == Affinity::None { 1 } else { 2 };
                let (weight, alone) = (Reverse(DEFAULT_WEIGHT), ClusterId::NONE);
                (0..tiers).map(|tier| GroupKey { tier, weight, alone }).collect()
            }
            _ => clusters.iter().map(|(id, view)| policy.key(*id, Some(&view.name))).collect(),
        };
        // A cluster whose name is not known yet has a group of its own if there is one.
        if keys.len() < Group::COUNT {
            keys.insert(policy.key(ClusterId::NONE, None));
        }
        let last = Group::COUNT - 1;
        let group = |number: usize| Group::new(number.min(last)).unwrap_or_default();
        policy.groups =
            keys.into_iter().enumerate().map(|(number, key)| (key, group(number))).collect();
        policy
    }

    /// Where a cluster's backends are; `None` where they are not for this service's clients.
    pub(crate) fn place(
        &self,
        cluster: ClusterId,
        name: Option<&ClusterName>,
    ) -> Option<Placement> {
        if !self.traffic.global {
            let (tier, weight, group) = (0, DEFAULT_WEIGHT, Group::FIRST);
            return (cluster == self.local).then_some(Placement { tier, weight, group });
        }
        let key = self.key(cluster, name);
        let last = Group::new(self.groups.len().clamp(1, Group::COUNT) - 1);
        let group = self.groups.get(&key).copied().or(last).unwrap_or_default();
        let GroupKey { tier, weight: Reverse(weight), .. } = key;
        Some(Placement { tier, weight, group })
    }

    /// The share of a tier that carries all of its load, in percent.
    pub(crate) fn minimum_healthy(&self) -> Option<u8> {
        self.traffic.minimum_healthy.filter(|_| self.traffic.global)
    }

    /// Whether it makes a difference how many backends there are, where there are any.
    pub(crate) fn counts(&self) -> bool {
        self.traffic.global
            && (self.traffic.minimum_healthy.is_some()
                || !(self.traffic.weights.is_empty() || self.shares_are_of_clusters()))
    }

    /// Whether a tier's load is shared out to clusters; to backends otherwise.
    pub(crate) fn shares_are_of_clusters(&self) -> bool {
        let ServiceTraffic { global, weights, weights_of, .. } = &*self.traffic;
        *global && !weights.is_empty() && *weights_of == WeightsOf::Clusters
    }

    /// The kernel's weights for what each group should get. One group alone gets everything.
    pub(crate) fn weights_of(groups: &[u64; Group::COUNT]) -> Weights {
        let mut weighty = groups.iter().enumerate().filter(|(_, weight)| **weight > 0);
        let mut weights = [0; Group::COUNT];
        match (weighty.next(), weighty.next()) {
            (None, _) => return Weights::ONE,
            (Some((only, _)), None) => weights.iter_mut().skip(only).take(1).for_each(|w| *w = 1),
            _ => {
                for (weight, exact) in weights.iter_mut().zip(groups) {
                    *weight = u32::try_from(*exact).unwrap_or(u32::MAX);
                }
            }
        }
        Weights(weights)
    }

    fn key(&self, cluster: ClusterId, name: Option<&ClusterName>) -> GroupKey {
        let traffic = &*self.traffic;
        let named = |tier: &BTreeSet<ClusterName>| name.is_some_and(|name| tier.contains(name));
        let is_local = cluster == self.local;
        let tier = match traffic.affinity {
            _ if !traffic.tiers.is_empty() => {
                traffic.tiers.iter().position(named).unwrap_or(traffic.tiers.len())
            }
            Affinity::None => 0,
            Affinity::Local => usize::from(!is_local),
            Affinity::Remote => usize::from(is_local),
        };
        let weight = name.and_then(|name| traffic.weights.get(name)).copied();
        let is_alone = weight.is_some() && traffic.weights_of == WeightsOf::Clusters;
        GroupKey {
            tier,
            weight: Reverse(weight.unwrap_or(DEFAULT_WEIGHT)),
            alone: if is_alone { cluster } else { ClusterId::NONE },
        }
    }
}
