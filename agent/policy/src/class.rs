//! What can be at the other end of a flow, as far as policies tell it apart.

use std::{collections::BTreeSet, sync::Arc};

use mesh_model::{Label, Labels};
use mesh_policy_rules::Entity;

/// What policies tell apart at the other end of a flow. Each has a row of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A pod: the number of its label set, and its cluster.
    Pod(u32, Arc<str>),
    /// An address of this cluster's pods of which nothing more is known.
    Unknown(String),
    /// A service of the own cluster, untranslated.
    Service,
    /// The node on which the judged pod is.
    Host {
        /// The own cluster's API server is on it.
        kube_apiserver: bool,
    },
    /// Any other node.
    RemoteNode {
        /// The own cluster's API server is on it.
        kube_apiserver: bool,
    },
    /// What is not in the mesh.
    World {
        /// An IPv6 address.
        v6: bool,
        /// It is the own cluster's API server.
        kube_apiserver: bool,
    },
}

/// The source of reserved labels.
pub(crate) const RESERVED: &str = "reserved";

/// Pods that Cilium gives a reserved identity.
const OF_PODS: [(&str, Entity); 4] = [
    ("init", Entity::Init),
    ("ingress", Entity::Ingress),
    ("health", Entity::Health),
    ("unmanaged", Entity::Unmanaged),
];

// === impl Class ===

impl Class {
    /// All that are not of a cluster.
    pub fn reserved() -> impl Iterator<Item = Self> {
        let both = [false, true];
        let nodes = both.into_iter().flat_map(|kube_apiserver| {
            [Self::Host { kube_apiserver }, Self::RemoteNode { kube_apiserver }]
        });
        let world = both.into_iter().flat_map(move |v6| {
            both.into_iter().map(move |kube_apiserver| Self::World { v6, kube_apiserver })
        });
        nodes.chain(world).chain([Self::Service])
    }

    /// Whether nothing is known of it but its cluster.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Its reserved labels, which selectors may name. A pod's labels are its identity's.
    pub fn reserved_labels(&self) -> Labels {
        let (names, kube_apiserver): (&[&str], bool) = match self {
            Self::Pod(..) | Self::Unknown(_) | Self::Service => (&[], false),
            Self::Host { kube_apiserver } => (&["host"], *kube_apiserver),
            Self::RemoteNode { kube_apiserver } => (&["remote-node"], *kube_apiserver),
            Self::World { v6: false, kube_apiserver } => {
                (&["world", "world-ipv4"], *kube_apiserver)
            }
            Self::World { v6: true, kube_apiserver } => (&["world", "world-ipv6"], *kube_apiserver),
        };
        let names = names.iter().copied().chain(kube_apiserver.then_some("kube-apiserver"));
        names
            .map(|key| Label { source: RESERVED.into(), key: key.into(), value: String::new() })
            .collect()
    }

    /// The entities that it is, seen from a cluster. The reserved labels of a pod count in its own cluster only: a peer
    /// may not claim them.
    pub fn entities(&self, own_cluster: &str, labels: &Labels) -> BTreeSet<Entity> {
        let (of, kube_apiserver): (&[Entity], bool) = match self {
            Self::Pod(_, cluster) if **cluster == *own_cluster => {
                (&[Entity::Cluster, Entity::ClusterMesh], false)
            }
            Self::Pod(..) => (&[Entity::ClusterMesh], false),
            Self::Unknown(_) | Self::Service => (&[], false),
            Self::Host { kube_apiserver } => {
                (&[Entity::Host, Entity::Cluster, Entity::ClusterMesh], *kube_apiserver)
            }
            Self::RemoteNode { kube_apiserver } => {
                (&[Entity::RemoteNode, Entity::Cluster, Entity::ClusterMesh], *kube_apiserver)
            }
            Self::World { v6: false, kube_apiserver } => {
                (&[Entity::World, Entity::WorldIpv4], *kube_apiserver)
            }
            Self::World { v6: true, kube_apiserver } => {
                (&[Entity::World, Entity::WorldIpv6], *kube_apiserver)
            }
        };
        let own = matches!(self, Self::Pod(_, cluster) if **cluster == *own_cluster);
        let reserved =
            OF_PODS.iter().filter(|(name, _)| own && labels.get(RESERVED, name).is_some());
        let reserved = reserved.map(|(_, entity)| *entity);
        let api = [Entity::KubeApiserver, Entity::Cluster, Entity::ClusterMesh];
        let api = api.into_iter().filter(|_| kube_apiserver);
        of.iter().copied().chain(api).chain(reserved).collect()
    }
}

/// Whether an entity could be something of a cluster: a deny of it then holds for what is unknown of that cluster.
pub(crate) fn could_be_of(entity: Entity, cluster: &str, own_cluster: &str) -> bool {
    match entity {
        // Nodes of any cluster are remote nodes, and those are part of both groups.
        Entity::Cluster | Entity::ClusterMesh | Entity::RemoteNode => true,
        Entity::Host
        | Entity::KubeApiserver
        | Entity::Init
        | Entity::Ingress
        | Entity::Health
        | Entity::Unmanaged => cluster == own_cluster,
        Entity::World | Entity::WorldIpv4 | Entity::WorldIpv6 | Entity::None => false,
    }
}

/// Whether something of a cluster could have a reserved label, as [`could_be_of`] has it for entities.
pub(crate) fn could_have(reserved: &str, cluster: &str, own_cluster: &str) -> bool {
    match reserved {
        "remote-node" => true,
        "world" | "world-ipv4" | "world-ipv6" => false,
        _ => cluster == own_cluster,
    }
}
