//! The reasons for the choice of a frontend's backends: its service's settings, tiers and groups.

use mesh_admin::v1::{FrontendExplanation, TrafficGroup, TrafficTier};
use mesh_balance::{Explanation, Share};
use mesh_model::Affinity;
use serde::Serialize;

use super::{part, size};

/// The reasons for the choice.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownChoice {
    pub(crate) global: bool,
    pub(crate) affinity: String,
    /// In seconds.
    pub(crate) session_affinity: Option<u32>,
    pub(crate) minimum_healthy_percent: Option<u8>,
    /// Whether weights are those of `clusters` or of `backends`; `None` without weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weights_of: Option<String>,
    /// `Local` if connections stay on their node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) internal_traffic_policy: Option<&'static str>,
    /// Whether the service asks for topology hints, which are followed if they are complete.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) topology_hints: bool,
    /// Which backends are in use, as a word: `ready`, or the condition under which others are used.
    pub(crate) basis: String,
    /// Whether the frontend is in the kernel's tables; `false` if it is left to kube-proxy.
    pub(crate) taken: bool,
    pub(crate) tiers: Vec<ShownTier>,
    pub(crate) groups: Vec<ShownGroup>,
}

/// Clusters that are used together, before or after those of other tiers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownTier {
    pub(crate) tier: usize,
    pub(crate) clusters: Vec<ShownCluster>,
    pub(crate) usable: u64,
    pub(crate) meant: u64,
    /// From 0 to 1, as the two below.
    pub(crate) health: f64,
    pub(crate) capacity: f64,
    pub(crate) load: f64,
}

/// A cluster in a tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ShownCluster {
    pub(crate) cluster: String,
    pub(crate) weight: u32,
    pub(crate) state: String,
    pub(crate) usable: u64,
}

/// Backends with the same share.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownGroup {
    pub(crate) group: usize,
    pub(crate) tier: usize,
    pub(crate) weight: u32,
    pub(crate) backends: u64,
    pub(crate) kernel_weight: u32,
    pub(crate) share: f64,
}

// === impl ShownChoice ===

impl ShownChoice {
    pub(super) fn new(explanation: &Explanation) -> Self {
        let traffic = &explanation.traffic;
        let tiers = explanation.tiers.iter().map(|tier| ShownTier {
            tier: tier.number,
            clusters: tier
                .clusters
                .iter()
                .map(|cluster| ShownCluster {
                    cluster: cluster.cluster.to_string(),
                    weight: cluster.weight,
                    state: cluster.state.as_str().into(),
                    usable: cluster.usable,
                })
                .collect(),
            usable: tier.usable,
            meant: tier.meant,
            health: part(tier.health),
            capacity: part(tier.capacity),
            load: part(tier.load),
        });
        let groups = explanation.groups.iter().map(|group| ShownGroup {
            group: group.group.number(),
            tier: group.tier,
            weight: group.weight,
            backends: group.backends,
            kernel_weight: group.kernel_weight,
            share: part(group.share),
        });
        Self {
            global: traffic.global,
            affinity: if traffic.global { traffic.affinity } else { Affinity::None }.to_string(),
            session_affinity: traffic.session_affinity,
            minimum_healthy_percent: traffic.minimum_healthy,
            weights_of: (!traffic.weights.is_empty())
                .then(|| traffic.weights_of.as_str().to_owned()),
            internal_traffic_policy: traffic.internal_traffic_local.then_some("Local"),
            topology_hints: traffic.topology_hints,
            basis: explanation.basis.as_str().into(),
            taken: explanation.settings.is_some(),
            tiers: tiers.collect(),
            groups: groups.collect(),
        }
    }
}

impl ShownChoice {
    pub(super) fn of_agent(reported: &FrontendExplanation) -> Self {
        let traffic = reported.traffic.clone().unwrap_or_default();
        let tier = |tier: &TrafficTier| ShownTier {
            tier: size(tier.number),
            clusters: tier
                .clusters
                .iter()
                .map(|cluster| ShownCluster {
                    cluster: cluster.cluster.clone(),
                    weight: cluster.weight,
                    state: cluster.state.clone(),
                    usable: cluster.usable,
                })
                .collect(),
            usable: tier.usable,
            meant: tier.meant,
            health: part(Share(tier.health_billionths)),
            capacity: part(Share(tier.capacity_billionths)),
            load: part(Share(tier.load_billionths)),
        };
        let group = |group: &TrafficGroup| ShownGroup {
            group: size(group.group),
            tier: size(group.tier),
            weight: group.cluster_weight,
            backends: group.backends,
            kernel_weight: group.kernel_weight,
            share: part(Share(group.share_billionths)),
        };
        Self {
            global: traffic.global,
            affinity: if traffic.global { traffic.affinity } else { Affinity::None.to_string() },
            session_affinity: Some(traffic.session_affinity_seconds).filter(|seconds| *seconds > 0),
            minimum_healthy_percent: Some(traffic.minimum_healthy_percent)
                .filter(|percent| *percent > 0)
                .and_then(|percent| u8::try_from(percent).ok()),
            weights_of: Some(traffic.weights_of).filter(|of| !of.is_empty()),
            internal_traffic_policy: traffic.internal_traffic_local.then_some("Local"),
            topology_hints: traffic.topology_hints,
            basis: reported.basis.clone(),
            taken: reported.settings.is_some(),
            tiers: reported.tiers.iter().map(tier).collect(),
            groups: reported.groups.iter().map(group).collect(),
        }
    }
}
