//! What the core wants, added up, is what the clusters' states lead to: against a model that knows only the last state of
//! each cluster and the rules of `docs/load-balancing.md` and `docs/adr/0016`, and shares no code with it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use mesh_balance::Rules;
use mesh_core::{Config, Connection, Core, Input, Lifted, LocalState, PeerSettings};
use mesh_follow::{Budget, PeerCommand, PeerEvent, Refusal};
use mesh_health::Verdict;
use mesh_merge::{Claims, LocalRanges};
use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, EndpointSlice, ExportMode, LocalService,
    Node, NodeAddress, Port, Protocol, Record, RecordEvent, RecordKey, RecordKind, ServiceName,
    ServiceTraffic, SliceEndpoint,
    lb::{Change, Frontend, RouteDelta},
    node::{AddressKind, FamilyPair},
    service::{SERVICE_NAME_LABEL, SlicePort},
};
use proptest::prelude::*;

const CLUSTERS: [&str; 3] = ["a", "b", "c"];
const NODES: [&str; 2] = ["n1", "n2"];
const SLICES: [&str; 2] = ["s0", "s1"];
const BUDGET: Duration = Duration::from_secs(900);

/// An endpoint: its node, its last byte, and whether it is ready.
type Endpoint = (usize, u8, bool);

#[derive(Clone, Debug)]
enum Step {
    Follow(usize),
    Unfollow(usize),
    FilesRead(bool),
    /// The follower connects, and finds the cluster's config.
    Connect(usize),
    Disconnect(usize),
    /// All nodes and slices of a cluster.
    List(usize, Vec<usize>, Vec<(usize, Vec<Endpoint>)>),
    Slice(usize, usize, Vec<Endpoint>),
    Unslice(usize, usize),
    Node(usize, usize),
    Unnode(usize, usize),
    /// The local cluster has the service, or not.
    Service(bool),
    NodeAnswers(usize, usize, bool),
    ClusterAnswers(usize, bool),
    OverBudget(usize),
    Lift(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (all, remote, node, slice) = (0usize..3, 1usize..3, 0usize..2, 0usize..2);
    let endpoints = || prop::collection::vec((0usize..2, 0u8..4, any::<bool>()), 0..4);
    let slices = prop::collection::vec((slice.clone(), endpoints()), 0..3);
    let nodes = prop::collection::vec(node.clone(), 0..3);
    let step = prop_oneof![
        3 => remote.clone().prop_map(Step::Follow),
        1 => remote.clone().prop_map(Step::Unfollow),
        2 => any::<bool>().prop_map(Step::FilesRead),
        5 => all.clone().prop_map(Step::Connect),
        2 => all.clone().prop_map(Step::Disconnect),
        4 => (all.clone(), nodes, slices).prop_map(|(c, n, s)| Step::List(c, n, s)),
        6 => (all.clone(), slice.clone(), endpoints()).prop_map(|(c, s, e)| Step::Slice(c, s, e)),
        2 => (all.clone(), slice).prop_map(|(c, s)| Step::Unslice(c, s)),
        2 => (all.clone(), node.clone()).prop_map(|(c, n)| Step::Node(c, n)),
        1 => (all.clone(), node.clone()).prop_map(|(c, n)| Step::Unnode(c, n)),
        2 => prop::bool::weighted(0.8).prop_map(Step::Service),
        3 => (all, node, any::<bool>()).prop_map(|(c, n, up)| Step::NodeAnswers(c, n, up)),
        2 => (remote.clone(), any::<bool>()).prop_map(|(c, up)| Step::ClusterAnswers(c, up)),
        1 => remote.clone().prop_map(Step::OverBudget),
        1 => remote.prop_map(Step::Lift),
        3 => prop_oneof![Just(1u64), Just(400), Just(899), Just(901)].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..80)
}

// ------------------------------------------------------------------------------------------------ the model

/// A cluster as it was last seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    followed: bool,
    /// Its config was accepted.
    accepted: bool,
    connected: bool,
    synced: bool,
    /// It was listed since it was followed first.
    listed: bool,
    /// Since when there is no connection.
    away: Option<Duration>,
    stale: bool,
    quarantined: bool,
    unreachable: bool,
    dead: BTreeSet<usize>,
    nodes: BTreeSet<usize>,
    slices: BTreeMap<usize, Vec<Endpoint>>,
}

