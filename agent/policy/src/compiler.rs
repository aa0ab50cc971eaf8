//! The policies of one cluster, for the pods of it that are asked for.

mod changes;
mod policies;
mod services;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use mesh_model::{Labels, NamedPort, identity::CLUSTER_LABEL};
use mesh_policy_rules::{Action, CidrRule, Peer, PolicyRef, Requirement, Selector};
use slab::Slab;

use crate::{
    cidrs::Cidrs,
    class::{Class, RESERVED, could_be_of, could_have},
    matcher::Matcher,
    mesh::Service,
    options::{CidrMatch, Options},
    row::{Number, Row},
    set::Set,
    unions::{Numbered, Unions},
};
pub use changes::Changes;
use changes::Noted;
use policies::Compiled;

/// Selectors that a node can hold: bits of a row.
pub const MAX_SELECTORS: usize = 2_048;
/// Rules that a pod can have in one direction: a segment of the kernel's array.
pub const MAX_RULES: usize = 512;

/// Compiles what the cluster's policies say, change by change: a new label set is one row, whatever the number of
/// policies; a new policy touches the rows that its selectors match and the sets of the pods that it selects.
#[derive(Debug)]
pub struct Compiler {
    options: Options,
    cluster: String,
    classes: HashMap<Class, ClassEntry>,
    /// Of peers: selectors of rules against the label sets of the mesh.
    peers: Matcher<Number, Class>,
    unions: Unions,
    cidrs: Cidrs,
    /// The selectors whose ranges count for addresses of the mesh.
    in_mesh: Row,
    /// Of subjects: specs of policies against the pods of this cluster.
    subjects: Matcher<(Arc<PolicyRef>, usize), usize>,
    pods: Slab<Subject>,
    /// Sets that are equal are one.
    sets: HashSet<Arc<Set>>,
    policies: BTreeMap<Arc<PolicyRef>, Compiled>,
    services: BTreeMap<(String, String), Service>,
    /// What changed, where that is noted.
    noted: Option<Noted>,
}

#[derive(Debug, Default)]
struct ClassEntry {
    labels: Labels,
    row: Row,
    position: Option<usize>,
}

/// Pods of this cluster that are alike for every policy.
#[derive(Debug)]
struct Subject {
    labels: Labels,
    ports: Vec<NamedPort>,
    position: usize,
    egress: Arc<Set>,
    ingress: Arc<Set>,
}

/// Which end of a flow a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// It sends.
    Egress,
    /// It receives.
    Ingress,
}

// === impl Compiler ===

impl Compiler {
    /// Of a cluster that has no policies yet.
    pub fn new(cluster: &str, options: Options) -> Self {
        let mut compiler = Self {
            options,
            cluster: cluster.into(),
            classes: HashMap::new(),
            peers: Matcher::default(),
            unions: Unions::default(),
            cidrs: Cidrs::default(),
            in_mesh: Row::default(),
            subjects: Matcher::default(),
            pods: Slab::new(),
            sets: HashSet::new(),
            policies: BTreeMap::new(),
            services: BTreeMap::new(),
            noted: None,
        };
        for class in Class::reserved() {
            let labels = class.reserved_labels();
            compiler.put_class(class, labels);
        }
        compiler
    }

    /// Something can be at the other end, with these labels. A class that is there already stays as it is.
    pub fn put_class(&mut self, class: Class, labels: Labels) {
        if self.classes.contains_key(&class) {
            return;
        }
        let row = match &class {
            Class::Unknown(cluster) => self.unknown_row(cluster),
            // No rule names an untranslated service.
            Class::Service => Row::default(),
            _ => {
                let entities = class.entities(&self.cluster, &labels);
                let entities = entities.into_iter().flat_map(|one| self.unions.with_entity(one));
                self.peers.selectors_of(&labels).copied().chain(entities).collect()
            }
        };
        let position = (!labels.is_empty()).then(|| {
            // Copies share the labels.
            self.peers.add_member(labels.clone(), class.clone())
        });
        self.note_class(&class);
        self.classes.insert(class, ClassEntry { labels, row, position });
    }

