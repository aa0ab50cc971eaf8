//! The core, fed with what clusters report, and a disk that has what it wants there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use mesh_balance::Rules;
use mesh_core::{Config, Connection, Core, Input, Lifted, PeerSettings, RestoredCluster};
use mesh_follow::{Budget, PeerEvent, Refusal};
use mesh_merge::{AddressDelta, AddressHolder, Claims, LocalRanges, RangeDelta};
use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, EndpointAddress, ExportMode, Identity,
    Labels, Node, NodeAddress, Record, RecordEvent, RecordKey, RecordKind,
    identity::CLUSTER_LABEL,
    node::{AddressKind, FamilyPair},
};
use proptest::prelude::*;

use crate::{
    List, Step,
    model::{
        ADDRESSES, BUDGET, CLUSTERS, Cluster, Model, NODE, NODES, NodeRecord, Reported, Seen,
        UNKNOWN, grant_nodes, grant_pods, ip, node_ip, node_range, number, settings,
    },
};

pub(crate) struct Stage {
    core: Core,
    began: Instant,
    model: Model,
    /// The deltas, added up.
    addresses: BTreeMap<IpAddr, AddressHolder>,
    ranges: BTreeMap<IpNet, ClusterName>,
    labels: BTreeSet<(ClusterId, Identity)>,
    disk: BTreeMap<ClusterName, RestoredCluster>,
    /// What is on it is out of date.
    moved: BTreeSet<ClusterName>,
}

fn name(c: usize) -> ClusterName {
    ClusterName::new(CLUSTERS[c]).unwrap()
}