#[derive(Debug, Default)]
struct Model {
    clusters: [Seen; 3],
    files_complete: bool,
    service: bool,
    now: Duration,
}

/// A backend: its cluster and its address.
type Found = BTreeSet<(u32, IpAddr)>;

impl Model {
    /// Whether records of a cluster are accepted.
    fn accepts(&self, c: usize) -> bool {
        let seen = &self.clusters[c];
        seen.followed && seen.accepted && seen.connected && !seen.quarantined
    }

    /// Staleness follows from connections and time.
    fn settle(&mut self) {
        let now = self.now;
        for seen in self.clusters.iter_mut().skip(1).filter(|seen| seen.followed) {
            if !seen.connected {
                let away = *seen.away.get_or_insert(now);
                seen.stale |= now - away >= BUDGET;
            } else if !seen.stale || (seen.synced && !seen.quarantined) {
                (seen.away, seen.stale) = (None, false);
            }
        }
    }

    /// The service's frontend: whether it lets connections pass where it leads nowhere, and where it leads.
    fn frontend(&self) -> Option<(bool, Found)> {
        if !self.service {
            return None;
        }
        let mut ready = Vec::new();
        for (c, seen) in self.clusters.iter().enumerate().filter(|(_, seen)| !seen.stale) {
            for (slice, endpoints) in &seen.slices {
                // Of one address in one slice the best counts.
                for (node, last, _) in endpoints.iter().filter(|(.., ready)| *ready) {
                    let alive = !seen.unreachable && !seen.dead.contains(node);
                    ready.push((alive, (number(c), address(c, *node, *slice, *last))));
                }
            }
        }
        let any_alive = ready.iter().any(|(alive, _)| *alive);
        let used: Found =
            ready.into_iter().filter(|(alive, _)| *alive || !any_alive).map(|(_, b)| b).collect();
        let all_synced = self.files_complete
            && self.clusters.iter().filter(|seen| seen.followed).all(|seen| {
                let synced = seen.connected && seen.synced && !seen.quarantined;
                seen.accepted && seen.listed && synced && !seen.stale
            });
        Some((used.is_empty() && !all_synced, used))
    }

    fn routes(&self) -> BTreeSet<(IpNet, IpAddr)> {
        let peers = self.clusters.iter().enumerate().skip(1);
        let routes = peers.flat_map(|(c, seen)| {
            seen.nodes.iter().map(move |node| (pod_range(c, *node), node_address(c, *node)))
        });
        routes.collect()
    }
}

// ------------------------------------------------------------------------------------------------ the world

fn number(c: usize) -> u32 {
    u32::try_from(c).unwrap() + 1
}

fn name(c: usize) -> ClusterName {
    ClusterName::new(CLUSTERS[c]).unwrap()
}

fn id(c: usize) -> ClusterId {
    ClusterId::new(number(c), ClusterLimit::Max255).unwrap()
}

fn byte(n: usize) -> u8 {
    u8::try_from(n).unwrap()
}

fn address(c: usize, node: usize, slice: usize, last: u8) -> IpAddr {
    [10, byte(c) + 1, byte(node) + 1, byte(slice) * 100 + last + 1].into()
}

fn pod_range(c: usize, node: usize) -> IpNet {
    format!("10.{}.{}.0/24", c + 1, node + 1).parse().unwrap()
}

fn node_address(c: usize, node: usize) -> IpAddr {
    [172, 31, byte(c) + 1, byte(node) + 1].into()
}

