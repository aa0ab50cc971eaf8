//! Which of a pool's backends are used, and how much each gets: the arithmetic, from counts alone
//! (`docs/load-balancing.md`).

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{
    ClusterId,
    lb::{Condition, Group, NodeHealth, Weights},
};

use crate::{
    backend_health::{BackendHealth, Counts},
    cluster::{ClusterState, ClusterView},
    locality::{Locality, Narrowing},
    traffic_policy::{Placement, TrafficPolicy},
};

/// The choice, and how it was made.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The pass that found a backend; `None` where there is none.
    pub(crate) pass: Option<Pass>,
    /// The tiers that have backends, in their order.
    pub(crate) tiers: Vec<TierPlan>,
    /// From which health on a tier carries everything, in percent, where that counts.
    pub(crate) minimum: Option<u8>,
    pub(crate) chosen: Chosen,
}

/// Which backends are in use, and in which group: all of a cluster that are alike, or none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    groups: Vec<(ClusterId, BackendHealth, Group)>,
    pub(crate) weights: Weights,
}

/// One look for backends. They are made in their order, until one finds any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    /// On which nodes it looks.
    pub(crate) reach: Reach,
    pub(crate) terminating: bool,
    /// Those of clusters of weight 0.
    pub(crate) weightless: bool,
}

/// On which nodes backends are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// On nodes that answer, and on those of which nothing is known.
    Alive,
    /// Also on those that have never answered while others of their cluster did.
    Unverified,
    /// On all, whether they and their clusters answer or not: it is the local uplink that is broken.
    All,
}

/// A tier's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TierPlan {
    pub(crate) tier: usize,
    /// Backends that the pass would use.
    pub(crate) usable: u64,
    /// Backends that count in health.
    pub(crate) meant: u64,
    /// How much of all load it could carry, of [`WHOLE`].
    pub(crate) capacity: u64,
    /// How much it does carry.
    pub(crate) load: u64,
    /// The clusters in it, each with how many of its backends the pass would use.
    pub(crate) parts: Vec<(Part, u64)>,
}

/// A cluster's part of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) cluster: ClusterId,
    pub(crate) place: Placement,
    /// By which hints its backends are narrowed.
    pub(crate) narrowing: Option<Narrowing>,
    cut: bool,
    counts: Counts,
}

/// All load. Shares are integers out of this, so that a group of one among a million still has the right share.
pub(crate) const WHOLE: u64 = 1_000_000_000;

// === impl Plan ===

impl Plan {
    pub(crate) fn new(
        policy: &TrafficPolicy,
        clusters: &BTreeMap<ClusterId, ClusterView>,
        counts: &BTreeMap<ClusterId, Counts>,
    ) -> Self {
        let part = |(cluster, counts): (&ClusterId, &Counts)| {
            let view = clusters.get(cluster);
            let state = view.map_or(ClusterState::InUse, |view| view.state);
            let place = policy.place(*cluster, view.map(|view| &view.name))?;
            let cut = state.is_last();
            (state != ClusterState::Stale).then_some(Part {
                cluster: *cluster,
                place,
                narrowing: Narrowing::of(counts.usable()),
                cut,
                counts: counts.clone(),
            })
        };
        let mut parts = Vec::with_capacity(counts.len());
        parts.extend(counts.iter().filter_map(part));
        let found = |pass: &Pass| parts.iter().any(|part| pass.usable(part) > 0);
        let pass = Pass::all().find(found);
        let mut tiers = BTreeMap::<usize, TierPlan>::new();
        for part in parts {
            let usable = pass.map_or(0, |pass| pass.usable(&part));
            let tier = tiers.entry(part.place.tier).or_insert_with(|| TierPlan {
                tier: part.place.tier,
                usable: 0,
                meant: 0,
                capacity: 0,
                load: 0,
                parts: Vec::with_capacity(counts.len()),
            });
            tier.usable += usable;
            if part.place.weight > 0 {
                tier.meant += u64::from(part.meant());
            }
            tier.parts.push((part, usable));
        }
        let mut tiers: Vec<TierPlan> = tiers.into_values().collect();
        // Backends that are used only because there are no others are not measured.
        let measured = pass.is_some_and(|pass| !pass.terminating && !pass.weightless);
        let minimum = policy.minimum_healthy().filter(|_| measured);
        share_load(&mut tiers, minimum);
        let claim = |pass: Pass, part: &Part, usable: u64| {
            let weight = u64::from(pass.weight(part));
            match policy.shares_are_of_clusters() {
                // A cluster of which too little is healthy leaves a part to the others of its tier.
                true => weight * capacity(usable, part.meant().into(), minimum),
                false => weight * usable,
            }
        };
        let chosen = pass.map(|pass| choose(&tiers, pass, claim)).unwrap_or_default();
        Self { pass, tiers, minimum, chosen }
    }
}

/// Each tier takes what it can carry of the rest; if all together cannot carry everything, each takes more in
/// proportion.
fn share_load(tiers: &mut [TierPlan], minimum: Option<u8>) {
    let mut rest = WHOLE;
    for tier in tiers.iter_mut() {
        tier.capacity = capacity(tier.usable, tier.meant, minimum);
        tier.load = tier.capacity.min(rest);
        rest -= tier.load;
    }
    let carried = WHOLE - rest;
    if rest > 0 && carried > 0 {
        tiers.iter_mut().for_each(|tier| tier.load = scaled(tier.load, WHOLE, carried));
    }
}

