//! Pods, nodes and policies of all clusters, and what each cluster decides of a flow.

mod answer;
mod ends;
mod judge;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use ipnet::IpNet;
use mesh_model::{Labels, NamedPort};
use mesh_policy_rules::{Action, Policy, PolicyRef};

pub use answer::{Answer, Decision, DecisionKind, Directed};
pub use ends::{End, External, Node, Pod, PodName, Service, Traffic};
pub use judge::Judge;
pub use view::{Known, Subject, View};

use crate::{
    class::Class,
    compiler::{Compiler, Direction},
    options::{AllowLocalhost, Enforcement, Options},
};

/// All clusters, their pods and their policies: each cluster decides about its own pods with a compiler of its own.
#[derive(Debug, Default)]
pub struct Mesh {
    /// Another one after each change, and of no other mesh.
    revision: u64,
    options: Options,
    clusters: BTreeMap<String, Compiler>,
    pods: HashMap<PodName, PodEntry>,
    nodes: HashMap<(String, String), Node>,
    externals: HashMap<IpAddr, External>,
    /// Pods and nodes by address. The first that was added has it.
    addresses: HashMap<IpAddr, Vec<Holder>>,
    /// Label sets of clusters in use: what they are to policies, and how many pods have them.
    label_sets: HashMap<(String, Labels), (Class, usize)>,
    next_label_set: u32,
    ranges: Vec<(IpNet, String)>,
}

#[derive(Debug)]
struct PodEntry {
    pod: Pod,
    class: Class,
    /// Its position in its cluster's compiler.
    subject: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Holder {
    Pod(PodName),
    Node(String, String),
}

/// The last revision that a mesh was given.
static REVISION: AtomicU64 = AtomicU64::new(0);

/// An end, looked up.
struct Found<'a> {
    pod: Option<&'a PodEntry>,
    node: Option<&'a Node>,
    external: Option<&'a External>,
    /// The cluster in whose pod range it is, if it is nothing else.
    unknown_of: Option<&'a str>,
    address: Option<IpAddr>,
}

// === impl Mesh ===

impl Mesh {
    /// An empty mesh.
    pub fn new(options: Options) -> Self {
        let mut mesh = Self { options, ..Self::default() };
        mesh.changed();
        mesh
    }

    /// A number that changes with each change, and that no other mesh of this process has.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Adds a pod, or replaces the one of this name.
    pub fn put_pod(&mut self, pod: Pod) {
        self.changed();
        if self.pods.get(&pod.name).is_some_and(|present| present.pod == pod) {
            return;
        }
        self.remove_pod(&pod.name);
        // The cluster first: a new one learns of the pods that are there already.
        self.cluster(&pod.name.cluster);
        let class = self.take_labels(&pod.labels, &pod.name.cluster);
        let compiler = self.cluster(&pod.name.cluster);
        let subject = compiler.add_subject(pod.labels.clone(), pod.ports.clone());
        self.hold(&pod.ips, &Holder::Pod(pod.name.clone()));
        self.pods.insert(pod.name.clone(), PodEntry { pod, class, subject });
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, name: &PodName) {
        self.changed();
        let Some(entry) = self.pods.remove(name) else { return };
        self.release(&entry.pod.ips, &Holder::Pod(name.clone()));
        self.cluster(&name.cluster).remove_subject(entry.subject);
        self.release_labels(&name.cluster, &entry.pod.labels, &entry.class);
    }

    /// Adds a node, or replaces the one of this name.
    pub fn put_node(&mut self, node: Node) {
        self.changed();
        self.remove_node(&node.cluster, &node.name);
        self.hold(&node.ips, &Holder::Node(node.cluster.clone(), node.name.clone()));
        self.nodes.insert((node.cluster.clone(), node.name.clone()), node);
    }

    /// Removes a node.
    pub fn remove_node(&mut self, cluster: &str, name: &str) {
        self.changed();
        let Some(node) = self.nodes.remove(&(cluster.to_owned(), name.to_owned())) else { return };
        self.release(&node.ips, &Holder::Node(cluster.into(), name.into()));
    }

    /// Adds what is known of an address outside the mesh.
    pub fn put_external(&mut self, external: External) {
        self.changed();
        self.externals.insert(external.ip, external);
    }

    /// Forgets what is known of an address outside the mesh.
    pub fn remove_external(&mut self, ip: IpAddr) {
        self.changed();
        self.externals.remove(&ip);
    }