fn config(c: usize) -> ClusterConfig {
    ClusterConfig {
        id: id(c),
        synced_canaries: true,
        cached: false,
        max_connected_clusters: 255,
        service_exports_enabled: Some(false),
        export_mode: ExportMode::ServicesAndEndpointSlices,
        uuid: None,
    }
}

fn service() -> ServiceName {
    ServiceName::new("shop", "web")
}

fn slice_key(c: usize, slice: usize) -> RecordKey {
    let name = ServiceName::new("shop", SLICES[slice]);
    if c == 0 { RecordKey::LocalEndpointSlice(name) } else { RecordKey::EndpointSlice(name) }
}

fn slice_record(c: usize, slice: usize, endpoints: &[Endpoint]) -> Record {
    let endpoint = |(node, last, ready): &Endpoint| SliceEndpoint {
        addresses: vec![address(c, *node, slice, *last).to_string()],
        ready: Some(*ready),
        serving: Some(*ready),
        terminating: Some(false),
        node: Some(NODES[*node].into()),
        ..SliceEndpoint::default()
    };
    let record = Box::new(EndpointSlice {
        cluster: CLUSTERS[c].into(),
        cluster_id: id(c),
        namespace: "shop".into(),
        name: SLICES[slice].into(),
        labels: BTreeMap::from([(SERVICE_NAME_LABEL.into(), "web".into())]),
        annotations: BTreeMap::new(),
        address_type: "IPv4".into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: vec![SlicePort {
            name: Some("http".into()),
            protocol: Some("TCP".into()),
            number: Some(8080),
            app_protocol: None,
        }],
    });
    if c == 0 { Record::LocalEndpointSlice(record) } else { Record::EndpointSlice(record) }
}

fn node_record(c: usize, node: usize) -> Record {
    Record::Node(Box::new(Node {
        name: NODES[node].into(),
        cluster: name(c),
        cluster_id: id(c),
        addresses: vec![NodeAddress { kind: AddressKind::Internal, ip: node_address(c, node) }],
        pod_cidrs: vec![pod_range(c, node)],
        health_ips: FamilyPair::default(),
        ingress_ips: FamilyPair::default(),
        source: "local".into(),
        encryption_key: 0,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        wireguard_public_key: String::new(),
        boot_id: String::new(),
    }))
}

fn service_record() -> Record {
    Record::LocalService(Box::new(LocalService {
        name: service(),
        cluster_ips: vec![[10, 101, 0, 1].into()],
        ports: BTreeMap::from([("http".into(), Port { protocol: Protocol::Tcp, number: 80 })]),
        traffic: ServiceTraffic { global: true, ..ServiceTraffic::default() },
        shared: true,
        publish_not_ready_addresses: false,
        foreign_proxy: false,
        outside_addresses: false,
    }))
}

/// What a list of a cluster brings, of the kinds that matter here.
fn kinds(c: usize) -> Vec<RecordKind> {
    match c {
        0 => vec![RecordKind::Node, RecordKind::LocalEndpointSlice, RecordKind::LocalService],
        _ => vec![RecordKind::Node, RecordKind::EndpointSlice],
    }
}

// ------------------------------------------------------------------------------------------------ the stage

/// The core, and writers that do as they are asked.
struct Stage {
    core: Core,
    began: Instant,
    model: Model,
    frontends: BTreeMap<Frontend, (bool, Found)>,
    routes: BTreeSet<(IpNet, IpAddr)>,
    holding: BTreeMap<ClusterName, Option<Refusal>>,
    local_state: Option<LocalState>,
}

