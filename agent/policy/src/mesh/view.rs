//! What a node's tables are made of: the mesh as one cluster sees it.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::NamedPort;

use super::{End, Holder, Mesh, PodEntry, PodName};
use crate::{class::Class, compiler::Compiler, options::Options};

/// The mesh as a cluster's nodes see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    mesh: &'a Mesh,
    compiler: &'a Compiler,
    cluster: &'a str,
}

/// What is known of a pod or node.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// What it is to pods of other nodes.
    pub class: Class,
    /// It is this pod.
    pub pod: Option<&'a PodName>,
    /// Its named ports.
    pub ports: &'a [NamedPort],
}

/// A pod of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a PodName,
    /// Its position in the compiler.
    pub position: usize,
}

// === impl Mesh ===

impl Mesh {
    /// The mesh as the nodes of a cluster see it; `None` if there is nothing of that cluster.
    pub fn view<'a>(&'a self, cluster: &str) -> Option<View<'a>> {
        let (cluster, compiler) = self.clusters.get_key_value(cluster)?;
        Some(View { mesh: self, compiler, cluster })
    }

    /// The clusters of which there is something.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        self.clusters.keys().map(String::as_str)
    }

    /// Whether who looks up its address finds this end. Several may have been given it; the first has it.
    pub fn is_at(&self, end: &End) -> bool {
        let (holder, address) = match end {
            End::Pod(name, address) => (Holder::Pod(name.clone()), address),
            End::Node(cluster, name, address) => {
                (Holder::Node(cluster.clone(), name.clone()), address)
            }
            End::Address(_) => return true,
        };
        if address.is_none() {
            return true;
        }
        let holders = address.and_then(|address| self.addresses.get(&address));
        holders.and_then(|holders| holders.first()) == Some(&holder)
    }

    /// The pod and the node behind an end, by name.
    pub fn named(&self, end: &End) -> (Option<&PodName>, Option<(&str, &str)>) {
        let found = self.find(end);
        let node = found.node.map(|node| (node.cluster.as_str(), node.name.as_str()));
        (found.pod.map(|entry| &entry.pod.name), node)
    }
}

// === impl View ===

impl<'a> View<'a> {
    /// How policies are meant.
    pub fn options(&self) -> Options {
        self.mesh.options
    }

    /// The cluster's policies.
    pub fn compiler(&self) -> &'a Compiler {
        self.compiler
    }

    /// The addresses of pods and nodes, each once.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Known<'a>)> {
        let view = *self;
        view.mesh
            .addresses
            .iter()
            .filter_map(move |(address, holders)| Some((*address, view.known(holders.first()?)?)))
    }

    /// All pods and nodes, with no address.
    pub fn ends(&self) -> impl Iterator<Item = (End, Known<'a>)> + use<'a> {
        let view = *self;
        let pods = view.mesh.pods.keys().map(|name| Holder::Pod(name.clone()));
        let nodes = view.mesh.nodes.keys();
        let nodes = nodes.map(|(cluster, name)| Holder::Node(cluster.clone(), name.clone()));
        pods.chain(nodes).filter_map(move |holder| {
            let known = view.known(&holder)?;
            let end = match holder {
                Holder::Pod(name) => End::Pod(name, None),
                Holder::Node(cluster, name) => End::Node(cluster, name, None),
            };
            Some((end, known))
        })
    }

    fn known(&self, holder: &Holder) -> Option<Known<'a>> {
        let Self { mesh, cluster, .. } = *self;
        Some(match holder {
            Holder::Pod(name) => {
                let PodEntry { pod, class, .. } = mesh.pods.get(name)?;
                Known { class: class.clone(), pod: Some(&pod.name), ports: &pod.ports }
            }
            Holder::Node(of, name) => {
                let node = mesh.nodes.get(&(of.clone(), name.clone()))?;
                let kube_apiserver = node.kube_apiserver_of.as_deref() == Some(cluster);
                Known { class: Class::RemoteNode { kube_apiserver }, pod: None, ports: &[] }
            }
        })
    }

    /// The addresses of a node of the cluster, and what they are to its pods.
    pub fn host(&self, node: &str) -> Option<(Class, &'a [IpAddr])> {
        let node = self.mesh.nodes.get(&(self.cluster.to_owned(), node.to_owned()))?;
        let kube_apiserver = node.kube_apiserver_of.as_deref() == Some(self.cluster);
        Some((Class::Host { kube_apiserver }, &node.ips))
    }

    /// Addresses outside the mesh of which something is known.
    pub fn externals(&self) -> impl Iterator<Item = (IpAddr, Class)> {
        let Self { mesh, cluster, .. } = *self;
        mesh.externals.values().map(move |one| {
            let kube_apiserver = one.kube_apiserver_of.as_deref() == Some(cluster);
            (one.ip, Class::World { v6: one.ip.is_ipv6(), kube_apiserver })
        })
    }

    /// The ranges of all clusters' pods. Of two that are equal the last counts.
    pub fn pod_ranges(&self) -> impl Iterator<Item = (IpNet, Class)> {
        let ranges = self.mesh.ranges.iter();
        ranges.map(|(range, cluster)| (*range, Class::Unknown(cluster.clone())))
    }

    /// The cluster's pods.
    pub fn subjects(&self) -> impl Iterator<Item = Subject<'a>> {
        let Self { mesh, cluster, .. } = *self;
        let pods = mesh.pods.values().filter(move |entry| entry.pod.name.cluster == cluster);
        pods.map(|entry| Subject { name: &entry.pod.name, position: entry.subject })
    }

    /// The node of a pod.
    pub fn node_of(&self, pod: &PodName) -> Option<&'a str> {
        self.mesh.pods.get(pod).map(|entry| entry.pod.node.as_str())
    }
}
