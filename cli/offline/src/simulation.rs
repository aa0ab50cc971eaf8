//! A mesh over time, as the agents of one cluster see it.

use std::{collections::BTreeMap, time::Duration};

use ipnet::IpNet;
use mesh_labels::LabelFilter;
use mesh_merge::{Claims, LocalRanges};
use mesh_model::{
    AddressKind, ClusterName, ServiceName,
    object::{Kind, Object},
};
use mesh_source::cluster_directory::ClusterSettings;

use crate::{
    cluster::{Cluster, ClusterSetup},
    events::{Event, ScenarioEvent, time},
    importer::{Importer, ImporterSetup},
    keys_file::KeysFile,
    state::{ClusterState, Content, State},
};

/// The options of a simulation.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long records of an unreachable cluster are valid.
    pub staleness_budget: Duration,
    /// Whether services that are not global are in the tables too.
    pub replace_kube_proxy: bool,
    /// The rules for labels that are part of an identity.
    pub filter: LabelFilter,
    /// The node of the clients; `None` to ignore nodes.
    pub node: Option<String>,
}

/// A mesh at a time, as one cluster sees it.
#[derive(Debug)]
pub struct Simulation {
    local: ClusterName,
    options: Options,
    pub(crate) exporters: BTreeMap<ClusterName, Exporter>,
    pub(crate) importer: Importer,
    /// The claims that each cluster is granted.
    claims: BTreeMap<ClusterName, Option<Claims>>,
    links: BTreeMap<ClusterName, Link>,
    now: Duration,
    /// Problems that do not stop the simulation.
    problems: Vec<String>,
    /// Contents of files that are not used.
    notes: Vec<String>,
    /// Invalid Service objects that a cluster therefore lacks, each with what is wrong.
    pub(crate) refused_services: BTreeMap<(ClusterName, ServiceName), String>,
}

/// A cluster that exports keys.
#[derive(Debug)]
pub(crate) enum Exporter {
    /// The keys follow from its objects.
    Objects(Box<Cluster>),
    /// Only its keys are known.
    Keys(Box<KeysFile>),
}

/// The connection of a cluster to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Link {
    #[default]
    Up,
    /// Unreachable since this time.
    Down(Duration),
    /// Removed as a peer at this time.
    Removed(Duration),
}

/// Whether a cluster is reachable from the importing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reachability {
    /// It is connected.
    Connected,
    /// Unreachable since the first time; its records are valid until the second.
    Unreachable(Duration, Duration),
    /// Unreachable since the first time; its records became invalid at the second.
    Stale(Duration, Duration),
    /// Removed as a peer at this time.
    Removed(Duration),
}

/// Why a simulation is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// There is no cluster of this name.
    #[error("{what}: there is no cluster {name} (there are: {known})")]
    Unknown {
        /// The flag or event with the name.
        what: String,
        /// The name.
        name: ClusterName,
        /// The existing clusters.
        known: String,
    },
    /// The importing cluster has no such node.
    #[error("--node: cluster {cluster} has no node {node} (there are: {known})")]
    UnknownNode {
        /// The importing cluster.
        cluster: ClusterName,
        /// The name of the node.
        node: String,
        /// The existing nodes.
        known: String,
    },
    /// An event changes objects of a cluster of which only the keys are known.
    #[error("{what}: of {name} only keys are known: objects can be neither applied nor deleted")]
    NoObjects {
        /// The event.
        what: String,
        /// The name of the cluster.
        name: ClusterName,
    },
}

/// The default of the agent's `--staleness-budget`.
const STALENESS_BUDGET: Duration = Duration::from_secs(15 * 60);

// === impl Options ===

impl Options {
    /// The defaults of the daemons' flags, but with services that are not global, so that those can be explained too.
    pub fn new(filter: LabelFilter) -> Self {
        Self { staleness_budget: STALENESS_BUDGET, replace_kube_proxy: true, filter, node: None }
    }
}

// === impl Simulation ===

