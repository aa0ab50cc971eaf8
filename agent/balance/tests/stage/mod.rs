//! A balancer with clusters a (the local one), b, c and d, and tables that do what they are asked.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mesh_balance::{Balancer, ClusterState, ClusterView, Explanation, Rules};
use mesh_model::{
    ClusterId, ClusterName, Protocol, ServiceName, ServiceTraffic,
    lb::{
        Backend, BackendState, Change, Condition, Content, Frontend, Group, Hints, NodeHealth,
        ServiceDelta, Weights,
    },
};

pub(crate) struct Stage {
    pub(crate) balancer: Balancer,
    pub(crate) tables: HashMap<Frontend, Content>,
    pub(crate) last: Vec<Change>,
}

pub(crate) const CLUSTERS: [&str; 4] = ["a", "b", "c", "d"];

pub(crate) fn id(cluster: &str) -> ClusterId {
    let number = CLUSTERS.iter().position(|name| *name == cluster).unwrap() + 1;
    ClusterId::from_wire(u32::try_from(number).unwrap()).unwrap()
}

pub(crate) fn name(cluster: &str) -> ClusterName {
    ClusterName::new(cluster).unwrap()
}

pub(crate) fn view(cluster: &str, state: ClusterState, synced: bool) -> ClusterView {
    ClusterView { name: name(cluster), state, synced }
}

pub(crate) fn service() -> Arc<ServiceName> {
    Arc::new(ServiceName::new("shop", "web"))
}