fn capacity(usable: u64, meant: u64, minimum: Option<u8>) -> u64 {
    match minimum {
        _ if usable == 0 => 0,
        Some(minimum) => scaled(WHOLE, usable * 100, meant * u64::from(minimum)).min(WHOLE),
        None => WHOLE,
    }
}

/// Within a tier, clusters get by what each claims; and of a group's backends one gets as much as another.
fn choose(tiers: &[TierPlan], pass: Pass, claim: impl Fn(Pass, &Part, u64) -> u64) -> Chosen {
    let mut exact = [0_u64; Group::COUNT];
    let mut groups = Vec::with_capacity(tiers.iter().map(|tier| tier.parts.len()).sum());
    for tier in tiers.iter().filter(|tier| tier.load > 0) {
        let mut claims = [0_u64; Group::COUNT];
        for (part, usable) in tier.parts.iter().filter(|(_, usable)| *usable > 0) {
            let Placement { group, .. } = part.place;
            let claim = claim(pass, part, *usable);
            claims.iter_mut().skip(group.number()).take(1).for_each(|sum| *sum += claim);
            groups.extend(
                pass.healths(part).map(|backend_health| (part.cluster, backend_health, group)),
            );
        }
        let all = claims.iter().sum();
        for (sum, claim) in exact.iter_mut().zip(claims).filter(|(_, claim)| *claim > 0) {
            *sum += scaled(tier.load, claim, all).max(1);
        }
    }
    groups.sort_unstable();
    Chosen { groups, weights: TrafficPolicy::weights_of(&exact) }
}

/// `of × by / whole`, rounded down.
fn scaled(of: u64, by: u64, whole: u64) -> u64 {
    let exact = u128::from(of) * u128::from(by) / u128::from(whole.max(1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

// === impl Part ===

impl Part {
    /// Its backends that count in health, for clients of this node.
    fn meant(&self) -> u32 {
        self.counts.meant(self.narrowing)
    }
}

// === impl Chosen ===

impl Chosen {
    /// The group of a cluster's backends that are so; `None` where they are not used.
    pub(crate) fn group(&self, cluster: ClusterId, backend_health: BackendHealth) -> Option<Group> {
        let key = (cluster, backend_health);
        let at = self.groups.binary_search_by_key(&key, |(c, s, _)| (*c, *s)).ok()?;
        self.groups.get(at).map(|(_, _, group)| *group)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The clusters of which other backends are used, or in another group.
    pub(crate) fn differences(&self, other: &Self) -> BTreeSet<ClusterId> {
        if self.groups == other.groups {
            return BTreeSet::new();
        }
        // Both are in order: one walk along both.
        let (mut mine, mut theirs) =
            (self.groups.iter().peekable(), other.groups.iter().peekable());
        let mut differ = BTreeSet::new();
        loop {
            let only = match (mine.peek(), theirs.peek()) {
                (Some(one), Some(other)) if one == other => {
                    mine.next();
                    theirs.next();
                    continue;
                }
                (Some(one), Some(other)) if one > other => theirs.next(),
                (Some(_), _) => mine.next(),
                (None, _) => theirs.next(),
            };
            match only {
                Some((cluster, _, _)) => differ.insert(*cluster),
                None => return differ,
            };
        }
    }
}

// === impl Pass ===

impl Pass {
    /// In their order.
    fn all() -> impl Iterator<Item = Self> {
        let each = [Reach::Alive, Reach::Unverified, Reach::All].into_iter();
        each.flat_map(|reach| {
            [false, true].into_iter().flat_map(move |terminating| {
                [false, true].into_iter().map(move |weightless| Self {
                    reach,
                    terminating,
                    weightless,
                })
            })
        })
    }

    /// Whether it uses backends on a node that is so.
    pub(crate) fn reaches(self, node: NodeHealth) -> bool {
        match self.reach {
            Reach::Alive => node == NodeHealth::Alive,
            Reach::Unverified => node != NodeHealth::Dead,
            Reach::All => true,
        }
    }

    /// Whether it uses backends of clusters that are cut.
    pub(crate) fn reaches_cut(self) -> bool {
        self.reach == Reach::All
    }

    /// How many backends of a cluster it would use.
    fn usable(self, part: &Part) -> u64 {
        if self.weightless != (part.place.weight == 0) {
            return 0;
        }
        self.healths(part).map(|backend_health| u64::from(part.counts.of(backend_health))).sum()
    }

    /// How backends of a cluster are that it would use.
    fn healths(self, part: &Part) -> impl Iterator<Item = BackendHealth> {
        let condition = if self.terminating { Condition::Terminating } else { Condition::Ready };
        let nodes = [NodeHealth::Alive, NodeHealth::Unverified, NodeHealth::Dead].into_iter();
        let reaches =
            move |node: &NodeHealth| self.reaches(*node) && (!part.cut || self.reaches_cut());
        nodes.filter(reaches).flat_map(move |node| {
            let located = part.counts.localities_of(condition, node);
            let located = located.filter(|locality| locality.is_used(part.narrowing));
            std::iter::once(Locality::Any)
                .chain(located)
                .map(move |locality| BackendHealth::new(condition, node, locality))
        })
    }

    /// The weight that counts in it.
    fn weight(self, part: &Part) -> u32 {
        if self.weightless { 1 } else { part.place.weight }
    }
}