impl Simulation {
    /// A mesh with all clusters connected. `from` is the importing cluster.
    pub fn new(
        state: State,
        from: &ClusterName,
        options: Options,
    ) -> Result<Self, SimulationError> {
        let Some(local) = state.clusters.get(from) else {
            return Err(SimulationError::Unknown {
                what: "--from".into(),
                name: from.clone(),
                known: names(state.clusters.keys()),
            });
        };
        let ClusterSettings { id, limit, pod_cidrs, node_cidrs, service_cidrs, .. } =
            local.settings.clone();
        let ranges = LocalRanges { pod_cidrs, node_cidrs, service_cidrs };
        let replace_kube_proxy = options.replace_kube_proxy;
        let (local, node) = (from.clone(), options.node.clone());
        let setup = ImporterSetup { local, id, limit, ranges, replace_kube_proxy, node };
        let mut importer = Importer::new(setup);
        let (mut problems, mut notes) = (state.stray, Vec::new());
        let (mut exporters, mut grants) = (BTreeMap::new(), BTreeMap::new());
        let mut refused_services = BTreeMap::new();
        for (name, ClusterState { settings, content }) in state.clusters {
            grants.insert(name.clone(), claims(&settings, &content));
            let exporter = match content {
                Content::Objects(objects) => {
                    problems.extend(objects.problems.iter().map(ToString::to_string));
                    notes.extend(objects.notes.iter().map(ToString::to_string));
                    let refused = objects.refused.iter();
                    let refused = refused.filter(|(key, _)| key.kind == Kind::Service);
                    refused_services.extend(refused.map(|(key, problem)| {
                        let service = ServiceName::new(&key.namespace, &key.name);
                        ((name.clone(), service), problem.to_string())
                    }));
                    let setup = ClusterSetup::new(&settings, options.filter.clone());
                    let cluster = Cluster::new(setup, objects.objects);
                    Exporter::Objects(Box::new(cluster.with_drain(objects.drain)))
                }
                Content::Keys(file) => Exporter::Keys(file),
            };
            exporters.insert(name, exporter);
        }
        for (name, claims) in grants.iter().filter(|(name, _)| *name != from) {
            importer.add_peer(name, claims.clone());
        }
        let links = exporters.keys().map(|name| (name.clone(), Link::Up)).collect();
        let now = Duration::ZERO;
        let mut simulation = Self {
            local: from.clone(),
            options,
            exporters,
            importer,
            claims: grants,
            links,
            now,
            problems,
            notes,
            refused_services,
        };
        // The local cluster first: its ID is fixed.
        simulation.import(from);
        simulation.hear_all();
        Ok(simulation)
    }

    /// Runs the events up to a time.
    pub fn run(&mut self, events: &[Event], until: Duration) -> Result<(), SimulationError> {
        for (index, event) in events.iter().enumerate() {
            let what = || format!("event at {} (number {} by time)", time(event.at), index + 1);
            if !self.exporters.contains_key(&event.cluster) {
                let known = names(self.exporters.keys());
                let name = event.cluster.clone();
                return Err(SimulationError::Unknown { what: what(), name, known });
            }
            if event.at <= until {
                self.happen(event, what)?;
            }
        }
        self.now = until;
        let stale = self
            .links
            .keys()
            .filter(|name| matches!(self.reachability(name), Reachability::Stale(..)));
        for name in stale.cloned().collect::<Vec<_>>() {
            self.importer.set_stale(&name);
        }
        match self.importer.other_nodes() {
            Some((node, known)) => Err(SimulationError::UnknownNode {
                cluster: self.local.clone(),
                node: node.into(),
                known: known.join(", "),
            }),
            None => Ok(()),
        }
    }

    /// Problems that do not stop the simulation.
    pub fn problems(&self) -> Vec<String> {
        let of = |(name, exporter): (&ClusterName, &Exporter)| -> Vec<String> {
            let mut all = Vec::new();
            if let Exporter::Objects(cluster) = exporter {
                all.extend(cluster.problems().map(|problem| format!("cluster {name}: {problem}")));
            }
            all
        };
        self.problems.iter().cloned().chain(self.exporters.iter().flat_map(of)).collect()
    }

    /// Warnings: invalid parts of objects, which are ignored, and keys without a config.
    pub fn notes(&self) -> Vec<String> {
        let of = |(name, exporter): (&ClusterName, &Exporter)| -> Vec<String> {
            match exporter {
                Exporter::Objects(cluster) => {
                    cluster.notes().map(|note| format!("cluster {name}: {note}")).collect()
                }
                Exporter::Keys(file) => file.lacks_config().into_iter().collect(),
            }
        };
        self.notes.iter().cloned().chain(self.exporters.iter().flat_map(of)).collect()
    }

    /// The importing cluster.
    pub fn local(&self) -> &ClusterName {
        &self.local
    }

    /// Whether a cluster is reachable now.
    pub(crate) fn reachability(&self, name: &ClusterName) -> Reachability {
        let of = |name: &ClusterName| self.links.get(name).copied().unwrap_or_default();
        if *name == self.local {
            return Reachability::Connected;
        }
        // If the importing cluster is unreachable for the others, they are unreachable for it.
        let since = match (of(&self.local), of(name)) {
            (Link::Up, Link::Up) => return Reachability::Connected,
            (Link::Removed(one), Link::Removed(other)) => {
                return Reachability::Removed(one.min(other));
            }
            (Link::Removed(at), _) | (_, Link::Removed(at)) => return Reachability::Removed(at),
            (Link::Down(one), Link::Down(other)) => one.min(other),
            (Link::Down(since), Link::Up) | (Link::Up, Link::Down(since)) => since,
        };
        let until = since.saturating_add(self.options.staleness_budget);
        if self.now < until {
            Reachability::Unreachable(since, until)
        } else {
            Reachability::Stale(since, until)
        }
    }

