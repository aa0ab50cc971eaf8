//! Policies and pods come, change and go, as bytes say.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use mesh_model::{
    Label, Labels, Protocol,
    identity::{CLUSTER_LABEL, NAMESPACE_LABEL},
};
use mesh_policy::{End, Mesh, Options, Pod, PodName, Traffic};
use mesh_policy_rules::{
    Action, CidrRule, DirectionRules, Entity, Operator, Peer, Peers, Policy, PolicyKind, PolicyRef,
    PortMatch, PortRule, Ports, Requirement, Rule, Selector,
};

/// More steps say nothing new, and take long.
const STEPS: usize = 12;
const CLUSTERS: [&str; 2] = ["a", "b"];
const VALUES: [&str; 3] = ["x", "y", "z"];

/// Bytes as numbers, one after another. After the last there are zeros.
struct Bytes<'a>(std::slice::Iter<'a, u8>);

/// What there is.
#[derive(Default)]
struct State {
    pods: BTreeMap<u8, Pod>,
    policies: BTreeMap<(u8, u8), Policy>,
}

/// Makes changes to a mesh, one after another.
///
/// In the end it decides as one that is made anew of what there is then: no number, row or set is left of what is gone.
pub fn compiler(data: &[u8]) {
    let mut bytes = Bytes(data.iter());
    let mut state = State::default();
    let mut mesh = state.mesh();
    for _ in 0..STEPS {
        let Some(step) = bytes.some() else { break };
        let name = bytes.next() % 4;
        match step % 5 {
            0 | 1 => {
                let pod = pod(name, &mut bytes);
                state.pods.insert(name, pod.clone());
                mesh.put_pod(pod);
            }
            2 => {
                if let Some(pod) = state.pods.remove(&name) {
                    mesh.remove_pod(&pod.name);
                }
            }
            3 => {
                let policy = policy(name, &mut bytes);
                state.policies.insert((name % 2, name), policy.clone());
                mesh.put_policy(cluster(name), policy);
            }
            _ => {
                if let Some(policy) = state.policies.remove(&(name % 2, name)) {
                    mesh.remove_policy(cluster(name), &policy.reference);
                }
            }
        }
    }
    let anew = state.mesh();
    for (from, to) in state.pairs() {
        for traffic in [Traffic::Port(Protocol::Tcp, 80), Traffic::Port(Protocol::Udp, 53)] {
            let [found, wanted] = [&mesh, &anew].map(|mesh| mesh.judge(&from, &to, traffic));
            assert_eq!(found, wanted, "{from:?} {to:?}");
        }
    }
}

fn cluster(name: u8) -> &'static str {
    if name.is_multiple_of(2) { "a" } else { "b" }
}

fn pod(name: u8, bytes: &mut Bytes<'_>) -> Pod {
    let cluster = cluster(name);
    let labels = [
        ("app", bytes.one(&VALUES)),
        (NAMESPACE_LABEL, bytes.one(&VALUES)),
        (CLUSTER_LABEL, cluster),
    ];
    let labels = labels.map(|(key, value)| Label::kubernetes(key, value));
    Pod {
        name: PodName { cluster: cluster.into(), namespace: "n".into(), name: name.to_string() },
        labels: labels.into_iter().collect::<Labels>(),
        node: String::new(),
        ips: vec![[10, 0, bytes.next() % 4, name].into()],
        ports: Vec::new(),
    }
}

fn policy(name: u8, bytes: &mut Bytes<'_>) -> Policy {
    let rules = (0..bytes.next() % 3).map(|_| rule(bytes)).collect();
    Policy {
        reference: PolicyRef {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "n".into(),
            name: name.to_string(),
        },
        rules,
    }
}

fn rule(bytes: &mut Bytes<'_>) -> Rule {
    let mut direction = || DirectionRules {
        default_deny: bytes.next().is_multiple_of(2),
        rules: (0..bytes.next() % 3).map(|number| port_rule(number, bytes)).collect(),
    };
    let (ingress, egress) = (direction(), direction());
    Rule { subject: selector(bytes), ingress, egress }
}