impl Stage {
    fn new() -> Self {
        let began = Instant::now();
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let config = Config {
            local: name(0),
            node: "n1".into(),
            rules: Rules { local: id(0), node: Some("n1".into()), replace_kube_proxy: false },
            ranges: LocalRanges {
                pod_cidrs: vec![net("10.1.0.0/16")],
                node_cidrs: vec![net("172.31.1.0/24")],
                service_cidrs: vec![net("10.101.0.0/16")],
            },
            local_routes: false,
            staleness_budget: BUDGET,
            snapshots: BTreeMap::new(),
            unbalanced: BTreeSet::new(),
            local_state: None,
        };
        let mut stage = Self {
            core: Core::new(config, began),
            began,
            model: Model::default(),
            frontends: BTreeMap::new(),
            routes: BTreeSet::new(),
            holding: BTreeMap::new(),
            local_state: None,
        };
        stage.handle(Input::Follow(name(0), PeerSettings::default()));
        stage.model.clusters[0].followed = true;
        stage
    }

    fn now(&self) -> Instant {
        self.began + self.model.now
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        self.core.handle(input, now);
        self.carry_out();
    }

    fn events(&mut self, c: usize, events: Vec<PeerEvent>) {
        let seen = &self.model.clusters[c];
        let connected = seen.connected;
        let synced = connected && seen.synced && !seen.quarantined;
        let connection = Connection { connected, synced, beats: 0 };
        self.handle(Input::Events(name(c), events, connection));
    }

    fn records(&mut self, c: usize, records: Vec<RecordEvent>) {
        self.events(c, records.into_iter().map(PeerEvent::Record).collect());
    }

