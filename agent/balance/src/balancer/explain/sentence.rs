//! Reasons as sentences, with their numbers.

use mesh_model::ClusterId;

use super::View;
use crate::{
    explanation::{Reason, Share, Usage},
    nodes::Nodes,
    pool::Location,
    traffic_policy::Placement,
};

impl View<'_> {
    pub(super) fn sentence(
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
            Reason::NoPort => "it has no port that a frontend could lead to".into(),
            Reason::Sctp => "SCTP is carried between clusters and not balanced".into(),
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
