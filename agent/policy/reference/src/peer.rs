//! The other end of a flow, as rules of both kinds see it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    labels::{CLUSTER, Label, Requirement},
    unsupported::Unsupported,
    world::{Place, World},
};

/// The other end of a flow, seen from a policy.
pub(crate) struct Peer<'a> {
    pub(crate) world: &'a World,
    /// The cluster of the policy.
    pub(crate) cluster: &'a str,
    /// The node of the pod that the policy governs.
    pub(crate) node: &'a str,
    /// What the other end is.
    pub(crate) place: &'a Place,
    /// The address that it uses.
    pub(crate) address: Option<IpAddr>,
    /// Whether the rule denies: what is unknown is then matched by all that it could be.
    pub(crate) denies: bool,
}

// === impl Peer ===

impl Peer<'_> {
    /// Cilium documentation, "Network Policy in Cluster Mesh": since 1.19 what names no cluster is of the policy's own.
    /// Selectors over reserved labels are left alone.
    pub(crate) fn is_selected(&self, mut requirements: Vec<Requirement>) -> bool {
        let is_scoped = requirements.iter().any(|one| one.key == CLUSTER || one.is_reserved());
        if self.world.options.default_local_cluster && !is_scoped {
            requirements.push(Requirement::equals(CLUSTER, self.cluster));
        }
        let holds = |labels: &[Label]| requirements.iter().all(|one| one.holds(labels));
        match self.place {
            Place::Pod { labels, .. } => holds(labels),
            Place::Node { .. } | Place::World { .. } => holds(&self.reserved_labels()),
            // It could have any labels, but for those that say that it is elsewhere.
            Place::Unknown { cluster } => {
                let labels = [Label::new("k8s", CLUSTER, cluster)];
                let could_hold = |one: &Requirement| match one.is_reserved() {
                    true => one.holds(&[]) || self.is_entity(&one.key),
                    false => one.key != CLUSTER || one.holds(&labels),
                };
                self.denies && requirements.iter().all(could_hold)
            }
        }
    }

    /// Cilium, pkg/identity/numericidentity.go: the labels of reserved identities.
    fn reserved_labels(&self) -> Vec<Label> {
        let names = ["host", "remote-node", "world", "world-ipv4", "world-ipv6", "kube-apiserver"];
        let names = names.into_iter().filter(|name| self.is_entity(name));
        names.map(|name| Label::new("reserved", name, "")).collect()
    }

    /// Cilium documentation, "Entities based", and pkg/policy/api/entity.go.
    pub(crate) fn is_entity(&self, name: &str) -> bool {
        if name == "all" {
            return true;
        }
        match self.place {
            Place::Pod { cluster, labels, .. } => {
                let is_own = cluster == self.cluster;
                let is_reserved = |label: &Label| label.source == "reserved" && label.key == name;
                match name {
                    "cluster-mesh" => true,
                    "cluster" => is_own,
                    "init" | "ingress" | "health" | "unmanaged" => {
                        is_own && labels.iter().any(is_reserved)
                    }
                    _ => false,
                }
            }
            Place::Node { cluster, name: node, api_server_of } => {
                let is_host = cluster == self.cluster && node == self.node;
                match name {
                    "host" => is_host,
                    "remote-node" => !is_host,
                    "cluster" | "cluster-mesh" => true,
                    "kube-apiserver" => api_server_of.as_deref() == Some(self.cluster),
                    _ => false,
                }
            }
            Place::World { api_server_of } => match name {
                "world" => true,
                "world-ipv4" => self.address.is_some_and(|one| one.is_ipv4()),
                "world-ipv6" => self.address.is_some_and(|one| one.is_ipv6()),
                "kube-apiserver" | "cluster" | "cluster-mesh" => {
                    api_server_of.as_deref() == Some(self.cluster)
                }
                _ => false,
            },
            Place::Unknown { cluster } => {
                let could_be = match name {
                    // Nodes of any cluster are remote nodes, and those are part of both.
                    "remote-node" | "cluster" | "cluster-mesh" => true,
                    "host" | "kube-apiserver" | "init" | "ingress" | "health" | "unmanaged" => {
                        cluster == self.cluster
                    }
                    _ => false,
                };
                self.denies && could_be
            }
        }
    }

    /// Kubernetes API reference, IPBlock; Cilium documentation, "CIDR based". Addresses in the mesh are in a range only as
    /// the option says; an unknown one is in the mesh.
    pub(crate) fn is_in<'c>(
        &self,
        cidr: &str,
        mut except: impl Iterator<Item = &'c str>,
        network_policy: bool,
    ) -> Result<bool, Unsupported> {
        let counts = match (self.world.options.cidr_match.as_str(), self.place) {
            (_, Place::World { .. }) => true,
            (_, Place::Unknown { .. }) if !self.denies => false,
            ("all", _) => true,
            ("none", _) => false,
            _ => network_policy,
        };
        let Some(address) = self.address.filter(|_| counts) else { return Ok(false) };
        let contains = |cidr: &str| {
            let range: Result<IpNet, _> = cidr.parse();
            range
                .map(|range| range.contains(&address))
                .map_err(|_| Unsupported(format!("the range {cidr}")))
        };
        Ok(contains(cidr)? && !except.try_fold(false, |is, one| Ok(is | contains(one)?))?)
    }
}