    /// Adds a range of a cluster's pods: an address of it that no pod has is *unknown of the cluster*, never world.
    pub fn put_pod_range(&mut self, cluster: &str, range: IpNet) {
        self.changed();
        let entry = (range.trunc(), cluster.to_owned());
        if !self.ranges.contains(&entry) {
            self.ranges.push(entry);
        }
        self.cluster(cluster);
        for compiler in self.clusters.values_mut() {
            compiler.put_class(Class::Unknown(cluster.into()), Labels::default());
        }
    }

    /// Adds a service, or replaces the one of this name.
    pub fn put_service(&mut self, service: Service) {
        self.changed();
        self.cluster(&service.cluster.clone()).put_service(service);
    }

    /// Removes a service.
    pub fn remove_service(&mut self, cluster: &str, namespace: &str, name: &str) {
        self.changed();
        self.cluster(cluster).remove_service(namespace, name);
    }

    /// Adds a policy of a cluster, or replaces the one of this name.
    pub fn put_policy(&mut self, cluster: &str, policy: Policy) {
        self.changed();
        self.cluster(cluster).put_policy(policy);
    }

    /// Removes a policy of a cluster.
    pub fn remove_policy(&mut self, cluster: &str, policy: &PolicyRef) {
        self.changed();
        self.cluster(cluster).remove_policy(policy);
    }

    /// The policies that select a pod.
    pub fn selecting(&self, pod: &PodName) -> Vec<PolicyRef> {
        let entry = self.pods.get(pod).zip(self.clusters.get(&pod.cluster));
        let selecting = entry.map(|(entry, compiler)| compiler.selecting(entry.subject));
        selecting.into_iter().flatten().cloned().collect()
    }

    /// How many selectors the policies of a cluster have, if one node had all pods that they select.
    pub fn selectors(&self, cluster: &str) -> usize {
        self.clusters.get(cluster).map_or(0, Compiler::selectors)
    }

    /// How many rules a pod has: in the direction that has more.
    pub fn rules(&self, pod: &PodName) -> usize {
        let entry = self.pods.get(pod).zip(self.clusters.get(&pod.cluster));
        let rules = |direction| {
            let set = entry.and_then(|(entry, compiler)| compiler.set(entry.subject, direction));
            set.map_or(0, |set| set.rules.len())
        };
        rules(Direction::Egress).max(rules(Direction::Ingress))
    }

    /// What is decided of a flow.
    pub fn judge(&self, from: &End, to: &End, traffic: Traffic) -> Answer {
        let (from, to) = (self.find(from), self.find(to));
        Answer {
            egress: self.directed(Direction::Egress, &from, &to, traffic),
            ingress: self.directed(Direction::Ingress, &to, &from, traffic),
        }
    }

    /// What the cluster of a pod decides about it and its peer.
    fn directed(
        &self,
        direction: Direction,
        pod: &Found<'_>,
        peer: &Found<'_>,
        traffic: Traffic,
    ) -> Directed {
        let Some(entry) = pod.pod else { return Directed::NotEnforced };
        let kind = |kind| Decision { kind, policies: Vec::new(), rule: None };
        if peer.pod.is_some_and(|other| other.pod.name == entry.pod.name) {
            return Directed::Allowed(kind(DecisionKind::SamePod));
        }
        if self.options.enforcement == Enforcement::Never {
            return Directed::Allowed(kind(DecisionKind::EnforcementOff));
        }
        let Some(compiler) = self.clusters.get(&entry.pod.name.cluster) else {
            return Directed::NotEnforced;
        };
        let Some(set) = compiler.set(entry.subject, direction) else {
            return Directed::NotEnforced;
        };
        let class = peer.class(&entry.pod);
        let ports: &[NamedPort] = peer.pod.map_or(&[], |other| &other.pod.ports);
        if let Some(rule) = set.first(&compiler.peer(&class, peer.address, ports), traffic) {
            let decision = |kind| Decision {
                kind,
                policies: vec![PolicyRef::clone(&rule.policy)],
                rule: Some(rule.path.to_string()),
            };
            return match rule.action {
                Action::Deny => Directed::Denied(decision(DecisionKind::DenyRule)),
                Action::Allow => Directed::Allowed(decision(DecisionKind::AllowRule)),
            };
        }
        if !set.default_deny {
            return Directed::Allowed(kind(DecisionKind::DefaultAllow));
        }
        let own_node = direction == Direction::Ingress && matches!(class, Class::Host { .. });
        if own_node && self.options.allow_localhost == AllowLocalhost::Always {
            return Directed::Allowed(kind(DecisionKind::AllowLocalhost));
        }
        Directed::Denied(Decision {
            kind: DecisionKind::DefaultDeny,
            policies: set.denying.iter().map(|policy| PolicyRef::clone(policy)).collect(),
            rule: None,
        })
    }

