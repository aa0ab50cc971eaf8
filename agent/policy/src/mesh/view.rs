//! What a node's tables are made of: the mesh as one cluster sees it.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_model::NamedPort;

use super::{Holder, Mesh, PodEntry, PodName};
use crate::{class::Class, compiler::Compiler, options::Options};

/// The mesh as a cluster's nodes see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    mesh: &'a Mesh,
    compiler: &'a Compiler,
    cluster: &'a str,
}

/// What is known of an address.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// The address.
    pub address: IpAddr,
    /// What it is to nodes on which it is not.
    pub class: Class,
    /// The pod that has it.
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

    /// Whether whoever looks up an address finds this end. Several may have been given it; the first has it.
    pub fn is_at(&self, end: &super::End) -> bool {
        let (holder, address) = match end {
            super::End::Pod(name, address) => (Holder::Pod(name.clone()), address),
            super::End::Node(cluster, name, address) => {
                (Holder::Node(cluster.clone(), name.clone()), address)
            }
            super::End::Address(_) => return true,
        };
        let holders = address.and_then(|address| self.addresses.get(&address));
        holders.and_then(|holders| holders.first()) == Some(&holder)
    }

    /// The pod and the node behind an end, by name.
    pub fn named(&self, end: &super::End) -> (Option<&PodName>, Option<(&str, &str)>) {
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
    pub fn addresses(&self) -> impl Iterator<Item = Known<'a>> {
        let Self { mesh, cluster, .. } = *self;
        mesh.addresses.iter().filter_map(move |(address, holders)| {
            let (class, pod, ports): (Class, Option<&PodEntry>, &[NamedPort]) =
                match holders.first()? {
                    Holder::Pod(name) => {
                        let entry = mesh.pods.get(name)?;
                        (entry.class.clone(), Some(entry), &entry.pod.ports)
                    }
                    Holder::Node(of, name) => {
                        let node = mesh.nodes.get(&(of.clone(), name.clone()))?;
                        let kube_apiserver = node.kube_apiserver_of.as_deref() == Some(cluster);
                        (Class::RemoteNode { kube_apiserver }, None, &[])
                    }
                };
            Some(Known { address: *address, class, pod: pod.map(|entry| &entry.pod.name), ports })
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