pub(crate) fn frontend() -> Frontend {
    Frontend { address: "10.101.0.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp }
}

/// `b12` is backend 2 on node n1 of cluster b.
pub(crate) fn backend(word: &str) -> Backend {
    let cluster = id(&word[..1]);
    let address = format!("10.{}.{}.{}", cluster.get(), &word[1..2], &word[2..]);
    Backend { address: address.parse().unwrap(), port: 8080, protocol: Protocol::Tcp, cluster }
}

pub(crate) fn node(word: &str) -> Arc<str> {
    format!("n{}", &word[1..2]).into()
}

pub(crate) fn global() -> ServiceTraffic {
    ServiceTraffic { global: true, ..ServiceTraffic::default() }
}

impl Stage {
    /// Its clients are on node n1 of cluster a.
    pub(crate) fn new(replace_kube_proxy: bool) -> Self {
        let node = Some("n1".into());
        Self::of(Rules { local: id("a"), node, replace_kube_proxy })
    }

    pub(crate) fn of(rules: Rules) -> Self {
        let balancer = Balancer::new(rules, name("a"));
        let mut stage = Self { balancer, tables: HashMap::new(), last: Vec::new() };
        stage.balancer.set_all_known(true);
        for cluster in CLUSTERS {
            stage.cluster(cluster, ClusterState::InUse, true);
        }
        stage
    }

    /// A global service with one frontend and these backends.
    pub(crate) fn with(traffic: ServiceTraffic, backends: &str) -> Self {
        Self::new(false).and(traffic, backends)
    }

    pub(crate) fn and(mut self, traffic: ServiceTraffic, backends: &str) -> Self {
        self.traffic(traffic);
        self.frontend(frontend(), "http");
        for word in backends.split_whitespace() {
            self.set(word, Condition::Ready);
        }
        self
    }

    pub(crate) fn take(&mut self, changes: Vec<Change>) {
        apply(&mut self.tables, &changes);
        self.last = changes;
    }

    pub(crate) fn report(&mut self, delta: &ServiceDelta) {
        let changes = self.balancer.apply(delta, |_, _| None::<&str>);
        self.take(changes);
    }

    pub(crate) fn traffic(&mut self, traffic: ServiceTraffic) {
        let traffic = Arc::new(traffic);
        self.report(&ServiceDelta::ServiceSet { service: service(), traffic });
    }

    pub(crate) fn frontend(&mut self, frontend: Frontend, port_name: &str) {
        let (service, port_name) = (service(), port_name.into());
        self.report(&ServiceDelta::FrontendAdded { service, port_name, frontend });
    }

    pub(crate) fn set(&mut self, word: &str, condition: Condition) {
        let state = BackendState { condition, node: Some(node(word)), ..BackendState::default() };
        let (service, port_name, backend) = (service(), "http".into(), backend(word));
        self.report(&ServiceDelta::BackendSet { service, port_name, backend, state });
    }

    /// A ready backend, reported without a node.
    pub(crate) fn set_without_node(&mut self, word: &str) {
        let (service, port_name, backend) = (service(), "http".into(), backend(word));
        let state = BackendState::default();
        self.report(&ServiceDelta::BackendSet { service, port_name, backend, state });
    }

    /// A ready backend with hints, as `z1,z2`, `n1` or `n1,z1`: for zones and nodes by their first letter.
    pub(crate) fn hint(&mut self, word: &str, hints: &str) {
        let of = |letter: char| {
            let names = hints.split(',').filter(|name| name.starts_with(letter));
            names.map(Into::into).collect()
        };
        let hints = Some(Arc::new(Hints { nodes: of('n'), zones: of('z') }));
        let state = BackendState { node: Some(node(word)), hints, ..BackendState::default() };
        let (service, port_name, backend) = (service(), "http".into(), backend(word));
        self.report(&ServiceDelta::BackendSet { service, port_name, backend, state });
    }

    pub(crate) fn zone(&mut self, zone: Option<&str>) {
        let changes = self.balancer.set_zone(zone);
        self.take(changes);
    }

    pub(crate) fn remove(&mut self, word: &str) {
        let (service, port_name, backend) = (service(), "http".into(), backend(word));
        self.report(&ServiceDelta::BackendRemoved { service, port_name, backend });
    }

    /// `b1` is node n1 of cluster b.
    pub(crate) fn node(&mut self, word: &str, alive: bool) {
        self.set_node(word, if alive { NodeHealth::Alive } else { NodeHealth::Dead });
    }

    pub(crate) fn set_node(&mut self, word: &str, health: NodeHealth) {
        let changes = self.balancer.set_node(id(&word[..1]), &node(word), health);
        self.take(changes);
    }

    pub(crate) fn cluster(&mut self, cluster: &str, state: ClusterState, synced: bool) {
        let changes = self.balancer.set_cluster(id(cluster), Some(view(cluster, state, synced)));
        self.take(changes);
    }

    /// What each backend gets, in percent, as `a11 25, b11 75`; by the tables.
    pub(crate) fn shares(&self) -> String {
        let Some(content) = self.tables.get(&frontend()) else { return "no frontend".into() };
        let shares = shares(content);
        let words = shares.iter().map(|(backend, share)| {
            let octets = backend.address.to_string();
            let octets: Vec<&str> = octets.split('.').collect();
            let cluster = CLUSTERS[octets[1].parse::<usize>().unwrap() - 1];
            let percent = (share * 1000.0).round() / 10.0;
            format!("{cluster}{}{} {percent}", octets[2], octets[3])
        });
        words.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn explain(&self) -> Explanation {
        self.balancer.explain(&frontend()).unwrap()
    }

    /// What is reported of each backend, as `a11 in-use ready`.
    pub(crate) fn words(&self) -> String {
        let words = self.explain().backends;
        let words = words.iter().map(|candidate| {
            let octets = candidate.backend.address.to_string();
            let octets: Vec<&str> = octets.split('.').collect();
            let (usage, reason) = (candidate.usage.as_str(), candidate.reason.as_str());
            format!("{}{}{} {usage} {reason}", candidate.cluster, octets[2], octets[3])
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

/// What tables do with changes, and what they would complain about. A frontend that leads somewhere before and after leads
/// somewhere all the time.
pub(crate) fn apply(tables: &mut HashMap<Frontend, Content>, changes: &[Change]) {
    let before = tables.clone();
    let mut gaps = Vec::new();
    for change in changes {
        match change {
            Change::SetFrontend(frontend, settings) => {
                tables.entry(*frontend).or_default().settings = *settings;
            }
            Change::RemoveFrontend(frontend) => {
                assert!(tables.remove(frontend).is_some(), "{change:?}: it is not there");
            }
            Change::AddBackend(frontend, backend, group) => {
                let content = tables.get_mut(frontend).expect("its frontend is there");
                let was = content.backends.insert(*backend, *group);
                assert_ne!(was, Some(*group), "{change:?}: for nothing");
            }
            Change::RemoveBackend(frontend, backend) => {
                let content = tables.get_mut(frontend).expect("its frontend is there");
                assert!(content.backends.remove(backend).is_some(), "{change:?}: it is not there");
            }
            Change::SetWeights(frontend, weights) => {
                tables.get_mut(frontend).expect("its frontend is there").weights = *weights;
            }
        }
        let empty = tables.iter().filter(|(_, content)| content.backends.is_empty());
        gaps.extend(empty.map(|(frontend, _)| *frontend));
        let gone = before.keys().filter(|frontend| !tables.contains_key(frontend));
        gaps.extend(gone.copied());
    }
    let leads = |tables: &HashMap<Frontend, Content>, frontend: &Frontend| {
        tables.get(frontend).is_some_and(|content| !content.backends.is_empty())
    };
    for frontend in gaps {
        assert!(!(leads(&before, &frontend) && leads(tables, &frontend)), "a gap: {changes:?}");
    }
}

/// What each backend gets of all connections, by what the kernel does with groups and weights.
pub(crate) fn shares(content: &Content) -> BTreeMap<Backend, f64> {
    let Weights(weights) = content.weights;
    let count =
        |group: usize| content.backends.values().filter(|of| Group::number(**of) == group).count();
    let all: f64 =
        (0..Group::COUNT).filter(|group| count(*group) > 0).map(|g| f64::from(weights[g])).sum();
    let share =
        |group: &Group| f64::from(weights[group.number()]) / all / count(group.number()) as f64;
    content.backends.iter().map(|(backend, group)| (*backend, share(group))).collect()
}