fn id(c: usize) -> ClusterId {
    ClusterId::new(u32::try_from(c).unwrap() + 1, ClusterLimit::Max255).unwrap()
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

fn core(snapshots: BTreeMap<ClusterName, RestoredCluster>, now: Instant) -> Core {
    let config = Config {
        local: name(0),
        node: "n1".into(),
        rules: Rules { local: id(0), node: Some("n1".into()), replace_kube_proxy: false },
        ranges: LocalRanges {
            pod_cidrs: vec![settings().0],
            node_cidrs: vec![settings().1],
            service_cidrs: Vec::new(),
        },
        local_routes: false,
        staleness_budget: BUDGET,
        snapshots,
        unbalanced: BTreeSet::new(),
        local_state: None,
    };
    Core::new(config, now)
}

fn address_record(c: usize, address: usize, reported: Reported) -> Record {
    Record::Address(Box::new(EndpointAddress {
        net: ip(address).into(),
        host: None,
        identity: Identity::new(number(c, reported)),
        encryption_key: 0,
        metadata: String::new(),
        namespace: String::new(),
        pod: String::new(),
        service_account: String::new(),
        named_ports: Vec::new(),
    }))
}

fn identity(c: usize, k: usize) -> Identity {
    Identity::new(number(c, Reported::Pod(k)))
}

fn identity_record(c: usize, k: usize) -> Record {
    let labels = Labels::parse(&format!("k8s:app=app-{k};k8s:{CLUSTER_LABEL}={};", CLUSTERS[c]));
    Record::Identity(identity(c, k), labels)
}

fn node_record(c: usize, node: usize, ip: IpAddr, range: IpNet) -> Record {
    Record::Node(Box::new(Node {
        name: NODES[node].into(),
        cluster: name(c),
        cluster_id: id(c),
        addresses: vec![NodeAddress { kind: AddressKind::Internal, ip }],
        pod_cidrs: vec![range],
        health_ips: FamilyPair::default(),
        ingress_ips: FamilyPair::default(),
        source: String::new(),
        encryption_key: 0,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        wireguard_public_key: String::new(),
        boot_id: String::new(),
    }))
}

fn kinds(c: usize) -> Vec<RecordKind> {
    let mut kinds = vec![RecordKind::Identity, RecordKind::Address, RecordKind::Node];
    kinds.extend(match c {
        0 => vec![RecordKind::LocalEndpointSlice, RecordKind::LocalService],
        _ => vec![RecordKind::EndpointSlice],
    });
    kinds
}

impl Stage {
    pub(crate) fn new() -> Self {
        let began = Instant::now();
        let mut stage = Self {
            core: core(BTreeMap::new(), began),
            began,
            model: Model::default(),
            addresses: BTreeMap::new(),
            ranges: BTreeMap::new(),
            labels: BTreeSet::new(),
            disk: BTreeMap::new(),
            moved: BTreeSet::new(),
        };
        stage.follow_local();
        stage
    }

    fn follow_local(&mut self) {
        self.handle(Input::Follow(name(0), PeerSettings::default()));
        self.model.clusters[0].followed = true;
        self.model.restore(0);
    }

    fn now(&self) -> Instant {
        self.began + self.model.now
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        self.core.handle(input, now);
        let wanted = self.core.take_wanted();
        for delta in wanted.addresses {
            match delta {
                AddressDelta::Added(address, holder) => {
                    assert_eq!(self.addresses.insert(address, holder), None, "{address}");
                }
                AddressDelta::Changed(address, holder) => {
                    let before = self.addresses.insert(address, holder);
                    assert!(before.is_some_and(|before| before != holder), "{address}");
                }
                AddressDelta::Removed(address) => {
                    assert!(self.addresses.remove(&address).is_some(), "{address}");
                }
            }
        }
        for delta in wanted.ranges {
            match delta {
                RangeDelta::Set { range, cluster } => {
                    assert!(self.ranges.insert(range, cluster.clone()) != Some(cluster));
                }
                RangeDelta::Removed { range } => assert!(self.ranges.remove(&range).is_some()),
            }
        }
        for (id, identity) in wanted.identities {
            let name = self.core.merge().name_of(id);
            match name.and_then(|name| self.core.merge().labels_of(name, identity)) {
                Some(_) => self.labels.insert((id, identity)),
                None => self.labels.remove(&(id, identity)),
            };
        }
        self.moved.extend(wanted.snapshots);
        if let Some(names) = wanted.snapshots_of {
            self.disk.retain(|name, _| names.contains(name));
            self.moved.retain(|name| names.contains(name));
        }
        // It is written at once, where all that belongs there is known.
        let Self { core, disk, moved, .. } = self;
        moved.retain(|name| {
            let Some((id, records, known)) = core.snapshot(name) else { return true };
            disk.insert(name.clone(), RestoredCluster { id, uuid: None, records, known });
            false
        });
    }

    fn events(&mut self, c: usize, events: Vec<PeerEvent>) {
        let Cluster { connected, synced, quarantined, .. } = self.model.clusters[c];
        let synced = connected && synced && !quarantined;
        let connection = Connection { connected, synced, beats: 0 };
        self.handle(Input::Events(name(c), events, connection));
    }

    fn records(&mut self, c: usize, records: Vec<RecordEvent>) {
        self.events(c, records.into_iter().map(PeerEvent::Record).collect());
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Follow(c, grant) => self.follow(c, grant),
            Step::Unfollow(c) => {
                if self.model.clusters[c].followed {
                    self.model.clusters[c] = Cluster::default();
                    self.model.forget_strangers();
                    self.handle(Input::Unfollow(name(c)));
                }
            }
            Step::FilesRead(complete) => {
                if complete {
                    self.model.started = true;
                    self.model.forget_strangers();
                }
                let (problems, drained) = (Vec::new(), BTreeSet::new());
                self.handle(Input::PeersRead { problems, complete, drained });
            }
            Step::Connect(c) => {
                let cluster = &mut self.model.clusters[c];
                if !cluster.followed {
                    return;
                }
                (cluster.connected, cluster.synced) = (true, false);
                let mut events = vec![PeerEvent::Connected];
                if !cluster.quarantined {
                    cluster.accepted = true;
                    events.push(PeerEvent::Config(config(c)));
                }
                self.events(c, events);
            }
            Step::Disconnect(c) => {
                let cluster = &mut self.model.clusters[c];
                if cluster.connected {
                    (cluster.connected, cluster.synced) = (false, false);
                    self.events(c, vec![PeerEvent::Disconnected]);
                }
            }
            Step::OverBudget(c) => {
                let cluster = &mut self.model.clusters[c];
                if cluster.followed && cluster.connected {
                    cluster.quarantined = true;
                    let refusal = Refusal::OverBudget("too much".into());
                    self.events(c, vec![PeerEvent::Refused(refusal)]);
                }
            }
            Step::Lift(c) => {
                if self.core.lift_quarantine(&name(c)) != Lifted::Relisted {
                    return;
                }
                self.model.clusters[c].quarantined = false;
                self.model.begin(c);
                self.handle(Input::Timeout);
                if self.model.clusters[c].connected {
                    self.step(Step::Connect(c));
                }
            }
            Step::Wait(seconds) => self.wait(seconds),
            Step::Restart(bare, all) => self.restart(bare, all),
            step => self.report(step),
        }
    }

    /// Steps that are a cluster's reports.
    fn report(&mut self, step: Step) {
        let c = match &step {
            Step::List(c, _)
            | Step::Relist(c)
            | Step::Claim(c, ..)
            | Step::Unclaim(c, _)
            | Step::Doubt(c, _)
            | Step::Identity(c, ..)
            | Step::Node(c, ..)
            | Step::Unnode(c, _) => *c,
            other => panic!("{other:?}"),
        };
        // Everything begins with a list.
        let listed = matches!(step, Step::List(..) | Step::Relist(_));
        let listed = listed || self.model.clusters[c].begun;
        if !self.model.accepts(c) || !listed {
            return;
        }
        match step {
            Step::List(_, list) => self.list(c, list),
            Step::Relist(_) => self.list(c, self.known(c)),
            Step::Claim(_, address, reported) => {
                let event = self.claim(c, address, reported);
                self.records(c, vec![event]);
            }
            Step::Unclaim(_, address) => {
                self.model.clusters[c].records.remove(&address);
                self.model.settle_claims(c, None);
                let key = RecordKey::Address(ip(address).into());
                self.records(c, vec![RecordEvent::Remove(key)]);
            }
            Step::Doubt(_, address) => {
                if let Some((_, seen)) = self.model.clusters[c].records.get_mut(&address) {
                    *seen = Seen::Doubted;
                    let key = RecordKey::Address(ip(address).into());
                    self.records(c, vec![RecordEvent::Doubt(key)]);
                }
            }
            Step::Identity(_, k, has) => {
                let event = match has {
                    true => self.identity(c, k),
                    false => {
                        self.model.clusters[c].identities.remove(&k);
                        RecordEvent::Remove(RecordKey::Identity(identity(c, k)))
                    }
                };
                self.records(c, vec![event]);
            }
            Step::Node(_, node, address, range) => {
                let event = self.node(c, node, address, range);
                self.records(c, vec![event]);
            }
            Step::Unnode(_, node) => {
                self.model.clusters[c].nodes.remove(&node);
                self.model.settle_claims(c, None);
                self.records(c, vec![RecordEvent::Remove(RecordKey::Node(NODES[node].into()))]);
            }
            _ => {}
        }
    }

    fn claim(&mut self, c: usize, address: usize, reported: Reported) -> RecordEvent {
        if self.model.may_have(c, address) {
            self.model.clusters[c].records.insert(address, (reported, Seen::Now));
            self.model.settle_claims(c, None);
        }
        RecordEvent::Upsert(address_record(c, address, reported))
    }

    fn identity(&mut self, c: usize, k: usize) -> RecordEvent {
        self.model.clusters[c].identities.insert(k, Seen::Now);
        RecordEvent::Upsert(identity_record(c, k))
    }

    fn node(&mut self, c: usize, node: usize, address: usize, range: usize) -> RecordEvent {
        let (ip, range) = (node_ip(c, address), node_range(c, range));
        if self.model.may_have_node(c, ip, &range) {
            let record = NodeRecord { ip, range, seen: Seen::Now };
            self.model.clusters[c].nodes.insert(node, record);
            self.model.settle_claims(c, None);
        } else if let Some(before) = self.model.clusters[c].nodes.get_mut(&node) {
            // What it may not have is refused, and the former content is still its.
            before.seen = Seen::Now;
        }
        RecordEvent::Upsert(node_record(c, node, ip, range))
    }

    fn list(&mut self, c: usize, list: List) {
        let List { addresses, nodes, identities, complete } = list;
        self.model.clusters[c].begun = true;
        self.model.begin(c);
        let mut events: Vec<RecordEvent> = kinds(c).into_iter().map(RecordEvent::Begin).collect();
        events.extend(identities.into_iter().map(|k| self.identity(c, k)));
        for (address, reported) in addresses {
            events.push(self.claim(c, address, reported));
        }
        for (node, address, range) in nodes {
            events.push(self.node(c, node, address, range));
        }
        if complete {
            events.extend(kinds(c).into_iter().map(RecordEvent::Confirmed));
            self.model.end(c);
        }
        self.records(c, events);
    }

    fn follow(&mut self, c: usize, grant: Option<usize>) {
        let claims = grant.map(|grant| Claims {
            id: None,
            pod_cidrs: grant_pods(c, grant),
            node_cidrs: grant_nodes(c),
            external_backends: false,
        });
        let starting = !self.model.started;
        let cluster = &mut self.model.clusters[c];
        if !cluster.followed {
            cluster.starting = starting;
        }
        (cluster.followed, cluster.grant) = (true, grant);
        (cluster.connected, cluster.synced) = (false, false);
        self.model.settle_grants();
        self.model.restore(c);
        let settings = PeerSettings { claims, uuid: None, budget: Some(Budget::default()) };
        self.handle(Input::Follow(name(c), settings));
    }

    /// What a cluster has, as far as it is known.
    fn known(&self, c: usize) -> List {
        let Cluster { records, nodes, identities, .. } = &self.model.clusters[c];
        let nodes = nodes.iter().map(|(node, record)| {
            let address = usize::from(record.ip != node_ip(c, 0));
            (*node, address, usize::from(record.range != node_range(c, 0)))
        });
        List {
            addresses: records
                .iter()
                .map(|(address, (reported, _))| (*address, *reported))
                .collect(),
            nodes: nodes.collect(),
            identities: identities.keys().copied().collect(),
            complete: true,
        }
    }

    fn restart(&mut self, bare: bool, all: bool) {
        let before: Vec<(usize, Option<usize>, List)> = (0..CLUSTERS.len())
            .filter(|c| self.model.clusters[*c].followed)
            .map(|c| (c, self.model.clusters[c].grant, self.known(c)))
            .collect();
        self.start(bare);
        for (c, grant, _) in before.iter().filter(|(c, ..)| all && *c > 0) {
            self.step(Step::Follow(*c, *grant));
        }
        if all {
            self.step(Step::FilesRead(true));
        }
        // The last one comes first.
        for (c, _, list) in before.into_iter().filter(|_| all).rev() {
            self.step(Step::Connect(c));
            self.step(Step::List(c, list));
        }
    }

    fn start(&mut self, bare: bool) {
        self.model.restart(bare);
        let mut snapshots = self.disk.clone();
        if !bare {
            snapshots.values_mut().for_each(|snapshot| snapshot.records.clear());
        }
        self.core = core(snapshots, self.now());
        (self.addresses, self.ranges, self.labels) = Default::default();
        self.moved.clear();
        self.follow_local();
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
            self.model.settle_time();
            woken += 1;
            assert!(woken < 100, "it wakes up for nothing");
        }
        self.model.now = until;
    }

    pub(crate) fn check(&mut self) -> Result<(), TestCaseError> {
        self.model.settle_time();
        self.wait(0);
        self.model.write();
        let merge = self.core.merge();
        let mut contested = 0;
        for (address, text) in ADDRESSES.into_iter().enumerate() {
            let at = ip(address);
            let holder = merge.holder(at).map(|holder| (holder.cluster, holder.identity.get()));
            let expected = self.model.holder(address);
            prop_assert_eq!(holder, expected.map(|(c, identity)| (id(c), identity)), "{}", text);
            let summed = self.addresses.get(&at).map(|h| (h.cluster, h.identity.get()));
            prop_assert_eq!(summed, holder, "the deltas of {}", text);
            let known =
                merge.identity_at(at).map(|(name, identity)| (name.clone(), identity.get()));
            let expected = self.model.known(address);
            prop_assert_eq!(&known, &expected.map(|(c, i)| (name(c), i)), "known of {}", text);
            let range = merge.range_of(at).cloned();
            prop_assert_eq!(&range, &self.model.range_of(address).map(name), "range of {}", text);
            let summed = self.ranges.iter().filter(|(range, _)| range.contains(&at));
            let summed = summed.max_by_key(|(range, _)| range.prefix_len());
            prop_assert_eq!(summed.map(|(_, c)| c), range.as_ref(), "ranges of {}", text);
            let claims = merge.claims(at);
            let claiming = self.model.clusters.iter().filter(|c| c.claims.contains_key(&address));
            prop_assert_eq!(claims.len(), claiming.count(), "claims of {}", text);
            contested += usize::from(claims.len() > 1);
            self.truth(address, expected)?;
        }
        prop_assert_eq!(merge.contested(), contested);
        let labels = merge
            .clusters()
            .flat_map(|(name, id)| merge.identities(name).map(move |(identity, _)| (id, identity)));
        prop_assert_eq!(&self.labels, &labels.collect());
        Ok(())
    }

    /// Whatever the rules are: nobody has an identity that its cluster did not give it.
    fn truth(&self, address: usize, found: Option<(usize, u32)>) -> Result<(), TestCaseError> {
        let Some((c, identity)) = found else { return Ok(()) };
        let cluster = &self.model.clusters[c];
        let record = cluster.records.get(&address).map(|(reported, _)| *reported);
        let given = match identity {
            UNKNOWN => true,
            NODE => {
                let node = cluster.nodes.values().any(|node| node.ip == ip(address));
                node || record == Some(Reported::Host)
            }
            other => record.is_some_and(|reported| number(c, reported) == other),
        };
        prop_assert!(given, "{}: {identity} of {}", ADDRESSES[address], CLUSTERS[c]);
        // Nobody is where it may not be.
        let ours = settings().0.contains(&ip(address)) || settings().1.contains(&ip(address));
        prop_assert!(c == 0 || !ours, "{}: of {}", ADDRESSES[address], CLUSTERS[c]);
        Ok(())
    }
}
