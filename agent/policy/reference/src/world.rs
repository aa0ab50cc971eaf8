//! What a line of a batch says is there, and the ends of flows in it.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use crate::{
    json::{items, only, pairs, required, text, texts},
    labels::{self, Label},
    supported,
    unsupported::Unsupported,
};

/// The cluster of a line that names none.
const ONLY_CLUSTER: &str = "default";

/// A world in which flows are judged.
#[derive(Clone, Debug)]
pub struct World {
    endpoints: Vec<Endpoint>,
    /// Policies in the order in which they are asked: cluster, kind, namespace, name.
    pub(crate) policies: Vec<Policy>,
    /// Services and EndpointSlices: cluster and object.
    pub(crate) services: Vec<(String, Value)>,
    pod_ranges: Vec<(String, IpNet)>,
    pub(crate) options: Options,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) enforcement_mode: String,
    pub(crate) default_local_cluster: bool,
    pub(crate) allow_localhost: String,
    pub(crate) cidr_match: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) cluster: String,
    /// 0 NetworkPolicy, 1 CiliumNetworkPolicy, 2 CiliumClusterwideNetworkPolicy.
    pub(crate) kind: usize,
    /// `None`: of the whole cluster.
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) object: Value,
}

const KINDS: [&str; 3] = ["NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"];

#[derive(Clone, Debug)]
struct Endpoint {
    /// All that flows may call it.
    names: [String; 3],
    end: End,
}

/// One end of a flow.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) place: Place,
    /// IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
}

/// What an end is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Pod {
        cluster: String,
        namespace: String,
        name: String,
        node: String,
        labels: Vec<Label>,
        /// Name, protocol, number.
        ports: Vec<(String, String, u64)>,
    },
    Node {
        cluster: String,
        name: String,
        api_server_of: Option<String>,
    },
    /// Outside the mesh.
    World {
        api_server_of: Option<String>,
    },
    /// An address of a cluster's pods of which nothing else is known.
    Unknown {
        cluster: String,
    },
}

// === impl World ===

impl World {
    /// Reads a line. `pod_ranges`: ranges of clusters' pods, whose addresses are unknown of the cluster while no pod has
    /// them.
    ///
    /// # Errors
    /// When something of it is invalid or not known here.
    pub fn new(line: &Value, pod_ranges: &[(String, IpNet)]) -> Result<Self, Unsupported> {
        only(line, &["id", "policies", "endpoints", "services", "flows", "options"])?;
        let clusters = Clusters::of(line);
        let mut world = Self {
            endpoints: Vec::new(),
            policies: Vec::new(),
            services: Vec::new(),
            pod_ranges: pod_ranges.to_vec(),
            options: Options::new(line.get("options").unwrap_or(&Value::Null))?,
        };
        let entries = items(line, "endpoints");
        for entry in entries.iter().filter(|entry| text(entry, "kind") != "namespace") {
            world.endpoints.push(Endpoint::new(entry, entries, &clusters)?);
        }
        for service in items(line, "services") {
            let object = required(service, "object")?.clone();
            world.services.push((clusters.get(service)?, object));
        }
        for policy in items(line, "policies") {
            world.policies.push(Policy::new(policy, &clusters)?);
        }
        let order =
            |one: &Policy| (one.cluster.clone(), one.kind, one.namespace.clone(), one.name.clone());
        world.policies.sort_by_key(order);
        if world.policies.windows(2).any(|two| matches!(two, [a, b] if order(a) == order(b))) {
            return Err(Unsupported("a policy is there twice".into()));
        }
        Ok(world)
    }

