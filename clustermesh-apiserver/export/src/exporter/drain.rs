//! What is drained: the whole cluster or nodes, by `drain.yaml` or by a node's annotation.

use std::collections::BTreeSet;

use mesh_model::{
    LocalDrain, SliceEndpoint,
    object::{Kind, Object, ObjectKey},
};
use mesh_source::Drain;
use mesh_wire::{
    key::{DRAIN, LOCAL_DRAIN},
    local_drain,
};

use super::{
    Allocate, Exporter, Value,
    dependents::{named, service_key},
};
use crate::annotations;
pub(crate) use leaving::Leaving;

mod leaving;

/// What is drained, from both sources.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// The content of `drain.yaml`.
    file: Drain,
    /// Nodes that the file or their annotation drains.
    nodes: BTreeSet<String>,
}

/// What is drained, for the admin API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainState {
    /// Whether the whole cluster is drained.
    pub cluster: bool,
    /// The drained nodes, ordered by name.
    pub nodes: Vec<DrainedNode>,
    /// The number of endpoints that serve but are drained: pods, and endpoints without a pod.
    pub endpoints: usize,
}

/// A drained node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainedNode {
    /// Its name.
    pub name: String,
    /// `drain.yaml` drains it.
    pub by_file: bool,
    /// Its annotation drains it.
    pub by_annotation: bool,
    /// There is such a node, or a pod or an endpoint on it.
    pub known: bool,
}

impl Drained {
    /// Whether an endpoint is drained.
    pub(crate) fn has(&self, endpoint: &SliceEndpoint) -> bool {
        self.file.cluster || endpoint.node.as_ref().is_some_and(|node| self.nodes.contains(node))
    }

    /// Whether nothing is drained.
    fn is_empty(&self) -> bool {
        !self.file.cluster && self.nodes.is_empty()
    }
}

impl Exporter {
    /// Replaces the content of `drain.yaml`.
    pub fn set_drain<A: Allocate>(&mut self, drain: &Drain, allocate: &mut A) {
        if self.drained.file == *drain {
            return;
        }
        let before = std::mem::replace(&mut self.drained.file, drain.clone());
        let named: BTreeSet<String> =
            before.nodes.union(&self.drained.file.nodes).cloned().collect();
        let mut affected = BTreeSet::new();
        for node in named {
            if self.settle_drained(&node) {
                affected.extend(self.with_endpoints_on(&node));
            }
        }
        self.drain_changed();
        if before.cluster != self.drained.file.cluster {
            let of_slices = self
                .objects
                .keys()
                .filter(|key| matches!(key.kind, Kind::Service | Kind::EndpointSlice));
            affected.extend(of_slices.map(|key| (**key).clone()));
        }
        affected.into_iter().for_each(|key| self.make(key, allocate));
    }

    /// What is drained, and why. The state is kept up to date, so this examines no objects.
    pub fn drain_state(&self) -> DrainState {
        self.leaving.as_ref().map(|left| self.state_of(&self.drained, left)).unwrap_or_default()
    }

    /// What would be drained with another `drain.yaml`. Examines all objects.
    pub fn drain_state_with(&self, file: Drain) -> DrainState {
        let annotated = self.drained.nodes.iter().filter(|node| self.is_annotated(node));
        let nodes: BTreeSet<String> = annotated.chain(&file.nodes).cloned().collect();
        let drained = Drained { file, nodes };
        self.state_of(&drained, &Leaving::of(&drained, &self.objects))
    }

    fn state_of(&self, drained: &Drained, leaving: &Leaving) -> DrainState {
        let node = |name: &String| DrainedNode {
            name: name.clone(),
            by_file: drained.file.nodes.contains(name),
            by_annotation: self.is_annotated(name),
            known: self.has_node_object(name) || leaving.has_node(name),
        };
        DrainState {
            cluster: drained.file.cluster,
            nodes: drained.nodes.iter().map(node).collect(),
            endpoints: leaving.count(),
        }
    }

    /// Call it when something else is drained: exports that for local nodes and peers, and counts the drained endpoints
    /// again.
    pub(super) fn drain_changed(&mut self) {
        let drain =
            LocalDrain { cluster: self.drained.file.cluster, nodes: self.drained.nodes.clone() };
        let value = (!drain.is_empty()).then(|| Value::from(local_drain::encode(&drain)));
        for key in [LOCAL_DRAIN, DRAIN] {
            self.exported.set_fixed(key, value.clone());
        }
        let drained = &self.drained;
        self.leaving = (!drained.is_empty()).then(|| Leaving::of(drained, &self.objects));
    }

    /// Updates the count of drained endpoints for an object's change. `before` is the object before the change.
    pub(super) fn count_leaving(&mut self, key: &ObjectKey, before: Option<&Object>) {
        if let Some(leaving) = &mut self.leaving {
            leaving.changed(&self.drained, key, before, self.objects.get(key));
        }
    }

    /// Whether there is a node with that name, or a pod or endpoint on it.
    pub fn has_node(&self, name: &str) -> bool {
        self.has_node_object(name)
            || self.objects.values().any(|object| match object {
                Object::Pod(pod) => *pod.node == *name,
                Object::EndpointSlice(slice) => {
                    slice.endpoints.iter().any(|endpoint| endpoint.node.as_deref() == Some(name))
                }
                _ => false,
            })
    }

    fn has_node_object(&self, name: &str) -> bool {
        let kinds = [Kind::Node, Kind::CiliumNode];
        kinds.into_iter().any(|kind| self.objects.contains_key(&named(kind, name)))
    }

    /// Updates whether a node is drained. Returns whether that changed; then the caller must export it.
    pub(super) fn settle_drained(&mut self, node: &str) -> bool {
        match self.drained.file.nodes.contains(node) || self.is_annotated(node) {
            true => self.drained.nodes.insert(node.to_owned()),
            false => self.drained.nodes.remove(node),
        }
    }

    /// The slices with endpoints on a node, and their services.
    pub(super) fn with_endpoints_on(&self, node: &str) -> BTreeSet<ObjectKey> {
        let mut with = BTreeSet::new();
        for (key, object) in &self.objects {
            if let Object::EndpointSlice(slice) = object
                && slice.endpoints.iter().any(|endpoint| endpoint.node.as_deref() == Some(node))
            {
                with.insert((**key).clone());
                with.extend(slice.service().map(|service| service_key(&service)));
            }
        }
        with
    }

    fn is_annotated(&self, node: &str) -> bool {
        [Kind::Node, Kind::CiliumNode].into_iter().any(|kind| {
            let annotations = match self.objects.get(&named(kind, node)) {
                Some(Object::Node(node)) => &node.annotations,
                Some(Object::CiliumNode(node)) => &node.annotations,
                _ => return false,
            };
            annotations::is_drained(annotations).0
        })
    }
}