    fn changed(&mut self) {
        self.revision = REVISION.fetch_add(1, Ordering::Relaxed) + 1;
    }

    fn find(&self, end: &End) -> Found<'_> {
        let (holder, address) = match end {
            End::Pod(name, address) => (Some(Holder::Pod(name.clone())), *address),
            End::Node(cluster, name, address) => {
                (Some(Holder::Node(cluster.clone(), name.clone())), *address)
            }
            End::Address(address) => {
                let holders = self.addresses.get(address);
                (holders.and_then(|holders| holders.first()).cloned(), Some(*address))
            }
        };
        let mut found = Found { pod: None, node: None, external: None, unknown_of: None, address };
        match holder {
            Some(Holder::Pod(name)) => found.pod = self.pods.get(&name),
            Some(Holder::Node(cluster, name)) => found.node = self.nodes.get(&(cluster, name)),
            None => {
                found.external = address.and_then(|address| self.externals.get(&address));
                let within = |(range, _): &&(IpNet, String)| {
                    address.is_some_and(|address| range.contains(&address))
                };
                let ranges = self.ranges.iter().filter(within);
                let longest = ranges.max_by_key(|(range, _)| range.prefix_len());
                found.unknown_of = longest.map(|(_, cluster)| cluster.as_str());
            }
        }
        found
    }

    /// The compiler of a cluster. A new one learns of all that there is.
    fn cluster(&mut self, name: &str) -> &mut Compiler {
        let Self { clusters, pods, ranges, options, .. } = self;
        clusters.entry(name.to_owned()).or_insert_with(|| {
            let mut compiler = Compiler::new(name, *options);
            for entry in pods.values() {
                compiler.put_class(entry.class.clone(), entry.pod.labels.clone());
            }
            for (_, cluster) in ranges.iter() {
                compiler.put_class(Class::Unknown(cluster.clone()), Labels::default());
            }
            compiler
        })
    }

    fn take_labels(&mut self, labels: &Labels, cluster: &str) -> Class {
        let next = Class::Pod(self.next_label_set, cluster.into());
        let key = (cluster.to_owned(), labels.clone());
        let (class, uses) = self.label_sets.entry(key).or_insert((next.clone(), 0));
        *uses += 1;
        if *uses == 1 {
            self.next_label_set += 1;
            for compiler in self.clusters.values_mut() {
                compiler.put_class(class.clone(), labels.clone());
            }
        }
        class.clone()
    }

    fn release_labels(&mut self, cluster: &str, labels: &Labels, class: &Class) {
        let key = (cluster.to_owned(), labels.clone());
        let Some((_, uses)) = self.label_sets.get_mut(&key) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.label_sets.remove(&key);
            self.clusters.values_mut().for_each(|compiler| compiler.remove_class(class));
        }
    }

    fn hold(&mut self, addresses: &[IpAddr], holder: &Holder) {
        for address in addresses {
            self.addresses.entry(*address).or_default().push(holder.clone());
        }
    }

    fn release(&mut self, addresses: &[IpAddr], holder: &Holder) {
        for address in addresses {
            let Some(holders) = self.addresses.get_mut(address) else { continue };
            holders.retain(|one| one != holder);
            if holders.is_empty() {
                self.addresses.remove(address);
            }
        }
    }
}

// === impl Found ===

impl Found<'_> {
    /// What it is, seen from a pod.
    fn class(&self, judged: &Pod) -> Class {
        let api = |of: &Option<String>| of.as_ref() == Some(&judged.name.cluster);
        if let Some(entry) = self.pod {
            return entry.class.clone();
        }
        if let Some(node) = self.node {
            let kube_apiserver = api(&node.kube_apiserver_of);
            let own = node.cluster == judged.name.cluster && node.name == judged.node;
            return match own {
                true => Class::Host { kube_apiserver },
                false => Class::RemoteNode { kube_apiserver },
            };
        }
        if let Some(cluster) = self.unknown_of {
            return Class::Unknown(cluster.to_owned());
        }
        let kube_apiserver = self.external.is_some_and(|one| api(&one.kube_apiserver_of));
        let v6 = self.address.is_some_and(|address| address.is_ipv6());
        Class::World { v6, kube_apiserver }
    }
}
