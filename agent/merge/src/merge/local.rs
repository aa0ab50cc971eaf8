//! What only the local cluster exports to its nodes: namespaces, policies, and this node's pods.

use std::{net::IpAddr, sync::Arc};

use mesh_model::{
    ClusterName, LocalNamespace, LocalPod, LocalPolicy, NamedPort, PolicyRef, RecordKind, Refusal,
};

use super::{Delta, Merge};
use crate::accounting::{leaf, list, slot, text};

/// A pod of the local cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl PodName {
    /// A pod by namespace and name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl Merge {
    /// A pod of the local cluster on a node whose pods are followed: this one. It is known by name as soon as it has
    /// the node.
    pub fn local_pod(&self, namespace: &str, name: &str) -> Option<&LocalPod> {
        let local = self.clusters.get(&self.local)?;
        local.pods.get(&PodName::new(namespace, name)).map(|(pod, _)| pod)
    }

    /// All of them.
    pub fn local_pods(&self) -> impl Iterator<Item = &LocalPod> {
        self.clusters
            .get(&self.local)
            .into_iter()
            .flat_map(|local| &local.pods)
            .map(|(_, (pod, _))| pod)
    }

    /// A namespace of the local cluster.
    pub fn local_namespace(&self, name: &str) -> Option<&LocalNamespace> {
        self.clusters.get(&self.local)?.namespaces.get(name).map(|(namespace, _)| namespace)
    }

    /// A policy of the local cluster.
    pub fn local_policy(&self, policy: &PolicyRef) -> Option<&LocalPolicy> {
        self.clusters.get(&self.local)?.policies.get(policy).map(|(policy, _)| policy)
    }

    /// All of them, in order.
    pub fn local_policies(&self) -> impl Iterator<Item = &LocalPolicy> {
        let local = self.clusters.get(&self.local).into_iter();
        local.flat_map(|local| &local.policies).map(|(_, (policy, _))| policy)
    }

    pub(super) fn set_policy(&mut self, name: &ClusterName, policy: LocalPolicy) {
        let Some(cluster) = self.clusters.get_mut(name).filter(|_| *name == self.local) else {
            return;
        };
        let round = cluster.round(RecordKind::Policy);
        let bytes = policy_bytes(&policy);
        let key = policy.reference.clone();
        let before = cluster.policies.insert(key.clone(), (policy, round));
        let was = before.as_ref().map(|(policy, round)| (policy_bytes(policy), *round));
        cluster.note(RecordKind::Policy, was, Some(bytes));
        let now = cluster.policies.get(&key).map(|(policy, _)| policy);
        if before.as_ref().map(|(policy, _)| policy) != now {
            self.deltas.push(Delta::Policy(key));
        }
    }

    pub(super) fn remove_policy(&mut self, name: &ClusterName, policy: &PolicyRef) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        if let Some((known, round)) = cluster.policies.remove(policy) {
            cluster.note(RecordKind::Policy, Some((policy_bytes(&known), round)), None);
            self.deltas.push(Delta::Policy(policy.clone()));
        }
    }

    pub(super) fn set_namespace(&mut self, name: &ClusterName, namespace: LocalNamespace) {
        let Some(cluster) = self.clusters.get_mut(name).filter(|_| *name == self.local) else {
            return;
        };
        let round = cluster.round(RecordKind::Namespace);
        let bytes = namespace_bytes(&namespace);
        let before = cluster.namespaces.insert(namespace.name.clone(), (namespace, round));
        let before = before.map(|(namespace, round)| (namespace_bytes(&namespace), round));
        cluster.note(RecordKind::Namespace, before, Some(bytes));
    }

    pub(super) fn remove_namespace(&mut self, name: &ClusterName, namespace: &str) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        if let Some((namespace, round)) = cluster.namespaces.remove(namespace) {
            cluster.note(RecordKind::Namespace, Some((namespace_bytes(&namespace), round)), None);
        }
    }

    pub(super) fn set_pod(&mut self, name: &ClusterName, pod: LocalPod) {
        let Some(cluster) = self.clusters.get_mut(name).filter(|_| *name == self.local) else {
            return;
        };
        let round = cluster.round(RecordKind::Pod);
        let key = PodName::new(&pod.namespace, &pod.name);
        let bytes = pod_bytes(&pod);
        let before = cluster.pods.insert(key.clone(), (pod, round));
        let was = before.as_ref().map(|(pod, round)| (pod_bytes(pod), *round));
        cluster.note(RecordKind::Pod, was, Some(bytes));
        if before.map(|(pod, _)| pod).as_ref() != cluster.pods.get(&key).map(|(pod, _)| pod) {
            self.deltas.push(Delta::Pod(key));
        }
    }

    /// A pod that has moved is another node's key, and the old key's end is not the pod's.
    pub(super) fn remove_pod(&mut self, name: &ClusterName, node: &str, pod: &PodName) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        if cluster.pods.get(pod).is_none_or(|(known, _)| known.node != node) {
            return;
        }
        if let Some((known, round)) = cluster.pods.remove(pod) {
            cluster.note(RecordKind::Pod, Some((pod_bytes(&known), round)), None);
            self.deltas.push(Delta::Pod(pod.clone()));
        }
    }
}

pub(super) fn namespace_bytes(namespace: &LocalNamespace) -> u64 {
    let labels = namespace.labels.iter();
    let labels = labels.map(|(key, value)| leaf::<(String, String)>() + text(key) + text(value));
    slot::<String, (LocalNamespace, u32)>() + 2 * text(&namespace.name) + labels.sum::<u64>()
}

pub(super) fn policy_bytes(policy: &LocalPolicy) -> u64 {
    let LocalPolicy { reference: PolicyRef { namespace, name, .. }, json, refused } = policy;
    let refused = refused
        .iter()
        .map(|Refusal { field, reason, .. }| list::<Refusal>(1) + text(field) + text(reason));
    let names = 2 * (text(namespace) + text(name));
    leaf::<(PolicyRef, (LocalPolicy, u32))>() + names + text(json) + refused.sum::<u64>()
}

pub(super) fn pod_bytes(pod: &LocalPod) -> u64 {
    let LocalPod { namespace, name, node, uid, ips, named_ports, .. } = pod;
    let texts = 2 * (text(namespace) + text(name)) + text(node) + text(uid);
    let ports = named_ports.iter().map(|port| text(&port.name)).sum::<u64>()
        + list::<NamedPort>(named_ports.len());
    slot::<PodName, (LocalPod, u32)>() + texts + list::<IpAddr>(ips.len()) + ports
}