    /// Nothing is of this class any more.
    pub fn remove_class(&mut self, class: &Class) {
        let Some(entry) = self.classes.remove(class) else { return };
        if let Some(position) = entry.position {
            self.peers.remove_member(position);
        }
        self.note_class(class);
    }

    /// Pods of this cluster have these labels and named ports. Returns the position to ask for them by.
    pub fn add_subject(&mut self, labels: Labels, ports: Vec<NamedPort>) -> usize {
        let entry = self.pods.vacant_entry();
        let at = entry.key();
        let position = self.subjects.add_member(labels.clone(), at);
        let none = Arc::new(Set::default());
        entry.insert(Subject { labels, ports, position, egress: none.clone(), ingress: none });
        self.build_sets(at);
        at
    }

    /// No pod has them any more.
    pub fn remove_subject(&mut self, at: usize) {
        if let Some(subject) = self.pods.try_remove(at) {
            self.subjects.remove_member(subject.position);
            Noted::subject(&mut self.noted, at);
            self.drop_set(subject.egress);
            self.drop_set(subject.ingress);
        }
    }

    /// Denies whose peers could be something of a cluster.
    fn unknown_row(&self, cluster: &str) -> Row {
        let denies = self.unions.iter().filter(|(_, one)| one.union.action == Action::Deny);
        denies.filter(|(_, one)| self.could_mean(one, cluster)).map(|(number, _)| number).collect()
    }

    fn could_mean(&self, union: &Numbered, cluster: &str) -> bool {
        union.resolved.iter().any(|peer| match peer {
            Peer::Pods(selector) => {
                let labels = [mesh_model::Label::kubernetes(CLUSTER_LABEL, cluster)];
                let labels: Labels = labels.into_iter().collect();
                selector.requirements.iter().all(|requirement| {
                    let is_reserved = requirement.source.as_deref() == Some(RESERVED);
                    match requirement.key.as_str() {
                        CLUSTER_LABEL => requirement.matches(&labels),
                        key if is_reserved && !requirement.matches(&Labels::default()) => {
                            could_have(key, cluster, &self.cluster)
                        }
                        _ => true,
                    }
                })
            }
            Peer::Entity(entity) => could_be_of(*entity, cluster, &self.cluster),
            // Its address is known: the ranges say whether it is meant.
            Peer::Cidr(_) | Peer::Service(_) => false,
        })
    }

    /// Makes a number's bits what its union's peers are now.
    fn resolve(&mut self, number: Number) {
        let Some(entry) = self.unions.get(number) else { return };
        let resolved = self.resolved(&entry.union.peers);
        if entry.resolved == resolved {
            return;
        }
        self.clear(number);
        let mut positions = Vec::new();
        for peer in &resolved {
            match peer {
                Peer::Pods(selector) => {
                    for class in self.peers.members_of(selector) {
                        if let Some(entry) = self.classes.get_mut(class) {
                            entry.row.insert(number);
                            Noted::class(&mut self.noted, class);
                        }
                    }
                    positions.push(self.peers.add_selector(selector.clone(), number));
                }
                Peer::Entity(entity) => {
                    for (class, entry) in &mut self.classes {
                        if class.entities(&self.cluster, &entry.labels).contains(entity) {
                            entry.row.insert(number);
                            Noted::class(&mut self.noted, class);
                        }
                    }
                }
                Peer::Cidr(_) | Peer::Service(_) => {}
            }
        }
        let Some(entry) = self.unions.get_mut(number) else { return };
        (entry.resolved, entry.selectors) = (resolved, positions);
        let rules = cidrs_of(&entry.resolved);
        if rules.iter().any(|rule| counts_in_mesh(self.options.cidr_match, rule)) {
            self.in_mesh.insert(number);
            Noted::in_mesh(&mut self.noted);
        }
        self.cidrs.add(number, &rules);
        self.mark_unknown(number);
    }

