//! The inputs and outputs of the core.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mesh_follow::Budget;
use mesh_follow::{PeerCommand, PeerEvent};
use mesh_health::{Ending, Order, Verdict};
use mesh_merge::{AddressDelta, Claims, RangeDelta};
use mesh_model::{
    ClusterId, ClusterName, Identity, KnownIdentities, PolicyRef, Record,
    lb::{Backend, Change, RouteDelta},
};
use mesh_pods::{Attachment, AttachmentFound, AttachmentKey, PodAnswer, PodNetns};
use uuid::Uuid;

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// A follower has events of its cluster, in order, and this is its connection now.
    Events(ClusterName, Vec<PeerEvent>, Connection),
    /// How a follower's connection is now.
    Connection(ClusterName, Connection),
    /// A cluster is followed: for the first time, or with other settings than before. Its follower is a new one.
    Follow(ClusterName, PeerSettings),
    /// A cluster is no longer followed, because its peer file is gone.
    Unfollow(ClusterName),
    /// The peer files were read.
    PeersRead {
        /// Their errors.
        problems: Vec<String>,
        /// Any cluster that is not followed now is no peer.
        complete: bool,
        /// Clusters whose backends are to be used only where nothing else answers.
        drained: BTreeSet<ClusterName>,
    },
    /// A verdict of health on a node or a cluster.
    Verdict(Verdict),
    /// Attachments, as the folder has them; all there are, where `complete`.
    Attachments {
        /// The attachments in the scan.
        found: Vec<AttachmentFound>,
        /// The whole folder was scanned.
        complete: bool,
        /// All network namespaces of pods, if they are others than before.
        namespaces: Option<Vec<PodNetns>>,
    },
    /// Whether a kube-proxy runs on this node.
    KubeProxy(KubeProxy),
    /// Another time.
    Timeout,
}

/// An operator's settings for a followed cluster.
#[derive(Clone, Debug, Default)]
pub struct PeerSettings {
    /// What it may claim; `None` without a grant, as for the local cluster.
    pub claims: Option<Claims>,
    /// The UUID that it must have, if that is known.
    pub uuid: Option<Uuid>,
    /// How much it may have and report; `None` for the local cluster.
    pub budget: Option<Budget>,
}

/// A follower's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// It is connected.
    pub connected: bool,
    /// It is connected, and all that the cluster has was read over it.
    pub synced: bool,
    /// How often the local cluster's writer has reported so far that it lives.
    pub beats: u64,
}

/// Whether a kube-proxy runs on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KubeProxy {
    /// It does.
    Present,
    /// It does not, or there was no look yet.
    #[default]
    Absent,
}

/// The result of lifting a quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifted {
    /// The peer's updates are accepted again, from a new list on.
    Relisted,
    /// It was in none.
    NotQuarantined,
    /// There is no such peer.
    UnknownPeer,
}

/// A cluster's state in the previous run, from its snapshot.
#[derive(Clone, Debug)]
pub struct RestoredCluster {
    /// Its id then.
    pub id: ClusterId,
    /// Which cluster it was, if it reported that.
    pub uuid: Option<Uuid>,
    /// Its records. Empty where the kernel has what they led to, and knows better.
    pub records: Vec<Record>,
    /// Its identities and addresses.
    pub known: KnownIdentities,
}

/// The wanted changes since the last call, by writer. Within a list the order counts; between lists it does not.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Changes of the load balancer's tables.
    pub changes: Vec<Change>,
    /// Routes to other nodes' pods that are wanted, or no longer.
    pub routes: Vec<RouteDelta>,
    /// The inherited state that may be pruned. Each replaces the one before.
    pub prune: Option<Prune>,
    /// Changes of the table of addresses.
    pub addresses: Vec<AddressDelta>,
    /// Changes of the ranges of pods.
    pub ranges: Vec<RangeDelta>,
    /// Identities, by the IDs of their clusters, that have other labels than before, or have them or none now.
    pub identities: Vec<(ClusterId, Identity)>,
    /// Backends that their clusters reported, or removed, in order.
    pub backends: Vec<(Backend, Reported)>,
    /// Sockets to end, or to spare, after what changed in the tables.
    pub endings: Vec<Ending>,
    /// Commands to followers.
    pub commands: Vec<(ClusterName, PeerCommand)>,
    /// Orders for health, in sequence.
    pub orders: Vec<Order>,
    /// Pods whose sockets the programs leave alone, by the cookies of their network namespaces.
    pub unbalanced: Option<BTreeSet<u64>>,
    /// Attachments were added or removed.
    pub attachments_changed: bool,
    /// The node's pods, or what is known of them, may be others than before.
    pub pods_changed: bool,
    /// Policies of the local cluster that are new, changed or gone.
    pub policies: Vec<PolicyRef>,
    /// What the programs must know: services of the local cluster may be out of date, and connections to services that
    /// are not global pass untouched.
    pub local_state: Option<LocalState>,
    /// Clusters whose snapshot on disk is out of date.
    pub snapshots: BTreeSet<ClusterName>,
    /// Clusters that reported their UUID, or that they have none: it goes into their snapshot.
    pub uuids: Vec<(ClusterName, Option<Uuid>)>,
    /// Only these clusters keep a snapshot.
    pub snapshots_of: Option<BTreeSet<ClusterName>>,
    /// Identities of attachments to be kept for the next run.
    pub remember: Vec<(Attachment, Identity)>,
    /// Answers for callers that wait for an attachment's identity.
    pub answers: Vec<(AttachmentKey, PodAnswer)>,
}

/// A cluster's report about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It has it, as before or otherwise.
    Set,
    /// It no longer has it.
    Removed,
}

/// What the programs must know of the local cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalState {
    /// The known state of its services may be out of date.
    pub unsure: bool,
    /// Services that are not global pass to the node's kube-proxy.
    pub plain_passes: bool,
}

/// The previous run's state in the kernel that may be pruned, as far as no cluster has claimed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// The local cluster's services are synced: frontends that it does not have may go.
    pub frontends: bool,
    /// Backends of these clusters may go, where `frontends`.
    pub backends_of: BTreeSet<ClusterId>,
    /// Backends of clusters that are none of these may go too, where `frontends`.
    pub strangers: Option<BTreeSet<ClusterId>>,
    /// Routes inside these ranges may go.
    pub routes_in: Vec<IpNet>,
    /// All routes may go.
    pub all_routes: bool,
}

// === impl Prune ===

impl Prune {
    /// Whether backends of a cluster may go.
    pub fn backends(&self, of: ClusterId) -> bool {
        let stranger = self.strangers.as_ref().is_some_and(|known| !known.contains(&of));
        self.frontends && (self.backends_of.contains(&of) || stranger)
    }

    /// Whether a route may go.
    pub fn route(&self, range: &IpNet) -> bool {
        self.all_routes || self.routes_in.iter().any(|granted| granted.contains(range))
    }
}