fn port_rule(number: u8, bytes: &mut Bytes<'_>) -> PortRule {
    let action = if bytes.next().is_multiple_of(3) { Action::Deny } else { Action::Allow };
    let peers = match bytes.next() % 6 {
        0 => Peers::Any,
        count => Peers::Of((1..count % 4).map(|_| peer(bytes)).collect()),
    };
    let ports = match bytes.next() % 3 {
        0 => Ports::Any,
        1 => Ports::Of(vec![PortMatch::Range { protocol: Protocol::Tcp, first: 80, last: 80 }]),
        _ => Ports::Of(vec![PortMatch::Range { protocol: Protocol::Udp, first: 0, last: 65_535 }]),
    };
    PortRule { path: format!("ingress[{number}]"), action, peers, ports }
}

fn peer(bytes: &mut Bytes<'_>) -> Peer {
    match bytes.next() % 4 {
        0 => Peer::Entity(bytes.one(&[Entity::World, Entity::Cluster, Entity::ClusterMesh])),
        1 => {
            let range = |bytes: &mut Bytes<'_>, length| {
                let range =
                    Ipv4Net::new_assert([10, 0, bytes.next() % 4, bytes.next()].into(), length);
                IpNet::V4(range.trunc())
            };
            let cidr = range(bytes, bytes_length(bytes.0.len()));
            let except = [range(bytes, 30)].into_iter().filter(|one| cidr.contains(one)).collect();
            Peer::Cidr(CidrRule { cidr, except, network_policy: bytes.next().is_multiple_of(2) })
        }
        _ => Peer::Pods(selector(bytes)),
    }
}

/// Lengths of ranges that nest.
fn bytes_length(left: usize) -> u8 {
    match left % 3 {
        0 => 8,
        1 => 24,
        _ => 28,
    }
}

fn selector(bytes: &mut Bytes<'_>) -> Selector {
    let requirement = |bytes: &mut Bytes<'_>| {
        let key = bytes.one(&["app", NAMESPACE_LABEL, CLUSTER_LABEL]);
        let value = match key {
            CLUSTER_LABEL => bytes.one(&CLUSTERS),
            _ => bytes.one(&VALUES),
        };
        let values = vec![value.to_owned()];
        let operator = match bytes.next() % 4 {
            0 => Operator::NotIn(values),
            1 => Operator::Exists,
            2 => Operator::DoesNotExist,
            _ => Operator::In(values),
        };
        Requirement::kubernetes(key, operator)
    };
    (0..bytes.next() % 3).map(|_| requirement(bytes)).fold(Selector::default(), Selector::and)
}

// === impl Bytes ===

impl Bytes<'_> {
    fn some(&mut self) -> Option<u8> {
        self.0.next().copied()
    }

    fn next(&mut self) -> u8 {
        self.some().unwrap_or_default()
    }

    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        let index = usize::from(self.next()) % all.len();
        *all.get(index).expect("it is less than their number")
    }
}

// === impl State ===

impl State {
    /// A mesh with what there is.
    fn mesh(&self) -> Mesh {
        let mut mesh = Mesh::new(Options::default());
        for name in CLUSTERS {
            let range = Ipv4Net::new_assert([10, 0, u8::from(name == "b"), 128].into(), 25);
            mesh.put_pod_range(name, range.into());
        }
        for ((cluster, _), policy) in &self.policies {
            mesh.put_policy(self::cluster(*cluster), policy.clone());
        }
        self.pods.values().for_each(|pod| mesh.put_pod(pod.clone()));
        mesh
    }

    /// Flows between all pods, and with an address that is unknown and one that is outside.
    fn pairs(&self) -> Vec<(End, End)> {
        let end = |pod: &Pod| End::Pod(pod.name.clone(), pod.ips.first().copied());
        let pods: Vec<End> = self.pods.values().map(end).collect();
        let others: [IpAddr; 2] = [[10, 0, 1, 200].into(), [203, 0, 113, 1].into()];
        let others = others.map(End::Address);
        let all = || pods.iter().chain(&others);
        all().flat_map(|from| all().map(|to| (from.clone(), to.clone()))).collect()
    }
}