    fn happen(&mut self, event: &Event, what: impl Fn() -> String) -> Result<(), SimulationError> {
        let name = &event.cluster;
        self.now = event.at;
        match &event.what {
            ScenarioEvent::Disconnect => {
                if self.links.get(name) == Some(&Link::Up) {
                    self.links.insert(name.clone(), Link::Down(event.at));
                }
            }
            ScenarioEvent::Connect => {
                self.links.insert(name.clone(), Link::Up);
                self.hear_all();
            }
            ScenarioEvent::Remove => {
                if !matches!(self.links.get(name), Some(Link::Removed(_))) {
                    self.links.insert(name.clone(), Link::Removed(event.at));
                }
                let gone = self
                    .exporters
                    .keys()
                    .filter(|name| matches!(self.reachability(name), Reachability::Removed(_)));
                for name in gone.cloned().collect::<Vec<_>>() {
                    self.importer.remove_peer(&name);
                }
            }
            ScenarioEvent::Apply(objects) => {
                let cluster = self.objects_of(name, &what)?;
                objects.iter().cloned().for_each(|object| cluster.apply(object));
                self.import(name);
            }
            ScenarioEvent::Delete(key) => {
                let was_there = self.objects_of(name, &what)?.delete(key);
                if !was_there {
                    self.problems.push(format!("{}: cluster {name} has no {key}", what()));
                }
                self.import(name);
            }
        }
        Ok(())
    }

    fn objects_of(
        &mut self,
        name: &ClusterName,
        what: impl Fn() -> String,
    ) -> Result<&mut Cluster, SimulationError> {
        match self.exporters.get_mut(name) {
            Some(Exporter::Objects(cluster)) => Ok(cluster),
            _ => Err(SimulationError::NoObjects { what: what(), name: name.clone() }),
        }
    }

    fn hear_all(&mut self) {
        for name in self.exporters.keys().cloned().collect::<Vec<_>>() {
            self.import(&name);
        }
    }

    /// Imports the keys of a cluster, if it is connected.
    fn import(&mut self, name: &ClusterName) {
        if self.reachability(name) != Reachability::Connected {
            return;
        }
        let Some(exporter) = self.exporters.get(name) else { return };
        if *name != self.local && self.importer.last_seen(name).is_none() {
            self.importer.add_peer(name, self.claims.get(name).cloned().flatten());
        }
        let is_local = *name == self.local;
        let with_local_keys = is_local && matches!(exporter, Exporter::Objects(_));
        self.importer.import(&exporter.keys(is_local), with_local_keys);
    }
}

/// The claims that a cluster is granted: the ranges in its settings, as `connect` grants them. Without ranges of nodes, the
/// addresses of its nodes. `None` without ranges of pods.
fn claims(settings: &ClusterSettings, content: &Content) -> Option<Claims> {
    if settings.pod_cidrs.is_empty() {
        return None;
    }
    let mut node_cidrs = settings.node_cidrs.clone();
    if let (true, Content::Objects(objects)) = (node_cidrs.is_empty(), content) {
        let nodes = objects.objects.values().filter_map(|object| match object {
            Object::Node(node) => Some(node),
            _ => None,
        });
        let addresses = nodes.flat_map(|node| &node.addresses);
        let internal = addresses.filter(|address| address.kind == AddressKind::Internal);
        node_cidrs.extend(internal.map(|address| IpNet::from(address.ip)));
    }
    let id = Some(settings.id);
    let pod_cidrs = settings.pod_cidrs.clone();
    Some(Claims { id, pod_cidrs, node_cidrs, external_backends: false })
}

fn names<'a>(names: impl Iterator<Item = &'a ClusterName>) -> String {
    let names: Vec<&str> = names.map(ClusterName::as_str).collect();
    names.join(", ")
}

// === impl Exporter ===

impl Exporter {
    /// Its keys; `is_local` adds those for its nodes only.
    pub(crate) fn keys(&self, is_local: bool) -> KeysFile {
        match self {
            Self::Keys(file) => (**file).clone(),
            Self::Objects(cluster) if is_local => cluster.all_keys_file(),
            Self::Objects(cluster) => cluster.keys_file(),
        }
    }
}
