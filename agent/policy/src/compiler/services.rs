//! Rules that name services.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mesh_model::identity::{CLUSTER_LABEL, NAMESPACE_LABEL};
use mesh_policy_rules::{CidrRule, Peer, Requirement, Selector, ServiceMatch};

use super::Compiler;
use crate::{mesh::Service, row::Number};

// === impl Compiler ===

impl Compiler {
    /// A service of this cluster is there, or has changed.
    pub fn put_service(&mut self, service: Service) {
        let name = (service.namespace.clone(), service.name.clone());
        let former = self.services.insert(name, service.clone());
        self.resolve_services([Some(&service), former.as_ref()]);
    }

    /// A service of this cluster is gone.
    pub fn remove_service(&mut self, namespace: &str, name: &str) {
        let former = self.services.remove(&(namespace.to_owned(), name.to_owned()));
        self.resolve_services([former.as_ref(), None]);
    }

    fn resolve_services(&mut self, changed: [Option<&Service>; 2]) {
        let meant = |number: &Number| {
            let peers = self.unions.get(*number).map(|one| &one.union.peers);
            peers.into_iter().flatten().any(|peer| match peer {
                Peer::Service(by) => changed.iter().flatten().any(|one| is_meant(by, one)),
                _ => false,
            })
        };
        let numbers: Vec<Number> = self.unions.with_services().filter(meant).collect();
        numbers.into_iter().for_each(|number| self.resolve(number));
    }

    /// What stands behind services: the pods that they select, or the addresses that they are given.
    pub(super) fn backends(&self, by: &ServiceMatch) -> BTreeSet<Peer> {
        let services = self.services.values().filter(|service| is_meant(by, service));
        services.flat_map(|service| self.backends_of(service)).collect()
    }

    fn backends_of(&self, service: &Service) -> Vec<Peer> {
        if service.selector.is_empty() {
            let host = |address| CidrRule {
                cidr: IpNet::from(address),
                except: Vec::new(),
                network_policy: false,
            };
            return service.backends.iter().map(|one| Peer::Cidr(host(*one))).collect();
        }
        let place = [(NAMESPACE_LABEL, service.namespace.as_str()), (CLUSTER_LABEL, &self.cluster)];
        let labels = service.selector.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let selector = labels
            .chain(place)
            .map(|(key, value)| Requirement::equals(key, value))
            .fold(Selector::default(), Selector::and);
        vec![Peer::Pods(selector)]
    }
}

fn is_meant(by: &ServiceMatch, service: &Service) -> bool {
    match by {
        ServiceMatch::Named { namespace, name } => {
            namespace.as_ref().is_none_or(|one| *one == service.namespace) && *name == service.name
        }
        ServiceMatch::Labels { namespace, selector } => {
            let labels = service.labels.iter();
            let labels = labels.map(|(key, value)| mesh_model::Label::kubernetes(key, value));
            namespace.as_ref().is_none_or(|one| *one == service.namespace)
                && selector.matches(&labels.collect())
        }
    }
}