    /// What a flow names: an endpoint's name, `cluster/namespace/pod`, `namespace/pod`, or an address.
    pub(crate) fn end(&self, named: &str) -> Result<End, Unsupported> {
        for at in 0..3 {
            let is_named = |one: &&Endpoint| one.names.get(at).is_some_and(|name| name == named);
            let found: Vec<&Endpoint> = self.endpoints.iter().filter(is_named).collect();
            match found.as_slice() {
                [] => {}
                [one] => return Ok(one.end.clone()),
                _ => return Err(Unsupported(format!("{named} names several endpoints"))),
            }
        }
        let address: IpAddr = named.parse().map_err(|_| Unsupported(format!("no {named}")))?;
        let address = address.to_canonical();
        let addresses = vec![address];
        let has = |one: &&Endpoint| one.end.addresses.contains(&address);
        let mut at = self.endpoints.iter().filter(has).map(|one| &one.end.place);
        if let Some(place) = at.next() {
            // Pods on a node's network have the node's address.
            return match at.all(|other| other == place) {
                true => Ok(End { place: place.clone(), addresses }),
                false => Err(Unsupported(format!("{named} is at several endpoints"))),
            };
        }
        let is_service = |(_, service): &(String, Value)| {
            let spec = service.get("spec").unwrap_or(&Value::Null);
            text(spec, "clusterIP") == named || texts(spec, "clusterIPs").any(|one| one == named)
        };
        if self.services.iter().any(is_service) {
            return Err(Unsupported(format!("{named} is a service: ask for its backends")));
        }
        let unknown = self.pod_ranges.iter().find(|(_, range)| range.contains(&address));
        let place = match unknown {
            Some((cluster, _)) => Place::Unknown { cluster: cluster.clone() },
            None => Place::World { api_server_of: None },
        };
        Ok(End { place, addresses })
    }
}

// === impl Options ===

impl Options {
    fn new(value: &Value) -> Result<Self, Unsupported> {
        if !value.is_null() {
            let names = ["enforcementMode", "defaultLocalCluster", "allowLocalhost", "cidrMatch"];
            only(value, &names)?;
        }
        let word = |field, words: &[&str]| {
            let default = words.first().copied().unwrap_or_default();
            let word = value.get(field).and_then(Value::as_str).unwrap_or(default);
            match words.contains(&word) {
                true => Ok(word.to_owned()),
                false => Err(Unsupported(format!("{field}: {word}"))),
            }
        };
        Ok(Self {
            enforcement_mode: word("enforcementMode", &["default", "always", "never"])?,
            default_local_cluster: value.get("defaultLocalCluster") != Some(&Value::Bool(false)),
            allow_localhost: word("allowLocalhost", &["always", "policy"])?,
            cidr_match: word("cidrMatch", &["network-policy", "all", "none"])?,
        })
    }
}

// === impl Policy ===

impl Policy {
    fn new(value: &Value, clusters: &Clusters) -> Result<Self, Unsupported> {
        only(value, &["cluster", "object"])?;
        let object = required(value, "object")?;
        let kind = KINDS.iter().position(|kind| *kind == text(object, "kind"));
        let kind = kind.ok_or_else(|| Unsupported(format!("the kind of {object}")))?;
        supported::check(object)?;
        let metadata = required(object, "metadata")?;
        let namespace = match text(metadata, "namespace") {
            "" => "default",
            other => other,
        };
        Ok(Self {
            cluster: clusters.get(value)?,
            kind,
            namespace: (kind < 2).then(|| namespace.to_owned()),
            name: text(metadata, "name").to_owned(),
            object: object.clone(),
        })
    }

