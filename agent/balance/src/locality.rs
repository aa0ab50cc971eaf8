//! The location of backends, as a client of this node sees them: `internalTrafficPolicy: Local`, and topology hints.

use std::sync::Arc;

use mesh_model::{ClusterId, ServiceTraffic, lb::Hints};

use crate::nodes::Nodes;

/// How a backend's location matters for clients of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Locality {
    /// Nothing: its service does not ask, or not of backends of its cluster.
    #[default]
    Any,
    /// Its service's connections stay on their node, and it is on another one.
    OtherNode,
    /// Its service follows hints, and these are its own.
    Hinted { node: Hint, zone: Hint },
}

/// The clients for which a backend is hinted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hint {
    /// It has no hint.
    None,
    /// For those here.
    Here,
    /// For those elsewhere.
    Elsewhere,
}

/// Which hints are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Narrowing {
    /// Those for nodes.
    Node,
    /// Those for zones.
    Zone,
}

/// Where clients are.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) cluster: ClusterId,
    /// `None` where all are treated alike.
    pub(crate) node: Option<Arc<str>>,
    /// The zone of the node.
    pub(crate) zone: Option<Arc<str>>,
}

// === impl Client ===

impl Client {
    /// Where clients are, for hints of a kind.
    pub(crate) fn here(&self, narrowing: Option<Narrowing>) -> String {
        let node = self.node.as_deref().unwrap_or_default();
        match (narrowing, &self.zone) {
            (Some(Narrowing::Zone), Some(zone)) => format!("in zone {zone}"),
            _ => format!("on node {node}"),
        }
    }

    /// How a service with these settings, and these usable backends of the local cluster, depends on the client's
    /// location, as a sentence; `None` if it does not.
    pub(crate) fn sentence(
        &self,
        traffic: &ServiceTraffic,
        usable: impl Iterator<Item = Locality> + Clone,
    ) -> Option<String> {
        let here = |narrowing| self.here(narrowing);
        if traffic.internal_traffic_local {
            if self.node.is_none() {
                return Some("internalTrafficPolicy is Local: a client gets the backends of its own node, so it depends on the node which ones".into());
            }
            let others = match traffic.global {
                true => ", and those of other clusters that are reported without a node",
                false => "",
            };
            return Some(format!(
                "internalTrafficPolicy is Local: clients {} get its backends{others}",
                here(None)
            ));
        }
        if !traffic.topology_hints {
            return None;
        }
        let narrowing = Narrowing::of(usable.clone());
        let hints: Vec<Hint> = hints(usable).map(|(_, zone)| zone).collect();
        Some(match (&self.node, narrowing) {
            (None, _) => "topology hints: it depends on the node which of its cluster's backends a client gets".into(),
            (_, Some(_)) => format!("topology hints: of its cluster's backends clients {} get those that are meant for them", here(narrowing)),
            _ if hints.is_empty() => "topology hints are not followed: no backend of its cluster is ready on a node that answers".into(),
            _ if hints.contains(&Hint::None) => "topology hints are not followed: not every ready backend of its cluster has one".into(),
            (Some(node), None) => match &self.zone {
                None => format!("topology hints are not followed: node {node} has no zone"),
                Some(zone) => format!("topology hints are not followed: no ready backend is for zone {zone}"),
            },
        })
    }

    /// How a backend's location matters, for a service with these settings. Other clusters' hints are for their own
    /// clients, and are not followed.
    pub(crate) fn locality(
        &self,
        traffic: Option<&ServiceTraffic>,
        (cluster, node, node_is_derived): (ClusterId, &str, bool),
        hints: Option<&Hints>,
    ) -> Locality {
        let Some((here, traffic)) = self.node.as_deref().zip(traffic) else { return Locality::Any };
        let is_local = cluster == self.cluster;
        if traffic.internal_traffic_local {
            // As Cilium: a remote one whose cluster names no node is for all, as are those of services v1.
            let is_unnamed = node_is_derived || node == Nodes::UNKNOWN;
            let is_here = if is_local { node == here } else { is_unnamed };
            return if is_here { Locality::Any } else { Locality::OtherNode };
        }
        if !traffic.topology_hints || !is_local {
            return Locality::Any;
        }
        Locality::Hinted {
            node: Hint::of(hints.map(|hints| &hints.nodes), Some(here)),
            zone: Hint::of(hints.map(|hints| &hints.zones), self.zone.as_deref()),
        }
    }
}

// === impl Hint ===

impl Hint {
    fn of(names: Option<&Vec<Arc<str>>>, here: Option<&str>) -> Self {
        match names {
            None => Self::None,
            Some(names) if names.is_empty() => Self::None,
            Some(names) if here.is_some_and(|here| names.iter().any(|name| **name == *here)) => {
                Self::Here
            }
            Some(_) => Self::Elsewhere,
        }
    }
}

// === impl Locality ===

impl Locality {
    /// Whether clients of this node get it, where these hints are followed.
    pub(crate) fn is_used(self, narrowing: Option<Narrowing>) -> bool {
        match (self, narrowing) {
            (Self::OtherNode, _) => false,
            (Self::Hinted { node, .. }, Some(Narrowing::Node)) => node == Hint::Here,
            (Self::Hinted { zone, .. }, Some(Narrowing::Zone)) => zone == Hint::Here,
            (Self::Any | Self::Hinted { .. }, _) => true,
        }
    }
}

// === impl Narrowing ===

impl Narrowing {
    /// The hints that a cluster's backends are narrowed by, of those that could be used now: each of these has one, and one of them is for here.
    /// Hints for nodes count before those for zones, as in kube-proxy.
    pub(crate) fn of(usable: impl Iterator<Item = Locality> + Clone) -> Option<Self> {
        let complete = |hint: fn((Hint, Hint)) -> Hint| {
            hints(usable.clone()).all(|hints| hint(hints) != Hint::None)
                && hints(usable.clone()).any(|hints| hint(hints) == Hint::Here)
        };
        if complete(|(node, _)| node) {
            Some(Self::Node)
        } else {
            complete(|(_, zone)| zone).then_some(Self::Zone)
        }
    }
}

/// The hints, for nodes and for zones.
fn hints(usable: impl Iterator<Item = Locality>) -> impl Iterator<Item = (Hint, Hint)> {
    usable.filter_map(|locality| match locality {
        Locality::Hinted { node, zone } => Some((node, zone)),
        Locality::Any | Locality::OtherNode => None,
    })
}