    /// Does what is wanted, and checks that each change makes sense in the present state.
    fn carry_out(&mut self) {
        let wanted = self.core.take_wanted();
        for change in wanted.changes {
            match change {
                Change::SetFrontend(frontend, settings) => {
                    self.frontends.entry(frontend).or_default().0 = settings.pass_if_empty;
                }
                Change::RemoveFrontend(frontend) => {
                    assert!(self.frontends.remove(&frontend).is_some());
                }
                Change::AddBackend(frontend, backend, _) => {
                    let (_, backends) = self.frontends.get_mut(&frontend).unwrap();
                    backends.insert((backend.cluster.get().into(), backend.address));
                }
                Change::RemoveBackend(frontend, backend) => {
                    let (_, backends) = self.frontends.get_mut(&frontend).unwrap();
                    let gone = (backend.cluster.get().into(), backend.address);
                    assert!(backends.remove(&gone), "{gone:?} is not there");
                }
                Change::SetWeights(frontend, _) => assert!(self.frontends.contains_key(&frontend)),
            }
        }
        for delta in wanted.routes {
            match delta {
                RouteDelta::Added(route) => {
                    assert!(self.routes.insert((route.range, route.via)), "twice: {route:?}");
                }
                RouteDelta::Removed(route) => {
                    assert!(self.routes.remove(&(route.range, route.via)), "not there: {route:?}");
                }
            }
        }
        for (name, command) in wanted.commands {
            let holding = match command {
                PeerCommand::Hold(refusal) => Some(refusal),
                PeerCommand::Release => None,
                PeerCommand::Reconnect | PeerCommand::Ask => {
                    panic!("the core did not ask for that")
                }
            };
            self.holding.insert(name, holding);
        }
        self.local_state = wanted.local_state.or(self.local_state);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Follow(c) => {
                let claims = Claims {
                    id: Some(id(c)),
                    pod_cidrs: vec![format!("10.{}.0.0/16", c + 1).parse().unwrap()],
                    node_cidrs: vec![format!("172.31.{}.0/24", c + 1).parse().unwrap()],
                    external_backends: false,
                };
                let settings = PeerSettings {
                    claims: Some(claims),
                    uuid: None,
                    budget: Some(Budget::default()),
                };
                // A new follower holds nothing back until it is asked to.
                self.holding.remove(&name(c));
                self.handle(Input::Follow(name(c), settings));
                let seen = &mut self.model.clusters[c];
                (seen.followed, seen.connected, seen.synced) = (true, false, false);
            }
            Step::Unfollow(c) => {
                if !self.model.clusters[c].followed {
                    return;
                }
                let before = std::mem::take(&mut self.model.clusters[c]);
                self.handle(Input::Unfollow(name(c)));
                // Health forgets it too, and reports that.
                for node in before.dead {
                    let (cluster, address) = (name(c), node_address(c, node));
                    let (node, last_answer) = (Arc::from(NODES[node]), None);
                    let alive = Verdict::Node { cluster, node, address, alive: true, last_answer };
                    self.handle(Input::Verdict(alive));
                }
                if before.unreachable {
                    let (cluster, last_answer) = (name(c), None);
                    self.handle(Input::Verdict(Verdict::Cluster {
                        cluster,
                        cut: false,
                        last_answer,
                    }));
                }
            }
            Step::FilesRead(complete) => {
                self.model.files_complete = complete;
                self.handle(Input::PeersRead {
                    problems: Vec::new(),
                    complete,
                    drained: BTreeSet::new(),
                });
            }
            Step::Connect(c) => {
                let seen = &mut self.model.clusters[c];
                if !seen.followed {
                    return;
                }
                (seen.connected, seen.synced) = (true, false);
                let mut events = vec![PeerEvent::Connected];
                if !seen.quarantined {
                    seen.accepted = true;
                    events.push(PeerEvent::Config(config(c)));
                }
                self.events(c, events);
            }
            Step::Disconnect(c) => {
                let seen = &mut self.model.clusters[c];
                if !seen.connected {
                    return;
                }
                (seen.connected, seen.synced) = (false, false);
                self.events(c, vec![PeerEvent::Disconnected]);
            }
            Step::List(c, nodes, slices) => self.list(c, nodes, slices),
            Step::Slice(c, slice, endpoints) => {
                if self.model.accepts(c) {
                    let record = slice_record(c, slice, &endpoints);
                    self.model.clusters[c].slices.insert(slice, endpoints);
                    self.records(c, vec![RecordEvent::Upsert(record)]);
                }
            }
            Step::Unslice(c, slice) => {
                if self.model.accepts(c) {
                    self.model.clusters[c].slices.remove(&slice);
                    self.records(c, vec![RecordEvent::Remove(slice_key(c, slice))]);
                }
            }
            Step::Node(c, node) => {
                if self.model.accepts(c) {
                    self.model.clusters[c].nodes.insert(node);
                    self.records(c, vec![RecordEvent::Upsert(node_record(c, node))]);
                }
            }
            Step::Unnode(c, node) => {
                if self.model.accepts(c) {
                    self.model.clusters[c].nodes.remove(&node);
                    self.records(c, vec![RecordEvent::Remove(RecordKey::Node(NODES[node].into()))]);
                }
            }
            Step::Service(there) => {
                if self.model.accepts(0) {
                    self.model.service = there;
                    let event = match there {
                        true => RecordEvent::Upsert(service_record()),
                        false => RecordEvent::Remove(RecordKey::LocalService(service())),
                    };
                    self.records(0, vec![event]);
                }
            }
            Step::NodeAnswers(c, node, alive) => {
                let seen = &mut self.model.clusters[c];
                // Only of clusters that are known something is probed.
                if !seen.followed || !seen.accepted {
                    return;
                }
                match alive {
                    true => seen.dead.remove(&node),
                    false => seen.dead.insert(node),
                };
                let (address, node) = (node_address(c, node), Arc::from(NODES[node]));
                let (cluster, last_answer) = (name(c), None);
                let verdict = Verdict::Node { cluster, node, address, alive, last_answer };
                self.handle(Input::Verdict(verdict));
            }
            Step::ClusterAnswers(c, reachable) => {
                let seen = &mut self.model.clusters[c];
                if !seen.followed || !seen.accepted {
                    return;
                }
                seen.unreachable = !reachable;
                let (cluster, cut) = (name(c), !reachable);
                self.handle(Input::Verdict(Verdict::Cluster { cluster, cut, last_answer: None }));
            }
            Step::OverBudget(c) => {
                let seen = &mut self.model.clusters[c];
                if !seen.followed || !seen.connected {
                    return;
                }
                seen.quarantined = true;
                let refusal = Refusal::OverBudget("too much".into());
                self.events(c, vec![PeerEvent::Refused(refusal)]);
            }
            Step::Lift(c) => {
                let seen = &mut self.model.clusters[c];
                let expected = match (seen.followed, seen.quarantined) {
                    (false, _) => Lifted::UnknownPeer,
                    (true, false) => Lifted::NotQuarantined,
                    (true, true) => Lifted::Relisted,
                };
                seen.quarantined = false;
                assert_eq!(self.core.lift_quarantine(&name(c)), expected);
                self.carry_out();
                if expected == Lifted::Relisted && self.model.clusters[c].connected {
                    // Its follower looks at the config again, and lists.
                    self.step(Step::Connect(c));
                }
            }
            Step::Wait(seconds) => self.wait(seconds),
        }
    }

    fn list(&mut self, c: usize, nodes: Vec<usize>, slices: Vec<(usize, Vec<Endpoint>)>) {
        if !self.model.accepts(c) {
            return;
        }
        let seen = &mut self.model.clusters[c];
        (seen.nodes, seen.slices) = (nodes.into_iter().collect(), slices.into_iter().collect());
        (seen.synced, seen.listed) = (true, true);
        let begin = kinds(c).into_iter().map(RecordEvent::Begin);
        let nodes = seen.nodes.iter().map(|node| RecordEvent::Upsert(node_record(c, *node)));
        let slices = seen.slices.iter();
        let slices = slices.map(|(slice, of)| RecordEvent::Upsert(slice_record(c, *slice, of)));
        let service = (c == 0 && self.model.service).then(service_record);
        let service = service.into_iter().map(RecordEvent::Upsert);
        let confirmed = kinds(c).into_iter().map(RecordEvent::Confirmed);
        let events = begin.chain(nodes).chain(slices).chain(service).chain(confirmed).collect();
        self.records(c, events);
    }

    /// Time passes, with the core waking up when it wants to.
    fn wait(&mut self, seconds: u64) {
        let until = self.model.now + Duration::from_secs(seconds);
        let mut woken = 0;
        while let Some(due) = self.core.next_timeout(self.now()) {
            let due = due.saturating_duration_since(self.began).max(self.model.now);
            if due > until {
                break;
            }
            self.model.now = due;
            self.handle(Input::Timeout);
            woken += 1;
            assert!(woken < 100, "it wakes up for nothing");
        }
        self.model.now = until;
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.model.settle();
        // What is due is done before it is looked at.
        self.wait(0);
        let expected = self.model.frontend();
        let found: Vec<&(bool, Found)> = self.frontends.values().collect();
        match expected {
            None => prop_assert!(found.is_empty(), "{found:?}"),
            Some(expected) => prop_assert_eq!(found, vec![&expected]),
        }
        prop_assert_eq!(&self.routes, &self.model.routes());
        for (c, seen) in self.model.clusters.iter().enumerate() {
            let holding = self.holding.get(&name(c)).is_some_and(Option::is_some);
            prop_assert_eq!(holding && seen.followed, seen.quarantined, "{}", CLUSTERS[c]);
            prop_assert_eq!(self.core.quarantined(&name(c)).is_some(), seen.quarantined);
        }
        // The writer of the local cluster never reports here.
        let unsure = !self.model.clusters[0].listed || self.model.now >= Duration::from_secs(5);
        prop_assert_eq!(self.local_state, Some(LocalState { unsure, plain_passes: false }));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_wanted_follows_from_the_last_state_of_each_cluster(steps in steps()) {
        let mut stage = Stage::new();
        for step in steps {
            stage.step(step.clone());
            stage.check().map_err(|error| TestCaseError::fail(format!("after {step:?}: {error}")))?;
        }
    }
}
