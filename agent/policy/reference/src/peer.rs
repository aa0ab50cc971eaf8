//! The other end of a rule.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::{
    items,
    labels::{CLUSTER, NAMESPACE, OF_NAMESPACE, requirements, selects},
    text,
    world::{End, Kind, World},
};

/// A policy as a rule's peers see it.
pub(crate) struct Of<'a> {
    pub(crate) world: &'a World,
    pub(crate) cluster: &'a str,
    pub(crate) namespace: &'a str,
    /// The pod that is judged.
    pub(crate) pod: &'a End,
    pub(crate) denies: bool,
    /// The address at which the other end is.
    pub(crate) address: Option<IpAddr>,
}

type Requirements = Vec<(String, String, Vec<String>)>;

impl Of<'_> {
    /// Kubernetes API reference, NetworkPolicyPeer: an absent or empty list is everybody.
    pub(crate) fn network_policy(&self, rule: &Value, list: &str, peer: &End) -> bool {
        let peers = items(rule, list);
        peers.is_empty()
            || peers.iter().any(|one| {
                if let Some(block) = one.get("ipBlock") {
                    return self.range(text(block, "/cidr"), items(block, "/except"), peer, true);
                }
                let mut all = match one.get("namespaceSelector") {
                    Some(namespaces) => {
                        let mut all = requirements(namespaces, "");
                        for (key, ..) in &mut all {
                            *key = format!("k8s:{OF_NAMESPACE}{key}");
                        }
                        all.push((format!("k8s:{NAMESPACE}"), "Exists".into(), Vec::new()));
                        all
                    }
                    None => vec![in_namespace(self.namespace)],
                };
                all.extend(
                    one.get("podSelector")
                        .map(|pods| requirements(pods, "k8s:"))
                        .into_iter()
                        .flatten(),
                );
                self.pods(all, peer)
            })
    }

    /// Cilium docs, "Layer 3 Examples": members that are there are joined by "or"; a rule without any needs ports.
    pub(crate) fn cilium(&self, rule: &Value, ingress: bool, peer: &End) -> bool {
        let word = if ingress { "from" } else { "to" };
        let list = |name: &str| rule.get(format!("{word}{name}"));
        let names = ["Endpoints", "Entities", "CIDR", "CIDRSet", "Services"];
        if names.iter().all(|name| list(name).is_none()) {
            return !items(rule, "/toPorts").is_empty() || !items(rule, "/icmps").is_empty();
        }
        let all = |name: &str| list(name).and_then(Value::as_array).cloned().unwrap_or_default();
        all("Endpoints").iter().any(|selector| self.endpoints(selector, peer))
            || all("Entities").iter().any(|one| self.entity(one.as_str().unwrap_or_default(), peer))
            || all("CIDR")
                .iter()
                .any(|one| self.range(one.as_str().unwrap_or_default(), &[], peer, false))
            || all("CIDRSet")
                .iter()
                .any(|one| self.range(text(one, "/cidr"), items(one, "/except"), peer, false))
            || all("Services").iter().any(|one| self.service(one, peer))
    }

    fn endpoints(&self, selector: &Value, peer: &End) -> bool {
        let mut all = requirements(selector, "any:");
        sourced(&mut all);
        let is_of = |key: &str, name: &str| {
            key.split_once(':').is_some_and(|(_, key)| key.starts_with(name))
        };
        let names = |name: &str| all.iter().any(|(key, ..)| is_of(key, name));
        let (of_namespace, of_labels) = (names(NAMESPACE), names(OF_NAMESPACE));
        let reserved = all.iter().any(|(key, ..)| key.starts_with("reserved:"));
        match self.namespace {
            _ if reserved || of_namespace => {}
            "" => all.push((format!("k8s:{NAMESPACE}"), "Exists".into(), Vec::new())),
            _ if of_labels => {}
            namespace => all.push(in_namespace(namespace)),
        }
        self.pods(all, peer)
    }

    /// Pods by labels: of the policy's cluster, unless another is named (Cilium 1.19, `policy-default-local-cluster`).
    fn pods(&self, mut all: Requirements, peer: &End) -> bool {
        let local = self.world.options.get("defaultLocalCluster") != Some(&Value::Bool(false));
        let cluster = format!("k8s:{CLUSTER}");
        if local && !all.iter().any(|(key, ..)| *key == cluster || key.starts_with("reserved:")) {
            all.push((cluster.clone(), "In".into(), vec![self.cluster.to_owned()]));
        }
        match peer.kind {
            Kind::Pod => selects(&all, &peer.labels),
            // What is unknown could be a pod with any labels, but for its cluster.
            Kind::Unknown => {
                let of_cluster: Requirements =
                    all.into_iter().filter(|(key, ..)| *key == cluster).collect();
                self.denies && selects(&of_cluster, &[(cluster, peer.cluster.clone())].into())
            }
            Kind::Node | Kind::External => selects(&all, &self.reserved(peer)),
        }
    }

    /// The reserved labels of what is no pod.
    fn reserved(&self, peer: &End) -> crate::labels::Labels {
        let mut names = match (peer.kind, self.address) {
            (Kind::Node, _) if self.is_own_node(peer) => vec!["host"],
            (Kind::Node, _) => vec!["remote-node"],
            (_, Some(IpAddr::V6(_))) => vec!["world", "world-ipv6"],
            _ => vec!["world", "world-ipv4"],
        };
        names.extend(self.is_api_server(peer).then_some("kube-apiserver"));
        names.into_iter().map(|name| (format!("reserved:{name}"), String::new())).collect()
    }

    /// Cilium docs, "Entities based".
    fn entity(&self, name: &str, peer: &End) -> bool {
        let node = peer.kind == Kind::Node;
        let world = peer.kind == Kind::External;
        let v6 = matches!(self.address, Some(IpAddr::V6(_)));
        if peer.kind == Kind::Unknown {
            let own = peer.cluster == self.cluster;
            return match name {
                "all" => true,
                "cluster-mesh" | "remote-node" => self.denies,
                "cluster" | "host" | "kube-apiserver" | "init" | "ingress" | "health"
                | "unmanaged" => self.denies && own,
                _ => false,
            };
        }
        match name {
            "all" => true,
            "world" => world,
            "world-ipv4" => world && !v6,
            "world-ipv6" => world && v6,
            "host" => node && self.is_own_node(peer),
            "remote-node" => node && !self.is_own_node(peer),
            "kube-apiserver" => self.is_api_server(peer),
            "cluster" => {
                node || self.is_api_server(peer)
                    || peer.kind == Kind::Pod && peer.cluster == self.cluster
            }
            "cluster-mesh" => node || self.is_api_server(peer) || peer.kind == Kind::Pod,
            _ => false,
        }
    }

    fn is_own_node(&self, peer: &End) -> bool {
        peer.cluster == self.cluster && peer.node == self.pod.node
    }

    fn is_api_server(&self, peer: &End) -> bool {
        peer.kind != Kind::Pod && peer.api_of.as_deref() == Some(self.cluster)
    }

    /// A range, with exceptions. Pods and nodes are in one only as the option says.
    fn range(&self, cidr: &str, except: &[Value], peer: &End, network_policy: bool) -> bool {
        let counts = match (self.world.option("cidrMatch", "network-policy"), peer.kind) {
            (_, Kind::External) => true,
            (_, Kind::Unknown) if !self.denies => false,
            ("all", _) => true,
            ("none", _) => false,
            _ => network_policy,
        };
        let Some(address) = self.address.filter(|_| counts) else { return false };
        let contains = |cidr: &str| cidr.parse::<IpNet>().is_ok_and(|net| net.contains(&address));
        contains(cidr) && !except.iter().filter_map(Value::as_str).any(contains)
    }

    /// Cilium docs, "Services based": the pods that a service of the policy's cluster selects.
    fn service(&self, rule: &Value, peer: &End) -> bool {
        self.world.services.iter().filter(|(cluster, _)| cluster == self.cluster).any(
            |(_, service)| {
                let namespace = text(service, "/metadata/namespace");
                let meant = match (rule.get("k8sService"), rule.get("k8sServiceSelector")) {
                    (Some(one), _) => {
                        let of = text(one, "/namespace");
                        text(one, "/serviceName") == text(service, "/metadata/name")
                            && (of.is_empty() || of == namespace)
                    }
                    (None, Some(by)) => {
                        let labels = crate::fields(service, "/metadata/labels");
                        let labels = labels.map(|(key, value)| {
                            (format!("k8s:{key}"), value.as_str().unwrap_or_default().to_owned())
                        });
                        let of = text(by, "/namespace");
                        let selector = by.get("selector").cloned().unwrap_or_default();
                        (of.is_empty() || of == namespace)
                            && selects(&requirements(&selector, "any:"), &labels.collect())
                    }
                    (None, None) => false,
                };
                let selector: Requirements = crate::fields(service, "/spec/selector")
                    .map(|(key, value)| {
                        let value = value.as_str().unwrap_or_default().to_owned();
                        (format!("k8s:{key}"), "In".to_owned(), vec![value])
                    })
                    .collect();
                let own = [
                    in_namespace(namespace),
                    (format!("k8s:{CLUSTER}"), "In".into(), vec![self.cluster.to_owned()]),
                ];
                meant
                    && !selector.is_empty()
                    && self.pods(selector.into_iter().chain(own).collect(), peer)
            },
        )
    }
}

fn in_namespace(namespace: &str) -> (String, String, Vec<String>) {
    (format!("k8s:{NAMESPACE}"), "In".into(), vec![namespace.to_owned()])
}

/// Where a pod is counts only with the source `k8s`.
pub(crate) fn sourced(all: &mut Requirements) {
    for (key, ..) in all {
        if let Some(name) = key.strip_prefix("any:")
            && (name.starts_with("io.cilium.k8s.") || name == NAMESPACE)
        {
            *key = format!("k8s:{name}");
        }
    }
}
