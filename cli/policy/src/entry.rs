//! Endpoints and namespaces as a short list has them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use mesh_model::{Label, Labels, NamedPort, Port, Protocol, names};
use serde::Deserialize;

use crate::problem::{Problem, objects, or_absent};

/// One entry of the list of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its name. Flows name it by this text.
    pub name: String,
    /// Its cluster; may be absent where there is one.
    #[serde(default)]
    pub cluster: Option<String>,
    /// A pod's namespace; absent: `default`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// A pod's node.
    #[serde(default)]
    pub node: Option<String>,
    /// Its addresses.
    #[serde(default, deserialize_with = "or_absent")]
    pub ips: Vec<IpAddr>,
    /// Its address, where it has one.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// A pod's or namespace's labels in Kubernetes.
    #[serde(default, deserialize_with = "or_absent")]
    pub labels: BTreeMap<String, String>,
    /// The labels of a pod's identity as they are, with their sources. `labels` are not looked at then.
    #[serde(default)]
    pub identity_labels: Option<IdentityLabels>,
    /// A pod's service account; absent: `default`.
    #[serde(default)]
    pub service_account: Option<String>,
    /// A pod's named ports.
    #[serde(default, deserialize_with = "objects")]
    pub ports: Vec<EntryPort>,
    /// A node or address is the API server of its cluster.
    #[serde(default, rename = "kubeAPIServer", deserialize_with = "or_absent")]
    pub kube_apiserver: bool,
    /// A node or address is the API server of this cluster.
    #[serde(default, rename = "kubeAPIServerOf")]
    pub kube_apiserver_of: Option<String>,
    /// A pod on its node's network: it has no identity of its own.
    #[serde(default, deserialize_with = "or_absent")]
    pub host_network: bool,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EntryKind {
    /// A pod.
    Pod,
    /// A node.
    Node,
    /// An address outside the mesh.
    External,
    /// A namespace, for its labels.
    Namespace,
}

/// Labels with their sources, as a map or as a list of texts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "labels are a map of texts, or a list of texts")]
pub enum IdentityLabels {
    /// `{"k8s:app": "web"}`.
    Map(BTreeMap<String, String>),
    /// `["k8s:app=web"]`.
    List(Vec<String>),
}

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EntryPort {
    /// Its name; without one it is of no interest to policies.
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) name: String,
    #[serde(alias = "port")]
    pub(crate) container_port: u16,
    #[serde(default, deserialize_with = "or_absent")]
    pub(crate) protocol: EntryProtocol,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum EntryProtocol {
    #[default]
    #[serde(rename = "TCP", alias = "tcp")]
    Tcp,
    #[serde(rename = "UDP", alias = "udp")]
    Udp,
    #[serde(rename = "SCTP", alias = "sctp")]
    Sctp,
}

// === impl Entry ===

impl Entry {
    /// Its addresses, each once; those of IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = Vec::new();
        for ip in self.ips.iter().chain(&self.ip).map(IpAddr::to_canonical) {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all.sort_by_key(IpAddr::is_ipv6);
        all
    }

    /// Its named ports.
    pub fn named_ports(&self) -> Vec<NamedPort> {
        let named = self.ports.iter().filter(|port| !port.name.is_empty());
        named
            .map(|port| NamedPort {
                name: port.name.clone(),
                port: Port {
                    number: port.container_port,
                    protocol: match port.protocol {
                        EntryProtocol::Tcp => Protocol::Tcp,
                        EntryProtocol::Udp => Protocol::Udp,
                        EntryProtocol::Sctp => Protocol::Sctp,
                    },
                },
            })
            .collect()
    }

    /// Checks what types do not say.
    pub(crate) fn check(&self, part: &str) -> Result<(), Problem> {
        let refuse = |field: &str, reason: String| Err(Problem::new(part, field, reason));
        if self.name.is_empty() {
            return refuse("name", "it is empty".into());
        }
        for (key, value) in &self.labels {
            let checked = names::qualified(key).and_then(|()| names::label_value(value));
            if let Err(reason) = checked {
                return refuse(&format!("labels.{key}"), reason.to_string());
            }
        }
        if let Some(ip) = self.addresses().iter().find(|ip| is_none(ip)) {
            return refuse("ips", format!("{ip} is not the address of anything"));
        }
        match self.kind {
            EntryKind::External if self.addresses().is_empty() => {
                refuse("ips", "an external end needs an address".into())
            }
            EntryKind::Pod if self.kube_apiserver || self.kube_apiserver_of.is_some() => {
                refuse("kubeAPIServer", "a node or an external address can be one".into())
            }
            _ => Ok(()),
        }
    }
}

fn is_none(ip: &IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast() || *ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

// === impl EntryProtocol ===

impl From<Protocol> for EntryProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
        }
    }
}

// === impl IdentityLabels ===

impl IdentityLabels {
    /// As a set.
    pub fn labels(&self) -> Labels {
        match self {
            Self::Map(map) => {
                map.iter().map(|(name, value)| Label::with_name(name, value)).collect()
            }
            Self::List(list) => list.iter().map(|text| Label::parse(text)).collect(),
        }
    }
}
