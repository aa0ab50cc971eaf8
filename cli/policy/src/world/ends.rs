//! The ends of flows by name.

use std::net::IpAddr;

use mesh_policy::{End, PodName};

use super::{Endpoint, World};
use crate::{entry::EntryKind, problem::Problem};

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Pod(PodName),
    /// A node by cluster and name; a pod on its network too.
    Node(String, String),
    /// Outside the mesh.
    Address,
}

/// One end of a flow, as it was named.
#[derive(Clone, Debug)]
pub(crate) enum Named<'a> {
    Endpoint(&'a Endpoint),
    /// One at one of its addresses.
    At(&'a Endpoint, IpAddr),
    Address(IpAddr),
}

// === impl World ===

impl World {
    /// Finds what a flow names: the name of an endpoint, `cluster/namespace/pod`, `namespace/pod`, or an address.
    pub(crate) fn named(&self, name: &str, part: &str, field: &str) -> Result<Named<'_>, Problem> {
        let refuse = |reason: String| Err(Problem::new(part, field, reason));
        let several = |found: &[&Endpoint]| {
            let mut places: Vec<String> = found.iter().map(|one| one.path()).collect();
            places.sort();
            refuse(format!("{name:?} names several endpoints: {}", places.join(", ")))
        };
        let get = |index: &usize| self.endpoints.get(*index);
        for by in [&self.by_name, &self.pods_by_path, &self.nodes_by_path] {
            let found: Vec<&Endpoint> =
                by.get(name).into_iter().flatten().filter_map(get).collect();
            match found.as_slice() {
                [] => {}
                [one] => return Ok(Named::Endpoint(one)),
                found => return several(found),
            }
        }
        let Ok(address) = name.parse::<IpAddr>() else {
            return refuse(format!(
                "{name:?} is no endpoint: give the name of one, cluster/namespace/pod, namespace/pod, or an address"
            ));
        };
        let address = address.to_canonical();
        let at: Vec<&Endpoint> =
            self.by_address.get(&address).into_iter().flatten().filter_map(get).collect();
        // Pods on a node's network have its address.
        let mut places = at.iter().map(|one| &one.place);
        let first = places.next();
        match at.as_slice() {
            [_, _, ..] if places.any(|place| Some(place) != first) => several(&at),
            [..] => Ok(Named::Address(address)),
        }
    }

    /// The endpoint with an address: the node itself, where pods on its network have it too and may know only one of its.
    pub(crate) fn node_or_pod_at(&self, address: IpAddr) -> Option<&Endpoint> {
        let all = self.by_address.get(&address).into_iter().flatten();
        let mut all = all.filter_map(|index| self.endpoints.get(*index));
        all.find(|one| one.entry.kind == EntryKind::Node).or_else(|| self.at(address))
    }

    /// The endpoint with an address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&Endpoint> {
        let index = self.by_address.get(&address)?.first()?;
        self.endpoints.get(*index)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// `cluster/namespace/pod`, `cluster/node`, or its name.
    pub(crate) fn path(&self) -> String {
        match (&self.pod, self.cluster()) {
            (Some(pod), Some(cluster)) => format!("{cluster}/{}/{}", pod.namespace, pod.name),
            _ => self.location(),
        }
    }

    /// What policies see: as its path, but a pod on its node's network is its node.
    pub(crate) fn location(&self) -> String {
        match &self.place {
            Place::Pod(PodName { cluster, namespace, name }) => {
                format!("{cluster}/{namespace}/{name}")
            }
            Place::Node(cluster, name) => format!("{cluster}/{name}"),
            Place::Address => self.name.clone(),
        }
    }

    /// `namespace/pod`, or its name.
    pub(crate) fn short_path(&self) -> String {
        match &self.pod {
            Some(pod) => format!("{}/{}", pod.namespace, pod.name),
            None => self.name.clone(),
        }
    }

    /// Whether it is a pod or node: what it is does not depend on its address.
    pub(crate) fn is_in_mesh(&self) -> bool {
        !matches!(self.place, Place::Address)
    }

    /// The cluster of a pod or node.
    pub(crate) fn cluster(&self) -> Option<&str> {
        match &self.place {
            Place::Pod(PodName { cluster, .. }) | Place::Node(cluster, _) => Some(cluster),
            Place::Address => None,
        }
    }

    /// As an end, with the address that it uses.
    pub(crate) fn end(&self, address: Option<IpAddr>) -> End {
        match (&self.place, address) {
            (Place::Pod(name), address) => End::Pod(name.clone(), address),
            (Place::Node(cluster, name), address) => {
                End::Node(cluster.clone(), name.clone(), address)
            }
            (Place::Address, Some(address)) => End::Address(address),
            // An external end has an address.
            (Place::Address, None) => End::Node(String::new(), String::new(), None),
        }
    }
}
