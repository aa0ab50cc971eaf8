//! Counts the drained endpoints while something is drained, and updates the count as objects change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
};

use mesh_model::{
    SliceEndpoint,
    object::{Object, ObjectKey},
};

use super::Drained;

/// The drained endpoints that serve: pods, and endpoints without a pod. Each counts once, however many addresses and
/// services it has. The cost of an update depends only on the object that changed.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    /// Drained addresses that serve, with the number of endpoints that have each.
    addresses: HashMap<IpAddr, usize>,
    /// The pods of each address, drained or not.
    pods: HashMap<IpAddr, BTreeSet<ObjectKey>>,
    /// Drained pods, with the number of their drained addresses. If several pods have an address, it counts for the first
    /// one.
    left: HashMap<ObjectKey, usize>,
    /// The number of drained addresses without a pod.
    podless: usize,
    /// The number of pods and endpoints on each node.
    on_nodes: HashMap<String, usize>,
    /// How many objects were examined, for tests of the cost.
    pub(crate) looks: usize,
}

/// What happened to something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Came,
    Went,
}

// === impl Leaving ===

impl Leaving {
    /// Counts all objects.
    pub(super) fn of(drained: &Drained, objects: &BTreeMap<Arc<ObjectKey>, Object>) -> Self {
        let mut leaving = Self::default();
        objects.iter().for_each(|(key, object)| leaving.changed(drained, key, None, Some(object)));
        leaving
    }

    /// Updates the count for an object's change. `drained` must be the same as when the object was counted.
    pub(super) fn changed(
        &mut self,
        drained: &Drained,
        key: &ObjectKey,
        before: Option<&Object>,
        now: Option<&Object>,
    ) {
        for (object, change) in [(before, Change::Went), (now, Change::Came)] {
            if let Some(object) = object {
                self.object(drained, key, object, change);
            }
        }
    }

    /// The number of drained endpoints.
    pub(super) fn count(&self) -> usize {
        self.left.len() + self.podless
    }

    /// Whether a pod or an endpoint is on a node.
    pub(super) fn has_node(&self, name: &str) -> bool {
        self.on_nodes.contains_key(name)
    }

    fn object(&mut self, drained: &Drained, key: &ObjectKey, object: &Object, change: Change) {
        self.looks += 1;
        match object {
            Object::Pod(pod) => {
                count(&mut self.on_nodes, &pod.node.to_string(), change);
                pod.ips.iter().for_each(|ip| self.address_of_pod(*ip, key, change));
            }
            Object::EndpointSlice(slice) => {
                slice.endpoints.iter().for_each(|e| self.endpoint(drained, e, change));
            }
            _ => {}
        }
    }

    fn endpoint(&mut self, drained: &Drained, endpoint: &SliceEndpoint, change: Change) {
        if let Some(node) = &endpoint.node {
            count(&mut self.on_nodes, node, change);
        }
        let serves = endpoint.serving.or(endpoint.ready) != Some(false);
        if !serves || endpoint.terminating == Some(true) || !drained.has(endpoint) {
            return;
        }
        let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
        for ip in addresses {
            if count(&mut self.addresses, &ip, change) {
                self.count_with_its_pod(ip, change);
            }
        }
    }

    fn address_of_pod(&mut self, ip: IpAddr, pod: &ObjectKey, change: Change) {
        // The address may count for another pod from now on.
        let is_left = self.addresses.contains_key(&ip);
        if is_left {
            self.count_with_its_pod(ip, Change::Went);
        }
        let pods = self.pods.entry(ip).or_default();
        match change {
            Change::Came => pods.insert(pod.clone()),
            Change::Went => pods.remove(pod),
        };
        if pods.is_empty() {
            self.pods.remove(&ip);
        }
        if is_left {
            self.count_with_its_pod(ip, Change::Came);
        }
    }

    /// Counts a drained address for its pod, or, without one, for itself.
    fn count_with_its_pod(&mut self, ip: IpAddr, change: Change) {
        match (self.pods.get(&ip).and_then(BTreeSet::first), change) {
            (Some(pod), change) => {
                count(&mut self.left, pod, change);
            }
            (None, Change::Came) => self.podless += 1,
            (None, Change::Went) => self.podless -= 1,
        }
    }
}

/// Adds one to a count, or subtracts one. Returns whether it was the first, or the last.
fn count<K: Clone + Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K, change: Change) -> bool {
    match change {
        Change::Came => {
            let count = counts.entry(key.clone()).or_default();
            *count += 1;
            *count == 1
        }
        Change::Went => {
            let Some(count) = counts.get_mut(key) else { return false };
            *count -= 1;
            let was_last = *count == 0;
            if was_last {
                counts.remove(key);
            }
            was_last
        }
    }
}
