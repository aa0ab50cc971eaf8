//! One form for the rules of all kinds.

use ipnet::IpNet;
use mesh_model::{PolicyRef, Protocol};

use crate::selector::Selector;

/// A policy that was understood: for each of its specs one rule. A NetworkPolicy has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub reference: PolicyRef,
    /// Its specs, in their order.
    pub rules: Vec<Rule>,
}

/// One spec: the pods that it selects, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The pods of the policy's cluster, by their labels; the policy's namespace is among them where it has one.
    pub subject: Selector,
    /// What may reach them.
    pub ingress: DirectionRules,
    /// What they may reach.
    pub egress: DirectionRules,
}

/// One direction of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectionRules {
    /// What no rule allows is denied.
    pub default_deny: bool,
    /// Allows and denies.
    pub rules: Vec<PortRule>,
}

/// One entry of a list of rules: these peers, at these ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// Where it is within the object's spec: `ingress[0]`, `egressDeny[1]`; with several specs `specs[2].ingress[0]`.
    pub path: String,
    /// Allow or deny.
    pub action: Action,
    /// The other end.
    pub peers: Peers,
    /// The ports of the receiving end.
    pub ports: Ports,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Denies come first: no allow takes one back.
    Deny,
    /// Allow.
    Allow,
}

/// The other ends of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Everything, unknown addresses included: the rule has no L3 part, or the entity `all`.
    Any,
    /// What one of these matches; without any, nothing.
    Of(Vec<Peer>),
}

/// One other end of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods by labels. The scope of one that names no cluster is the policy's cluster, if that is the default.
    Pods(Selector),
    /// What is reserved.
    Entity(Entity),
    /// Addresses.
    Cidr(CidrRule),
    /// The backends of services of the policy's cluster.
    Service(ServiceMatch),
}

/// Addresses of a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CidrRule {
    /// The range, its host bits cleared.
    pub cidr: IpNet,
    /// Ranges within it that are left out.
    pub except: Vec<IpNet>,
    /// From an `ipBlock` of a NetworkPolicy: matches pods by address too (`--cidr-match`).
    pub network_policy: bool,
}

/// The entities of Cilium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity {
    /// What is no pod, node or service of the mesh.
    World,
    /// As `World`, its IPv4 addresses.
    WorldIpv4,
    /// As `World`, its IPv6 addresses.
    WorldIpv6,
    /// Pods of the own cluster, all nodes, and what is reserved beside the world.
    Cluster,
    /// As `Cluster`, with the pods of all clusters.
    ClusterMesh,
    /// The pod's own node.
    Host,
    /// All other nodes, of any cluster.
    RemoteNode,
    /// The API server of the own cluster.
    KubeApiserver,
    /// Pods whose identity is not known yet.
    Init,
    /// Cilium's ingress.
    Ingress,
    /// Cilium's health endpoints.
    Health,
    /// Pods that Cilium does not manage.
    Unmanaged,
    /// Nothing.
    None,
}

/// Services by name or labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceMatch {
    /// One service.
    Named {
        /// Its namespace; `None`: those of this name in all namespaces.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// Services by their labels (sources are not looked at).
    Labels {
        /// Of one namespace; `None`: of all.
        namespace: Option<String>,
        /// Over the services' labels.
        selector: Selector,
    },
}

/// The ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every port of every protocol, ICMP included.
    Any,
    /// One of these; without any, nothing.
    Of(Vec<PortMatch>),
}

/// One match of ports or ICMP types.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Ports by number; all of a protocol are 0–65535.
    Range {
        /// The protocol.
        protocol: Protocol,
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// A port by the name that the receiving pod gives it.
    Named {
        /// The protocol; `None`: TCP, UDP or SCTP.
        protocol: Option<Protocol>,
        /// The name.
        name: String,
    },
    /// An ICMP type, with any code.
    Icmp {
        /// ICMP or ICMPv6.
        family: IcmpFamily,
        /// The type.
        kind: u8,
    },
    /// A protocol without ports, whatever is inside.
    Protocol(u8),
}

/// ICMP of IPv4 or of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IcmpFamily {
    /// ICMP.
    V4,
    /// ICMPv6.
    V6,
}
