//! Pods, nodes and policies of all clusters, and what each cluster decides of a flow.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use mesh_model::{Labels, NamedPort, Protocol};
use mesh_policy_rules::{IcmpFamily, Policy, PolicyRef};

use crate::options::Options;

/// Names a pod in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// Its cluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A pod with an identity of its own. One on its node's network is none: it is its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: PodName,
    /// The labels of its identity, the cluster's and the namespace's included.
    pub labels: Labels,
    /// Its node, or empty.
    pub node: String,
    /// Its addresses; may be empty.
    pub ips: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Its addresses; may be empty.
    pub ips: Vec<IpAddr>,
    /// The cluster whose API server runs on it.
    pub kube_apiserver_of: Option<String>,
}

/// An address outside the mesh about which something is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The address.
    pub ip: IpAddr,
    /// The cluster whose API server it is.
    pub kube_apiserver_of: Option<String>,
}

/// A service of a cluster, for rules that name services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its cluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its selector; empty: its backends come from elsewhere.
    pub selector: BTreeMap<String, String>,
    /// The addresses of its backends.
    pub backends: Vec<IpAddr>,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A pod, and the address that it uses, if it has one of the flow's family.
    Pod(PodName, Option<IpAddr>),
    /// A node by cluster and name, and the address that it uses.
    Node(String, String, Option<IpAddr>),
    /// An address. It is looked up: a pod's or node's address is that pod or node.
    Address(IpAddr),
}

/// What a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// To a port of the receiving end.
    Port(Protocol, u16),
    /// An ICMP message of a type, with any code.
    Icmp(IcmpFamily, u8),
}

/// What both ends' clusters decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where the flow leaves.
    pub egress: Directed,
    /// Where it arrives.
    pub ingress: Directed,
}

/// What one end's cluster decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directed {
    /// No policy is enforced at this end: it is no pod.
    NotEnforced,
    /// It passes.
    Allowed(Decision),
    /// It is dropped.
    Denied(Decision),
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The kind of reason.
    pub kind: DecisionKind,
    /// The policies: of the rule, or for a default deny all that select the pod in this direction.
    pub policies: Vec<PolicyRef>,
    /// The rule's path within the first policy, as in `ingress[0]`.
    pub rule: Option<String>,
}

/// Seven kinds of reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionKind {
    /// No policy has default deny for the pod in this direction, and no rule matches.
    DefaultAllow,
    /// A rule allows it, and none denies it.
    AllowRule,
    /// A rule denies it.
    DenyRule,
    /// Policies select the pod, and no rule allows it.
    DefaultDeny,
    /// The pod's own node may always reach it.
    AllowLocalhost,
    /// Enforcement is switched off.
    EnforcementOff,
    /// A pod may always reach itself.
    SamePod,
}

/// All clusters, their pods and their policies.
#[derive(Debug)]
pub struct Mesh {
    options: Options,
}

impl Mesh {
    /// An empty mesh.
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// Adds a pod, or replaces the one of this name.
    pub fn put_pod(&mut self, pod: Pod) {
        let _ = pod;
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, name: &PodName) {
        let _ = name;
    }

    /// Adds a node, or replaces the one of this name.
    pub fn put_node(&mut self, node: Node) {
        let _ = node;
    }

    /// Removes a node.
    pub fn remove_node(&mut self, cluster: &str, name: &str) {
        let _ = (cluster, name);
    }

    /// Adds what is known of an address outside the mesh.
    pub fn put_external(&mut self, external: External) {
        let _ = external;
    }

    /// Forgets what is known of an address outside the mesh.
    pub fn remove_external(&mut self, ip: IpAddr) {
        let _ = ip;
    }

    /// Adds a range of a cluster's pods: an address of it that no pod has is *unknown of the cluster*, never world.
    pub fn put_pod_range(&mut self, cluster: &str, range: IpNet) {
        let _ = (cluster, range);
    }

    /// Adds a service, or replaces the one of this name.
    pub fn put_service(&mut self, service: Service) {
        let _ = service;
    }

    /// Removes a service.
    pub fn remove_service(&mut self, cluster: &str, namespace: &str, name: &str) {
        let _ = (cluster, namespace, name);
    }

    /// Adds a policy of a cluster, or replaces the one of this name.
    pub fn put_policy(&mut self, cluster: &str, policy: Policy) {
        let _ = (cluster, policy);
    }

    /// Removes a policy of a cluster.
    pub fn remove_policy(&mut self, cluster: &str, policy: &PolicyRef) {
        let _ = (cluster, policy);
    }

    /// What is decided of a flow.
    pub fn judge(&self, from: &End, to: &End, traffic: Traffic) -> Answer {
        let _ = (from, to, traffic, self.options);
        Answer { egress: Directed::NotEnforced, ingress: Directed::NotEnforced }
    }
}