    /// A deny holds for what is unknown of a cluster if it could be meant.
    fn mark_unknown(&mut self, number: Number) {
        let Some(union) = self.unions.get(number) else { return };
        if union.union.action != Action::Deny {
            return;
        }
        let unknown = self.classes.keys().filter(|class| class.is_unknown());
        let clusters: Vec<Class> = unknown.cloned().collect();
        for class in clusters {
            let Class::Unknown(cluster) = &class else { continue };
            let meant = self.unions.get(number).is_some_and(|one| self.could_mean(one, cluster));
            if meant && let Some(entry) = self.classes.get_mut(&class) {
                entry.row.insert(number);
                Noted::class(&mut self.noted, &class);
            }
        }
    }

    /// Takes a number out of all rows.
    fn clear(&mut self, number: Number) {
        let Some(entry) = self.unions.get_mut(number) else { return };
        let selectors = std::mem::take(&mut entry.selectors);
        let resolved = std::mem::take(&mut entry.resolved);
        self.forget(number, &resolved, &selectors);
    }

    /// Takes out of all rows the number of these peers, and their selectors out of the index.
    fn forget(&mut self, number: Number, peers: &BTreeSet<Peer>, selectors: &[usize]) {
        if peers.is_empty() {
            return;
        }
        for peer in peers {
            let Peer::Pods(selector) = peer else { continue };
            for class in self.peers.members_of(selector) {
                if let Some(entry) = self.classes.get_mut(class) {
                    entry.row.remove(number);
                    Noted::class(&mut self.noted, class);
                }
            }
        }
        let named = peers.iter().any(|peer| matches!(peer, Peer::Entity(_)));
        let classes = self.classes.iter_mut();
        for (class, entry) in classes.filter(|(class, _)| named || class.is_unknown()) {
            if entry.row.remove(number) {
                Noted::class(&mut self.noted, class);
            }
        }
        selectors.iter().for_each(|position| self.peers.remove_selector(*position));
        self.cidrs.remove(number, &cidrs_of(peers));
        if self.in_mesh.remove(number) {
            Noted::in_mesh(&mut self.noted);
        }
    }

    /// Peers as this cluster means them.
    fn resolved(&self, peers: &BTreeSet<Peer>) -> BTreeSet<Peer> {
        let mut resolved = BTreeSet::new();
        for peer in peers {
            match peer {
                Peer::Pods(selector) => {
                    resolved.insert(Peer::Pods(self.scoped(selector)));
                }
                Peer::Service(meant) => resolved.extend(self.backends(meant)),
                Peer::Entity(_) | Peer::Cidr(_) => {
                    resolved.insert(peer.clone());
                }
            }
        }
        resolved
    }

    /// A selector that names no cluster means pods of this one, where that is the default.
    fn scoped(&self, selector: &Selector) -> Selector {
        let everywhere = !self.options.default_local_cluster
            || selector.names(CLUSTER_LABEL)
            || selector.names_reserved();
        match everywhere {
            true => selector.clone(),
            false => selector.clone().and(Requirement::equals(CLUSTER_LABEL, &self.cluster)),
        }
    }
}

fn counts_in_mesh(cidr_match: CidrMatch, rule: &CidrRule) -> bool {
    match cidr_match {
        CidrMatch::NetworkPolicy => rule.network_policy,
        CidrMatch::All => true,
        CidrMatch::None => false,
    }
}

/// The ranges among peers.
fn cidrs_of(peers: &BTreeSet<Peer>) -> Vec<&CidrRule> {
    let mut cidrs = Vec::new();
    for peer in peers {
        if let Peer::Cidr(rule) = peer {
            cidrs.push(rule);
        }
    }
    cidrs
}