    /// As answers name it.
    pub(crate) fn shown(&self) -> String {
        let kind = KINDS.get(self.kind).copied().unwrap_or_default();
        match &self.namespace {
            Some(namespace) => format!("{kind} {namespace}/{}", self.name),
            None => format!("{kind} {}", self.name),
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    fn new(entry: &Value, all: &[Value], clusters: &Clusters) -> Result<Self, Unsupported> {
        let name = text(entry, "name").to_owned();
        let own = text(entry, "ip");
        let addresses = texts(entry, "ips").chain((!own.is_empty()).then_some(own));
        let addresses = addresses.map(|one| {
            let address = one.parse::<IpAddr>().map_err(|_| Unsupported(format!("address {one}")));
            address.map(|address| address.to_canonical())
        });
        let mut addresses = addresses.collect::<Result<Vec<IpAddr>, _>>()?;
        addresses.sort_by_key(IpAddr::is_ipv6);
        let is_flagged = entry.get("kubeAPIServer") == Some(&Value::Bool(true));
        let api_server_of = match text(entry, "kubeAPIServerOf") {
            "" if is_flagged => Some(clusters.get(entry)?),
            "" => None,
            cluster => Some(cluster.to_owned()),
        };
        let (place, path, short) = match text(entry, "kind") {
            "node" => {
                let cluster = clusters.get(entry)?;
                let path = format!("{cluster}/{name}");
                (Place::Node { cluster, name: name.clone(), api_server_of }, path, String::new())
            }
            "pod" => {
                let namespace = match text(entry, "namespace") {
                    "" => "default",
                    other => other,
                };
                let short = format!("{namespace}/{name}");
                let path = format!("{}/{short}", clusters.get(entry)?);
                (pod(entry, namespace, all, clusters)?, path, short)
            }
            "external" => (Place::World { api_server_of }, String::new(), String::new()),
            kind => return Err(Unsupported(format!("endpoints of the kind {kind}"))),
        };
        Ok(Self { names: [name, path, short], end: End { place, addresses } })
    }
}

fn pod(
    entry: &Value,
    namespace: &str,
    all: &[Value],
    clusters: &Clusters,
) -> Result<Place, Unsupported> {
    let cluster = clusters.get(entry)?;
    let node = text(entry, "node").to_owned();
    // Cilium documentation, "Entities based": pods in host networking are their node.
    if entry.get("hostNetwork") == Some(&Value::Bool(true)) {
        let is_node = |one: &&Value| {
            text(one, "kind") == "node"
                && text(one, "name") == node
                && clusters.get(one).is_ok_and(|one| one == cluster)
        };
        let entry = all.iter().find(is_node);
        let entry =
            entry.ok_or_else(|| Unsupported(format!("a pod on the unknown node {node}")))?;
        return Endpoint::new(entry, all, clusters).map(|node| node.end.place);
    }
    let is_namespace = |one: &&Value| {
        text(one, "kind") == "namespace"
            && text(one, "name") == namespace
            && clusters.get(one).is_ok_and(|one| one == cluster)
    };
    let given = all.iter().find(is_namespace).into_iter().flat_map(|one| pairs(one, "labels"));
    // Kubernetes documentation, "Namespaces": the control plane sets this label on all of them.
    let name_label = "kubernetes.io/metadata.name";
    let labels = given.filter(|(key, _)| *key != name_label).chain([(name_label, namespace)]);
    let labels: Vec<(String, String)> =
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let ports = items(entry, "ports").iter().map(|port| {
        let number = port.get("containerPort").or_else(|| port.get("port"));
        let protocol = match text(port, "protocol") {
            "" => "TCP",
            other => other,
        };
        let number = number.and_then(Value::as_u64).unwrap_or_default();
        (text(port, "name").to_owned(), protocol.to_owned(), number)
    });
    Ok(Place::Pod {
        labels: labels::identity(entry, &cluster, &labels),
        cluster,
        namespace: namespace.to_owned(),
        name: text(entry, "name").to_owned(),
        node,
        ports: ports.collect(),
    })
}

// === impl Clusters ===

/// The clusters that a line names. Where there is one, its parts need not name it.
struct Clusters(BTreeSet<String>);

impl Clusters {
    fn of(line: &Value) -> Self {
        let parts = ["policies", "endpoints", "services"].map(|field| items(line, field));
        let all = parts.into_iter().flatten();
        let names = all.flat_map(|one| [text(one, "cluster"), text(one, "kubeAPIServerOf")]);
        Self(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    fn get(&self, part: &Value) -> Result<String, Unsupported> {
        let mut all = self.0.iter();
        match (text(part, "cluster"), all.next(), all.next()) {
            ("", None, _) => Ok(ONLY_CLUSTER.to_owned()),
            ("", Some(one), None) => Ok(one.clone()),
            ("", ..) => Err(Unsupported(format!("no cluster: {part}"))),
            (named, ..) => Ok(named.to_owned()),
        }
    }
}
