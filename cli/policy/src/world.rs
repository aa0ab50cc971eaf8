//! Endpoints, services and policies of all clusters, and how flows name them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    rc::Rc,
};

use ipnet::IpNet;
use mesh_labels::LabelFilter;
use mesh_model::{
    EndpointSlice, Labels,
    object::{Namespace, Pod as PodObject, PodTemplate, Service as ServiceObject},
};
use mesh_policy::{Answer, End, External, Judge, Mesh, Node, Options, Pod, PodName, Traffic};
use mesh_policy_rules::{Policy, PolicyRef};

use crate::{
    entry::{Entry, EntryKind},
    problem::Problem,
};

mod changes;
mod ends;

pub(crate) use ends::{Named, Place};

/// All that flows are judged in.
pub struct World {
    pub(crate) mesh: Mesh,
    pub(crate) options: Options,
    /// Who judges in the model's place.
    judge: Option<SharedJudge>,
    pub(crate) filter: LabelFilter,
    /// The clusters that were named. Where there is one, others need not name it.
    clusters: BTreeSet<String>,
    pub(crate) endpoints: Vec<Endpoint>,
    by_name: HashMap<String, Vec<usize>>,
    /// Pods as `cluster/namespace/pod` and `namespace/pod`; nodes as `cluster/node`.
    pods_by_path: HashMap<String, Vec<usize>>,
    nodes_by_path: HashMap<String, Vec<usize>>,
    by_address: HashMap<IpAddr, Vec<usize>>,
    namespaces: BTreeMap<(String, String), BTreeMap<String, String>>,
    pub(crate) services: BTreeMap<(String, String, String), ServiceObject>,
    pub(crate) slices: BTreeMap<(String, String, String), EndpointSlice>,
    pub(crate) service_ranges: Vec<(String, IpNet)>,
    pub(crate) pod_ranges: Vec<IpNet>,
    policies: BTreeSet<(String, PolicyRef)>,
}

/// Who judges for worlds, one after another.
pub type SharedJudge = Rc<RefCell<dyn Judge>>;

/// A pod, node or address that flows can name.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) place: Place,
    /// As the input names it.
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// A pod as Kubernetes has it, for services that select it.
    pub(crate) pod: Option<PodObject>,
    pub(crate) identity: Labels,
    pub(crate) entry: Entry,
}

/// The cluster of inputs that name none.
const ONLY_CLUSTER: &str = "default";
const DEFAULT: &str = "default";

// === impl World ===

impl World {
    /// A world in which nothing is yet.
    pub fn new(options: Options, filter: LabelFilter) -> Self {
        Self {
            mesh: Mesh::new(options),
            options,
            judge: None,
            filter,
            clusters: BTreeSet::new(),
            endpoints: Vec::new(),
            by_name: HashMap::new(),
            pods_by_path: HashMap::new(),
            nodes_by_path: HashMap::new(),
            by_address: HashMap::new(),
            namespaces: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            service_ranges: Vec::new(),
            pod_ranges: Vec::new(),
            policies: BTreeSet::new(),
        }
    }

    /// From now on another judges in the model's place.
    pub fn set_judge(&mut self, judge: SharedJudge) {
        self.judge = Some(judge);
    }

    /// What is decided of a flow, and what else to know of it.
    pub(crate) fn judge(
        &self,
        from: &End,
        to: &End,
        traffic: Traffic,
        part: &str,
    ) -> Result<(Answer, Option<&'static str>), Problem> {
        let by_model = || self.mesh.judge(from, to, traffic);
        let Some(judge) = &self.judge else { return Ok((by_model(), None)) };
        let answer = judge.borrow_mut().judge(&self.mesh, from, to, traffic);
        match answer.map_err(|reason| Problem::new(part, "", reason))? {
            Some(answer) => Ok((answer, None)),
            None => Ok((by_model(), Some("no packet can be made of it: judged by the model"))),
        }
    }

    /// There is a cluster of this name.
    pub fn name_cluster(&mut self, cluster: &str) {
        if !cluster.is_empty() {
            self.clusters.insert(cluster.to_owned());
        }
    }

