//! A world changes: endpoints, namespaces and policies come and go.

use mesh_policy_rules::{PolicyKind, PolicyRef};
use serde_json::Value;

use super::{Place, World};
use crate::{
    entry::{Entry, EntryKind},
    problem::Problem,
};

// === impl World ===

impl World {
    /// Adds an entry, in place of the one of its name. A namespace's labels become those of its pods' identities.
    pub(crate) fn replace(&mut self, entry: &Entry, part: &str) -> Result<(), Problem> {
        entry.check(part)?;
        let cluster = self.cluster_of(entry.cluster.as_deref(), part)?;
        if entry.kind == EntryKind::Namespace {
            self.namespaces.insert((cluster.clone(), entry.name.clone()), entry.labels.clone());
            let of_namespace = |place: &Place| match place {
                Place::Pod(pod) => pod.cluster == cluster && pod.namespace == entry.name,
                Place::Node(..) | Place::Address => false,
            };
            let pods = self.endpoints.iter().filter(|one| of_namespace(&one.place));
            let pods: Vec<Entry> = pods.map(|one| one.entry.clone()).collect();
            for pod in pods {
                self.replace(&pod, part)?;
            }
            return Ok(());
        }
        let namespace = |entry: &Entry| entry.namespace.clone().unwrap_or_else(|| "default".into());
        let present = self.endpoints.iter().position(|one| {
            let same_cluster = one.cluster().is_none_or(|of| of == cluster);
            one.name == entry.name
                && one.entry.kind == entry.kind
                && same_cluster
                && namespace(&one.entry) == namespace(entry)
        });
        if let Some(at) = present {
            self.take(at);
        }
        let named = [entry.cluster.as_ref(), entry.kube_apiserver_of.as_ref()];
        named.into_iter().flatten().for_each(|cluster| self.name_cluster(cluster));
        self.add_endpoint(entry, part)
    }

    /// Removes an endpoint by its name.
    pub(crate) fn remove(&mut self, name: &str, part: &str) -> Result<(), Problem> {
        let named = |one: &super::Endpoint| {
            one.name == name || one.path() == name || one.short_path() == name
        };
        let found = self.endpoints.iter().enumerate().filter(|(_, one)| named(one));
        let found: Vec<usize> = found.map(|(at, _)| at).collect();
        match found.as_slice() {
            [at] => {
                self.take(*at);
                Ok(())
            }
            [] => Err(Problem::new(part, "delete", format!("{name:?} is no endpoint"))),
            _ => Err(Problem::new(part, "delete", format!("{name:?} names several endpoints"))),
        }
    }

    fn take(&mut self, at: usize) {
        let gone = self.endpoints.remove(at);
        match &gone.place {
            Place::Pod(pod) => self.mesh.remove_pod(pod),
            Place::Node(cluster, node) => {
                if gone.entry.kind == EntryKind::Node {
                    self.mesh.remove_node(cluster, node);
                }
            }
            Place::Address => {
                gone.addresses.iter().for_each(|address| self.mesh.remove_external(*address));
            }
        }
        self.by_name.clear();
        self.pods_by_path.clear();
        self.nodes_by_path.clear();
        self.by_address.clear();
        for (at, endpoint) in self.endpoints.clone().iter().enumerate() {
            self.index(at, endpoint);
        }
    }

    /// Removes a policy by the kind, namespace and name of an object.
    pub(crate) fn remove_policy(
        &mut self,
        cluster: &str,
        object: &Value,
        part: &str,
    ) -> Result<(), Problem> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let kind = text("/kind").unwrap_or_default();
        let kind = PolicyKind::ALL.into_iter().find(|one| one.as_str() == kind);
        let name = text("/metadata/name");
        let (Some(kind), Some(name)) = (kind, name) else {
            let reason = "a policy's kind and metadata.name, or an endpoint's name";
            return Err(Problem::new(part, "delete", reason));
        };
        let namespace = match kind {
            PolicyKind::CiliumClusterwideNetworkPolicy => "",
            PolicyKind::NetworkPolicy | PolicyKind::CiliumNetworkPolicy => {
                text("/metadata/namespace").unwrap_or("default")
            }
        };
        let reference = PolicyRef { kind, namespace: namespace.into(), name: name.into() };
        if !self.policies.remove(&(cluster.to_owned(), reference.clone())) {
            return Err(Problem::new(part, "delete", format!("there is no {reference}")));
        }
        self.mesh.remove_policy(cluster, &reference);
        Ok(())
    }
}