    /// The clusters that were named.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        self.clusters.iter().map(String::as_str)
    }

    /// The cluster of a part of the input that may name none.
    pub fn cluster_of(&self, named: Option<&str>, part: &str) -> Result<String, Problem> {
        if let Some(named) = named.filter(|named| !named.is_empty()) {
            return Ok(named.to_owned());
        }
        let mut all = self.clusters.iter();
        match (all.next(), all.next()) {
            (None, _) => Ok(ONLY_CLUSTER.to_owned()),
            (Some(one), None) => Ok(one.clone()),
            (Some(_), Some(_)) => {
                let names: Vec<&str> = self.clusters.iter().map(String::as_str).collect();
                let names = names.join(", ");
                Err(Problem::new(part, "cluster", format!("it is missing; one of {names}")))
            }
        }
    }

    /// Adds entries, namespaces first: their labels are part of their pods' identities. `part` names an entry.
    pub fn add(
        &mut self,
        entries: &[Entry],
        part: impl Fn(usize) -> String,
    ) -> Result<(), Problem> {
        for (index, entry) in entries.iter().enumerate() {
            entry.check(&part(index))?;
            let named = [entry.cluster.as_ref(), entry.kube_apiserver_of.as_ref()];
            named.into_iter().flatten().for_each(|cluster| self.name_cluster(cluster));
        }
        let of_kind = |namespaces: bool| {
            let all = entries.iter().enumerate();
            all.filter(move |(_, entry)| (entry.kind == EntryKind::Namespace) == namespaces)
        };
        for (index, entry) in of_kind(true) {
            let cluster = self.cluster_of(entry.cluster.as_deref(), &part(index))?;
            let name = (cluster, entry.name.clone());
            if self.namespaces.insert(name, entry.labels.clone()).is_some() {
                return Err(Problem::new(part(index), "name", "this namespace is there twice"));
            }
        }
        for (index, entry) in of_kind(false) {
            self.add_endpoint(entry, &part(index))?;
        }
        Ok(())
    }

    pub(crate) fn add_endpoint(&mut self, entry: &Entry, part: &str) -> Result<(), Problem> {
        let named = entry.cluster.as_deref();
        let cluster = match entry.kind {
            EntryKind::External if !entry.kube_apiserver => named.unwrap_or_default().to_owned(),
            _ => self.cluster_of(named, part)?,
        };
        let kube_apiserver_of = entry
            .kube_apiserver_of
            .clone()
            .filter(|named| !named.is_empty())
            .or_else(|| entry.kube_apiserver.then(|| cluster.clone()));
        let addresses = entry.addresses();
        let mut endpoint = Endpoint {
            place: Place::Address,
            name: entry.name.clone(),
            addresses: addresses.clone(),
            pod: None,
            identity: Labels::default(),
            entry: entry.clone(),
        };
        match entry.kind {
            EntryKind::Pod => {
                let pod = pod_of(entry);
                let name = PodName {
                    cluster: cluster.clone(),
                    namespace: pod.namespace.to_string(),
                    name: entry.name.clone(),
                };
                endpoint.place = match (entry.host_network, &entry.node) {
                    (true, Some(node)) => Place::Node(cluster.clone(), node.clone()),
                    (true, None) => {
                        let reason = "a pod on its node's network needs the node's name";
                        return Err(Problem::new(part, "node", reason));
                    }
                    (false, _) => Place::Pod(name.clone()),
                };
                let path = format!("{}/{}/{}", name.cluster, name.namespace, name.name);
                if self.pods_by_path.contains_key(&path) {
                    return Err(Problem::new(part, "name", "this pod is there twice"));
                }
                if !entry.host_network {
                    endpoint.identity = self.identity_of(entry, &pod, &cluster);
                    self.mesh.put_pod(Pod {
                        name,
                        labels: endpoint.identity.clone(),
                        node: entry.node.clone().unwrap_or_default(),
                        ips: addresses.clone(),
                        ports: entry.named_ports(),
                    });
                }
                if let Place::Node(cluster, node) = &endpoint.place
                    && !self.endpoints.iter().any(|one| one.place == endpoint.place)
                {
                    self.mesh.put_node(Node {
                        cluster: cluster.clone(),
                        name: node.clone(),
                        ips: addresses.clone(),
                        kube_apiserver_of: None,
                    });
                }
                endpoint.pod = Some(pod);
            }
            EntryKind::Node => {
                endpoint.place = Place::Node(cluster.clone(), entry.name.clone());
                self.mesh.put_node(Node {
                    cluster,
                    name: entry.name.clone(),
                    ips: addresses.clone(),
                    kube_apiserver_of,
                });
            }
            EntryKind::External => {
                for ip in &addresses {
                    let kube_apiserver_of = kube_apiserver_of.clone();
                    self.mesh.put_external(External { ip: *ip, kube_apiserver_of });
                }
            }
            EntryKind::Namespace => return Ok(()),
        }
        self.index(self.endpoints.len(), &endpoint);
        self.endpoints.push(endpoint);
        Ok(())
    }

    fn index(&mut self, at: usize, endpoint: &Endpoint) {
        self.by_name.entry(endpoint.name.clone()).or_default().push(at);
        match endpoint.entry.kind {
            EntryKind::Pod => {
                for path in [endpoint.path(), endpoint.short_path()] {
                    self.pods_by_path.entry(path).or_default().push(at);
                }
            }
            EntryKind::Node => {
                self.nodes_by_path.entry(endpoint.path()).or_default().push(at);
            }
            EntryKind::External | EntryKind::Namespace => {}
        }
        for address in &endpoint.addresses {
            self.by_address.entry(*address).or_default().push(at);
        }
    }

    fn identity_of(&self, entry: &Entry, pod: &PodObject, cluster: &str) -> Labels {
        if let Some(given) = &entry.identity_labels {
            return given.labels();
        }
        let name = pod.namespace.to_string();
        let labels = self.namespaces.get(&(cluster.to_owned(), name.clone()));
        let mut labels = labels.cloned().unwrap_or_default();
        labels.insert(mesh_source::NAMESPACE_NAME_LABEL.into(), name.clone());
        let namespace = Namespace { name, labels, annotations: BTreeMap::new() };
        self.filter.identity(pod, &namespace, cluster)
    }

    /// Whether a namespace was described, or has a pod.
    pub fn knows_namespace(&self, cluster: &str, namespace: &str) -> bool {
        self.namespaces.contains_key(&(cluster.to_owned(), namespace.to_owned()))
            || self.endpoints.iter().any(|one| match &one.place {
                Place::Pod(pod) => pod.cluster == cluster && pod.namespace == namespace,
                Place::Node(..) | Place::Address => false,
            })
    }

    /// Adds a range of a cluster's pods.
    pub fn add_pod_range(&mut self, cluster: &str, range: IpNet) {
        self.pod_ranges.push(range);
        self.mesh.put_pod_range(cluster, range);
    }

    /// Adds a range of a cluster's services: an address of it is a service, or an error.
    pub fn add_service_range(&mut self, cluster: &str, range: IpNet) {
        self.service_ranges.push((cluster.to_owned(), range));
    }

    /// Adds a policy of a cluster.
    pub fn put_policy(&mut self, cluster: &str, policy: Policy) {
        self.policies.insert((cluster.to_owned(), policy.reference.clone()));
        self.mesh.put_policy(cluster, policy);
    }

    /// Whether a cluster has a policy of this name.
    pub fn has_policy(&self, cluster: &str, policy: &PolicyRef) -> bool {
        self.policies.contains(&(cluster.to_owned(), policy.clone()))
    }

    /// Adds a service of a cluster.
    pub fn add_service(&mut self, cluster: &str, service: ServiceObject) {
        let key = (cluster.to_owned(), service.namespace.clone(), service.name.clone());
        self.services.insert(key, service);
    }

    /// Adds endpoints of a service.
    pub fn add_slice(&mut self, cluster: &str, slice: EndpointSlice) {
        let key = (cluster.to_owned(), slice.namespace.clone(), slice.name.clone());
        self.slices.insert(key, slice);
    }
}

/// What an entry says of a pod.
fn pod_of(entry: &Entry) -> PodObject {
    let text = |text: &Option<String>| {
        let given = text.as_ref().filter(|text| !text.is_empty());
        given.cloned().unwrap_or_else(|| DEFAULT.to_owned())
    };
    PodObject {
        namespace: text(&entry.namespace).into(),
        name: entry.name.as_str().into(),
        uid: Default::default(),
        template: PodTemplate {
            labels: match &entry.identity_labels {
                Some(given) => {
                    let labels = given.labels();
                    labels.iter().map(|(_, key, value)| (key.into(), value.into())).collect()
                }
                None => entry.labels.clone(),
            },
            service_account: text(&entry.service_account),
            hostname: None,
            subdomain: None,
            named_ports: entry.named_ports(),
        }
        .into(),
        node: entry.node.clone().unwrap_or_default().into(),
        host_network: entry.host_network,
        ips: entry.addresses().into(),
        ready: true,
        terminating: false,
        finished: false,
        socket_lb_off: false,
    }
}
