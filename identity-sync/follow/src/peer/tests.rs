mod churn;
mod export_mode;
mod identities;
mod leases;
mod limits;
mod restore;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_model::{
    ClusterId, ClusterLimit, ClusterName, LocalDrain, PolicyKind, PolicyRef, Record, RecordKey,
};
use mesh_wire::{
    Key, Layout, Prefix,
    key::{HEARTBEAT, HISTORY, POSITION},
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    fake::FakeEtcd,
    machine::{KeyRange, ListError},
    status::{ConnectionPhase, Failure},
};

const CONFIG_KEY: &str = "cilium/cluster-config/alpha";
const NODE: &str = "cilium/state/nodes/v1/alpha/n1";
const SERVICE: &str = "cilium/state/services/v1/alpha/shop/web";
const IDENTITY: &str = "cilium/state/identities/v1/id/458752";
const ADDRESS: &str = "cilium/state/ip/v1/default/10.7.0.1";

fn config(id: u32, more: &str) -> String {
    format!(
        r#"{{"id":{id},"capabilities":{{"syncedCanaries":true,"maxConnectedClusters":255{more}}}}}"#
    )
}

fn node(name: &str) -> String {
    format!(r#"{{"Name":"{name}","Cluster":"alpha","ClusterID":7}}"#)
}

fn service(port: u16) -> String {
    format!(
        r#"{{"cluster":"alpha","namespace":"shop","name":"web","backends":{{"10.7.0.1":{{"":{{"Protocol":"TCP","Port":{port}}}}}}},"shared":true,"clusterID":7}}"#
    )
}

fn canary(kind: RecordKind) -> String {
    Key::canary(&ClusterName::new("alpha").unwrap(), Layout::State, Prefix::of(kind)).to_string()
}

const COUNTED: [RecordKind; 4] =
    [RecordKind::Identity, RecordKind::Address, RecordKind::Node, RecordKind::Service];

fn put_canaries(etcd: &mut FakeEtcd) {
    COUNTED.iter().for_each(|kind| etcd.put(&canary(*kind), "2026-11-21T01:16:04Z"));
}

fn follower(now: Instant) -> PeerFollower {
    follower_as(Role::Remote, now)
}

fn follower_as(role: Role, now: Instant) -> PeerFollower {
    let limit = ClusterLimit::Max255;
    let id = if role == Role::Local { 7 } else { 1 };
    let config = PeerConfig {
        name: ClusterName::new("alpha").unwrap(),
        role,
        local_id: ClusterId::new(id, limit).unwrap(),
        node: Some("n1".into()),
        endpoints: 2,
        limit,
        uuid: None,
        id: None,
    };
    PeerFollower::new(config, 1, now)
}

/// A cluster with one of each kind.
fn alpha() -> FakeEtcd {
    let mut etcd = FakeEtcd::new(1);
    etcd.put(CONFIG_KEY, &config(7, ""));
    etcd.put(IDENTITY, "k8s:io.cilium.k8s.policy.cluster=alpha;");
    etcd.put(ADDRESS, r#"{"IP":"10.7.0.1","HostIP":"172.31.7.1","ID":458752}"#);
    etcd.put(NODE, &node("n1"));
    etcd.put(SERVICE, &service(80));
    etcd
}

/// What a reader makes of the events: each record with the round it was last reported in, and what was confirmed.
#[derive(Default)]
struct Local {
    records: BTreeMap<RecordKey, (Option<Record>, u32)>,
    /// Those that may be gone.
    doubted: BTreeSet<RecordKey>,
    rounds: BTreeMap<RecordKind, u32>,
    confirmed: Vec<RecordKind>,
    without: Vec<RecordKind>,
    refused: Vec<Refusal>,
    rejected: Vec<String>,
    configs: Vec<u16>,
    /// Events taken so far.
    taken: usize,
}

impl Local {
    fn take(&mut self, follower: &mut PeerFollower) {
        loop {
            follower.take_events().into_iter().for_each(|event| self.event(event));
            if !follower.has_more() {
                return;
            }
        }
    }

    fn event(&mut self, event: PeerEvent) {
        self.taken += 1;
        match event {
            PeerEvent::Record(RecordEvent::Begin(kind)) => {
                *self.rounds.entry(kind).or_default() += 1
            }
            PeerEvent::Record(RecordEvent::Upsert(record)) => {
                let round = self.rounds[&record.key().kind()];
                self.doubted.remove(&record.key());
                self.records.insert(record.key(), (Some(record), round));
            }
            PeerEvent::Record(RecordEvent::Keep(key)) => {
                let round = self.rounds[&key.kind()];
                if let Some((_, last)) = self.records.get_mut(&key) {
                    *last = round;
                }
            }
            PeerEvent::Record(RecordEvent::Doubt(key)) => {
                assert!(self.records.contains_key(&key));
                self.doubted.insert(key);
            }
            PeerEvent::Record(RecordEvent::Remove(key)) => {
                self.doubted.remove(&key);
                self.records.remove(&key);
            }
            PeerEvent::Record(RecordEvent::Confirmed(kind)) => {
                let round = self.rounds[&kind];
                self.records.retain(|key, (_, last)| key.kind() != kind || *last == round);
                self.doubted.retain(|key| key.kind() != kind);
                self.confirmed.push(kind);
            }
            PeerEvent::Record(RecordEvent::Without(kind)) => {
                self.records.retain(|key, _| key.kind() != kind);
                self.without.push(kind);
            }
            PeerEvent::Refused(refusal) => self.refused.push(refusal),
            PeerEvent::Rejected(reason) => self.rejected.push(reason),
            PeerEvent::Config(config) => self.configs.push(config.id.get()),
            PeerEvent::Connected | PeerEvent::Disconnected => {}
        }
    }
}

fn settle(etcd: &mut FakeEtcd, follower: &mut PeerFollower, local: &mut Local, now: &mut Instant) {
    loop {
        etcd.settle(follower, now);
        let before = local.taken;
        local.take(follower);
        // What was taken may have made room for more.
        if local.taken < before + 1_000 {
            return;
        }
    }
}

fn settled(etcd: &mut FakeEtcd) -> (PeerFollower, Local, Instant) {
    settled_as(Role::Remote, etcd)
}

fn settled_as(role: Role, etcd: &mut FakeEtcd) -> (PeerFollower, Local, Instant) {
    let mut now = Instant::now();
    let (mut follower, mut local) = (follower_as(role, now), Local::default());
    settle(etcd, &mut follower, &mut local, &mut now);
    (follower, local, now)
}

#[test]
fn a_complete_cluster_is_synced_with_one_list_a_range() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (follower, local, _) = settled(&mut etcd);
    assert_eq!(local.records.len(), 4);
    assert_eq!(local.confirmed.len(), 4);
    assert!(follower.status().is_synced());
    assert_eq!(follower.status().reached(), Some(ConnectionPhase::Synced));
    // Config, canaries, the name of the history, heartbeat, identities to nodes, services.
    assert_eq!(etcd.lists, 6);
}

#[test]
fn small_records_come_in_pages_of_4096() {
    let mut etcd = alpha();
    for n in 0..4_096 {
        let name = format!("more-{n}");
        etcd.put(&format!("cilium/state/nodes/v1/alpha/{name}"), &node(&name));
    }
    put_canaries(&mut etcd);
    let (_, local, _) = settled(&mut etcd);
    assert_eq!((local.records.len(), etcd.lists), (4_100, 7), "one page more");
}

#[test]
fn any_answer_is_a_sign_of_life() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    let lists = etcd.lists;
    follower.command(now, PeerCommand::Ask);
    follower.command(now, PeerCommand::Ask);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!((follower.status().answers, etcd.lists), (1, lists + 1), "one question at a time");
    assert!(follower.status().is_synced());

    // A peer that is cut off does not answer, and a new connection is not asked what the old one was.
    follower.command(now, PeerCommand::Ask);
    etcd.take_actions(&mut follower, now);
    etcd.cut(&mut follower, now);
    follower.command(now, PeerCommand::Ask);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(follower.status().answers, 1);
    follower.command(now, PeerCommand::Ask);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(follower.status().answers, 2);

    let failed = |error| Input::ListFailed { request: crate::machine::RequestId(0), error };
    follower.handle(now, failed(ListError::Broken("no answer".into())));
    assert_eq!(follower.status().answers, 2);
    follower.handle(now, failed(ListError::Denied("not yours".into())));
    assert_eq!(follower.status().answers, 3, "who turns us away lives");
}

#[test]
fn data_is_taken_before_the_canary_and_counts_as_complete_after_it() {
    let mut etcd = alpha();
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    assert_eq!((local.records.len(), local.confirmed.len()), (4, 0));
    assert!(!follower.status().is_synced());
    assert_eq!(follower.status().reached(), Some(ConnectionPhase::Config));

    put_canaries(&mut etcd);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!((local.records.len(), local.confirmed.len()), (4, 4));
    assert!(follower.status().is_synced());
}

#[test]
fn a_writer_that_starts_over_takes_nothing_away_before_it_is_complete() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);

    etcd.cut(&mut follower, now);
    etcd.restart(2);
    etcd.put(CONFIG_KEY, &config(7, ""));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 4, "an empty etcd without canaries says nothing");

    etcd.put(NODE, &node("n1"));
    etcd.put("cilium/state/nodes/v1/alpha/n2", &node("n2"));
    put_canaries(&mut etcd);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 5, "one that does not say how far it is may be behind");
    etcd.pass(&mut follower, &mut now, Duration::from_secs(120));
    local.take(&mut follower);
    let names: Vec<_> = local.records.keys().cloned().collect();
    assert_eq!(names, [RecordKey::Node("n1".into()), RecordKey::Node("n2".into())]);
}

const POLICY: &str = "clustermesh/local/v1/policies/netpol/shop/deny";
const LOCAL_CANARY: &str = "cilium/synced/alpha/clustermesh/local/v1";

/// A pod of each of two nodes, their namespace, and a policy.
fn put_local(etcd: &mut FakeEtcd) {
    etcd.put(
        "clustermesh/local/v1/namespaces/shop",
        r#"{"v":1,"name":"shop","labels":{},"global":true}"#,
    );
    for node in ["n1", "n2"] {
        let pod = format!(
            r#"{{"v":1,"namespace":"shop","name":"p","node":"{node}","uid":"","ips":[],"socketLB":true}}"#
        );
        etcd.put(&format!("clustermesh/local/v1/pods/{node}/shop/p"), &pod);
    }
    let object = r#"{"kind":"NetworkPolicy","metadata":{"name":"deny","namespace":"shop"}}"#;
    etcd.put(POLICY, &format!(r#"{{"v":1,"object":{object}}}"#));
}

fn pod_of(node: &str) -> RecordKey {
    RecordKey::Pod { node: node.into(), namespace: "shop".into(), name: "p".into() }
}

#[test]
fn the_local_cluster_reports_this_nodes_pods_where_it_has_the_canary() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    put_local(&mut etcd);
    let (mut follower, mut local, mut now) = settled_as(Role::Local, &mut etcd);
    assert!(follower.status().is_synced(), "a Cilium's apiserver has no such canary");
    // As of a peer, and how far its writer is and what is drained.
    assert_eq!((local.records.len(), local.confirmed.len(), etcd.lists), (4, 4, 8));

    etcd.put(LOCAL_CANARY, "2026-11-21T01:16:04Z");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(follower.status().is_synced());
    let confirmed = [RecordKind::Namespace, RecordKind::Pod, RecordKind::Policy];
    assert!(local.confirmed.ends_with(&confirmed));
    assert!(local.records.contains_key(&pod_of("n1")));
    assert!(local.records.contains_key(&RecordKey::Namespace("shop".into())));
    let policy = PolicyRef {
        kind: PolicyKind::NetworkPolicy,
        namespace: "shop".into(),
        name: "deny".into(),
    };
    let policy = RecordKey::Policy(policy);
    assert!(local.records.contains_key(&policy));
    assert_eq!(local.records.len(), 7, "another node's pods cost nothing");

    etcd.delete("clustermesh/local/v1/pods/n1/shop/p");
    etcd.delete(POLICY);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(1));
    local.take(&mut follower);
    assert!(!local.records.contains_key(&pod_of("n1")) && !local.records.contains_key(&policy));
    assert!(local.rejected.is_empty());
}

#[test]
fn the_local_writers_beats_are_counted_and_no_peers() {
    for (role, beats) in [(Role::Local, 3), (Role::Remote, 0)] {
        let mut etcd = alpha();
        put_canaries(&mut etcd);
        let (mut follower, mut local, mut now) = settled_as(role, &mut etcd);
        assert_eq!(follower.status().local_beats, 0);
        for beat in ["1", "2", "3"] {
            etcd.put(mesh_wire::key::LOCAL_POSITION, beat);
            settle(&mut etcd, &mut follower, &mut local, &mut now);
        }
        etcd.delete(mesh_wire::key::LOCAL_POSITION);
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!(follower.status().local_beats, beats, "{role:?}");
        assert!(follower.status().is_synced() && local.rejected.is_empty());
    }
}

#[test]
fn a_cluster_says_what_of_it_is_drained_to_its_nodes_and_to_its_peers() {
    use mesh_wire::key::{DRAIN, LOCAL_DRAIN};
    let n1 = LocalDrain { cluster: false, nodes: ["n1".to_owned()].into() };
    for (role, key, others) in
        [(Role::Local, LOCAL_DRAIN, DRAIN), (Role::Remote, DRAIN, LOCAL_DRAIN)]
    {
        let mut etcd = alpha();
        put_canaries(&mut etcd);
        let (mut follower, mut local, mut now) = settled_as(role, &mut etcd);
        let mut reported = |etcd: &mut FakeEtcd, now: &mut Instant| {
            settle(etcd, &mut follower, &mut local, now);
            (LocalDrain::clone(&follower.status().drained), local.rejected.len())
        };
        assert_eq!(reported(&mut etcd, &mut now), (LocalDrain::default(), 0));
        let value = String::from_utf8(mesh_wire::local_drain::encode(&n1)).unwrap();
        etcd.put(others, &value);
        assert_eq!(reported(&mut etcd, &mut now), (LocalDrain::default(), 0), "not its key");
        etcd.put(key, &value);
        assert_eq!(reported(&mut etcd, &mut now), (n1.clone(), 0));
        // What cannot be understood leaves what was there.
        etcd.put(key, "n2");
        assert_eq!(reported(&mut etcd, &mut now), (n1.clone(), 1));
        etcd.delete(key);
        assert_eq!(reported(&mut etcd, &mut now).0, LocalDrain::default());
        assert_eq!(follower.status().reconnects, 0);
    }
}

#[test]
fn a_local_cluster_that_is_filled_anew_takes_no_pod_away_before_it_is_complete() {
    let mut etcd = alpha();
    put_local(&mut etcd);
    put_canaries(&mut etcd);
    etcd.put(LOCAL_CANARY, "2026-11-21T01:16:04Z");
    let (mut follower, mut local, mut now) = settled_as(Role::Local, &mut etcd);
    assert_eq!(local.records.len(), 7);

    etcd.cut(&mut follower, now);
    etcd.restart(2);
    etcd.put(CONFIG_KEY, &config(7, ""));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 7);
    put_canaries(&mut etcd);
    etcd.put(LOCAL_CANARY, "2026-11-21T01:16:05Z");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(120));
    local.take(&mut follower);
    assert!(local.records.is_empty(), "{:?}", local.records.keys());
}

#[test]
fn of_another_cluster_nothing_local_is_asked_for() {
    let mut etcd = alpha();
    put_local(&mut etcd);
    put_canaries(&mut etcd);
    etcd.put(LOCAL_CANARY, "2026-11-21T01:16:04Z");
    let (follower, local, _) = settled(&mut etcd);
    assert!(follower.status().is_synced());
    assert_eq!((local.records.len(), local.rejected.len(), etcd.lists), (4, 0, 6));
}

#[test]
fn without_canaries_a_list_is_complete() {
    let mut etcd = alpha();
    etcd.put(CONFIG_KEY, r#"{"id":7}"#);
    let (follower, local, _) = settled(&mut etcd);
    assert_eq!((local.records.len(), local.confirmed.len()), (4, 4));
    assert!(follower.status().is_synced());
}

#[test]
fn a_rejected_record_keeps_its_last_content() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    let before = local.records[&RecordKey::Node("n1".into())].0.clone();

    etcd.put(NODE, &node("other"));
    etcd.put("cilium/state/nodes/v1/beta/n1", "{}");
    etcd.put("cilium/state/ip/v1/default/<nil>", r#"{"IP":""}"#);
    // Listed again too, it stays.
    etcd.cut(&mut follower, now);
    etcd.compact();
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records[&RecordKey::Node("n1".into())].0, before);
    assert_eq!(local.records.len(), 4);
    assert_eq!(follower.status().rejected, 3);
    assert!(
        local.rejected.iter().any(|reason| reason.contains("Name is other, expected n1")),
        "{:?}",
        local.rejected
    );

    etcd.delete(NODE);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 3);
}

#[test]
fn what_cannot_be_a_peer_is_refused_until_it_can() {
    let limit = ClusterLimit::Max255;
    let id = |id| ClusterId::new(id, limit).unwrap();
    let uuid = Uuid::from_u128(7);
    for (announced, refusal) in [
        (String::from("{}"), Refusal::NoId),
        (config(1, ""), Refusal::LocalId(id(1))),
        (config(9, ""), Refusal::Id { found: id(9), expected: id(7) }),
        (
            r#"{"id":300,"capabilities":{"maxConnectedClusters":511}}"#.into(),
            Refusal::IdAboveLimit { id: ClusterId::from_wire(300).unwrap(), limit },
        ),
        (
            r#"{"id":7,"capabilities":{"maxConnectedClusters":511}}"#.into(),
            Refusal::Limit { found: 511, expected: limit },
        ),
        (config(7, r#","endpointSlicesExportMode":"later""#), Refusal::ExportMode("later".into())),
        (
            format!(r#"{{"id":7,"clustermesh":{{"uuid":"{uuid}","version":1}}}}"#),
            Refusal::Uuid { found: uuid, expected: Uuid::from_u128(8) },
        ),
    ] {
        let mut etcd = alpha();
        put_canaries(&mut etcd);
        etcd.put(CONFIG_KEY, &announced);
        let mut now = Instant::now();
        let (mut follower, mut local) = (follower(now), Local::default());
        follower.config.uuid = Some(Uuid::from_u128(8));
        follower.config.id = Some(id(7));
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!(
            (local.refused.as_slice(), local.records.len()),
            ([refusal.clone()].as_slice(), 0)
        );
        assert_eq!(
            follower.status().failure,
            Some(Failure::new(ConnectionPhase::Config, refusal.to_string()))
        );
        assert_eq!(follower.status().reached(), Some(ConnectionPhase::Authenticated));

        etcd.put(CONFIG_KEY, &config(7, ""));
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!((local.records.len(), follower.status().is_synced()), (4, true));

        etcd.put(CONFIG_KEY, &announced);
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!(local.records.len(), 4, "what it reported stays");
        assert!(!follower.status().is_synced());
    }
}

#[test]
fn a_config_that_is_not_there_yet_is_waited_for() {
    let mut etcd = FakeEtcd::new(1);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    assert_eq!(local.refused, [Refusal::Absent(ClusterName::new("alpha").unwrap())]);
    etcd.put(CONFIG_KEY, "[");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(matches!(local.refused[1], Refusal::Unreadable(_)));
    etcd.put(CONFIG_KEY, &config(7, ""));
    put_canaries(&mut etcd);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(follower.status().is_synced());
    etcd.delete(CONFIG_KEY);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(follower.status().is_synced(), "a lease that ran out is not another cluster");
}

#[test]
fn another_id_is_another_listing() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    etcd.put(CONFIG_KEY, &config(8, ""));
    etcd.put(NODE, &node("n1").replace(":7", ":8"));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.configs, [7, 8]);
    assert_eq!(local.rounds[&RecordKind::Node], 2);
    // What still has the old ID is rejected.
    assert!(follower.status().rejected >= 2);
}

#[test]
fn held_by_its_owner() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    let id = ClusterId::new(7, ClusterLimit::Max255).unwrap();
    let refusal = Refusal::IdInUse { id, other: ClusterName::new("beta").unwrap() };
    follower.command(now, PeerCommand::Hold(refusal.clone()));
    etcd.put(SERVICE, &service(81));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.refused, [refusal]);
    follower.command(now, PeerCommand::Release);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(follower.status().is_synced());
    let Some(Record::Service(service)) =
        &local.records[&RecordKey::Service(mesh_model::ServiceName::new("shop", "web"))].0
    else {
        panic!("no service");
    };
    assert_eq!(service.backends.values().next().unwrap()[""].number, 81);
}

#[test]
fn a_peer_that_takes_another_id_is_held_no_longer() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    let id = ClusterId::new(8, ClusterLimit::Max255).unwrap();
    let refusal = Refusal::IdInUse { id, other: ClusterName::new("beta").unwrap() };
    etcd.put(CONFIG_KEY, &config(8, ""));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    follower.command(now, PeerCommand::Hold(refusal));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(!follower.status().is_synced());
    etcd.put(CONFIG_KEY, &config(7, ""));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(follower.status().is_synced());
}

#[test]
fn the_cache_layout_is_read_where_the_config_says_so() {
    let mut etcd = FakeEtcd::new(1);
    etcd.put(CONFIG_KEY, &config(7, r#","cached":true"#));
    etcd.put("cilium/cache/nodes/v1/alpha/n1", &node("n1"));
    etcd.put("cilium/cache/ip/v1/alpha/10.7.0.1", r#"{"IP":"10.7.0.1","ID":458752}"#);
    etcd.put(
        "cilium/cache/identities/v1/alpha/id/458752",
        "k8s:io.cilium.k8s.policy.cluster=alpha;",
    );
    etcd.put("cilium/cache/services/v1/alpha/shop/web", &service(80));
    // Another cluster's copy in the same etcd, and this etcd's own cluster.
    etcd.put("cilium/cache/nodes/v1/beta/n9", &node("n9"));
    etcd.put("cilium/state/nodes/v1/alpha/n8", &node("n8"));
    for kind in COUNTED {
        let key = Key::canary(&ClusterName::new("alpha").unwrap(), Layout::Cache, Prefix::of(kind))
            .to_string();
        etcd.put(&key, "");
    }
    let (follower, local, _) = settled(&mut etcd);
    assert_eq!((local.records.len(), local.rejected.len()), (4, 0));
    assert!(follower.status().is_synced());
}

fn position(version: u32) -> String {
    format!(r#"{{"v":1,"source":{{"Service":"{version}"}},"unixNano":1}}"#)
}

#[test]
fn a_lease_that_ran_out_removes_nothing() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    let expired: Vec<String> = COUNTED.iter().map(|kind| canary(*kind)).collect();
    let keys = [IDENTITY, ADDRESS, NODE, SERVICE, CONFIG_KEY];
    let all = keys.into_iter().chain(expired.iter().map(String::as_str));
    etcd.change(&all.map(|key| (key, None)).collect::<Vec<_>>());
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(3_600));
    local.take(&mut follower);
    assert_eq!(local.records.len(), 4, "the writer removed nothing");
    assert_eq!(follower.status().held, 4);
    assert!(!follower.status().is_synced());

    // A connection that breaks meanwhile changes nothing of it.
    etcd.cut(&mut follower, now);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 4);

    // The writer is back, without the node.
    etcd.put(CONFIG_KEY, &config(7, ""));
    etcd.put(IDENTITY, "k8s:io.cilium.k8s.policy.cluster=alpha;");
    etcd.put(ADDRESS, r#"{"IP":"10.7.0.1","HostIP":"172.31.7.1","ID":458752}"#);
    etcd.put(SERVICE, &service(80));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 4, "it has not reported that this is all");
    put_canaries(&mut etcd);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(120));
    local.take(&mut follower);
    assert_eq!(local.records.len(), 3);
    assert!(!local.records.contains_key(&RecordKey::Node("n1".into())));
    assert!(follower.status().is_synced());
}

#[test]
fn a_living_writer_removes_one_by_one_or_with_its_heartbeat() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    etcd.delete(NODE);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 3);
    etcd.change(&[(IDENTITY, None), (ADDRESS, None), (HEARTBEAT, Some("2026-11-21T01:16:04Z"))]);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 1);
    assert_eq!(follower.status().held, 0);
    assert!(follower.status().is_synced());
}

#[test]
fn a_replica_that_is_behind_takes_no_reader_back_in_time() {
    let mut etcd = alpha();
    etcd.put(POSITION, &position(7));
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    etcd.put(SERVICE, &service(81));
    etcd.put(POSITION, &position(8));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    let port = |local: &Local| {
        let key = RecordKey::Service(mesh_model::ServiceName::new("shop", "web"));
        let Some(Record::Service(service)) = &local.records[&key].0 else { panic!("a service") };
        service.backends.values().next().unwrap()[""].number
    };
    assert_eq!(port(&local), 81);

    // The other replica has neither the new port nor the node.
    etcd.cut(&mut follower, now);
    etcd.restart(2);
    etcd.put(CONFIG_KEY, &config(7, ""));
    etcd.put(SERVICE, &service(80));
    put_canaries(&mut etcd);
    etcd.put(POSITION, &position(7));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!((port(&local), local.records.len()), (81, 4));
    assert!(!follower.status().is_synced());

    etcd.put(SERVICE, &service(82));
    etcd.put(POSITION, &position(8));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!((port(&local), local.records.len()), (82, 1), "it is as far now, and this is all");
    assert!(follower.status().is_synced());
}

#[test]
fn a_replica_whose_writer_stopped_is_left_for_another() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    etcd.put(POSITION, &position(7));
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    etcd.put(POSITION, &position(8));
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    // It is alive as long as it puts its position.
    for version in 9..20 {
        etcd.put(POSITION, &position(version));
        etcd.pass(&mut follower, &mut now, Duration::from_secs(3));
    }
    assert_eq!(follower.status().reconnects, 0);
    // Changes alone do not show that: others may write them.
    etcd.put(SERVICE, &service(81));
    etcd.pass(&mut follower, &mut now, Duration::from_secs(20));
    assert_eq!(follower.status().reconnects, 1);
    local.take(&mut follower);
    assert_eq!(local.records.len(), 4, "what it reported stays");
    // It was the only one after all, and the reader does not leave it at the same pace forever.
    etcd.pass(&mut follower, &mut now, Duration::from_secs(12));
    assert_eq!(follower.status().reconnects, 1);
    assert!(follower.status().is_synced());
}

#[test]
fn two_histories_that_are_alike_have_other_names() {
    let fill = |etcd: &mut FakeEtcd, name: &str, node: &str| {
        etcd.put(HISTORY, name);
        etcd.put(CONFIG_KEY, &config(7, ""));
        put_canaries(etcd);
        etcd.put(&format!("cilium/state/nodes/v1/alpha/{node}"), &self::node(node));
    };
    let mut etcd = FakeEtcd::new(1);
    fill(&mut etcd, "one", "n1");
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    assert_eq!(local.records.len(), 1);

    // The same cluster id, the same revisions, and beyond the old ones by now.
    etcd.cut(&mut follower, now);
    etcd.restart(1);
    fill(&mut etcd, "two", "n2");
    (0..50).for_each(|_| etcd.put("age", ""));
    put_canaries(&mut etcd);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(120));
    local.take(&mut follower);
    let names: Vec<_> = local.records.keys().cloned().collect();
    assert_eq!(names, [RecordKey::Node("n2".into())]);
}

/// The reader's replica goes, and there is another one that is behind it.
fn reads_another_that_is_behind(etcd: &mut FakeEtcd, follower: &mut PeerFollower, now: Instant) {
    etcd.cut(follower, now);
    etcd.restart(2);
    etcd.put(CONFIG_KEY, &config(7, ""));
    put_canaries(etcd);
    etcd.put(POSITION, &position(6));
}

#[test]
fn a_replica_that_stays_behind_is_what_there_is() {
    let mut etcd = alpha();
    etcd.put(POSITION, &position(7));
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    reads_another_that_is_behind(&mut etcd, &mut follower, now);
    let begun = now;
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 4);
    // Its writer lives.
    etcd.put(HEARTBEAT, "2026-11-21T01:16:04Z");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(30));
    assert!(now - begun < Duration::from_secs(60));
    local.take(&mut follower);
    assert_eq!(local.records.len(), 0);
    assert!(follower.status().is_synced());
}

#[test]
fn a_dead_writers_heartbeat_is_no_sign_of_life() {
    let mut etcd = alpha();
    etcd.put(POSITION, &position(7));
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    // The other replica's writer died minutes ago; its lease holds for a quarter of an hour.
    reads_another_that_is_behind(&mut etcd, &mut follower, now);
    etcd.put(HEARTBEAT, "2026-11-21T01:16:04Z");
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(60));
    local.take(&mut follower);
    assert_eq!(local.records.len(), 4, "only what is put while it is followed counts");
    etcd.pass(&mut follower, &mut now, Duration::from_secs(60));
    local.take(&mut follower);
    assert_eq!(local.records.len(), 0);
}

#[test]
fn a_lease_that_runs_out_in_pieces_removes_nothing() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    // One key a message, and a second between two: longer than a deletion waits for the rest of its revision.
    etcd.fragments = true;
    let expired: Vec<String> = COUNTED.iter().map(|kind| canary(*kind)).collect();
    let all = [IDENTITY, ADDRESS, NODE, SERVICE].into_iter();
    let all = all.chain(expired.iter().map(String::as_str));
    etcd.change(&all.map(|key| (key, None)).collect::<Vec<_>>());
    for _ in 0..20 {
        etcd.answer(&mut follower, now, 0);
        now += Duration::from_secs(1);
        local.take(&mut follower);
        assert_eq!(local.records.len(), 4, "the writer removed nothing");
    }
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 4);
    assert!(!follower.status().is_synced());
}

#[test]
fn many_more_than_are_remembered_are_removed_by_a_list() {
    let mut etcd = alpha();
    let name = |n: usize| format!("n{n}");
    let keys: Vec<String> =
        (0..6_000).map(|n| format!("cilium/state/nodes/v1/alpha/{}", name(n + 2))).collect();
    let nodes: Vec<String> = (0..6_000).map(|n| node(&name(n + 2))).collect();
    let puts = keys.iter().zip(&nodes).map(|(key, node)| (key.as_str(), Some(node.as_str())));
    etcd.change(&puts.collect::<Vec<_>>());
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    assert_eq!(local.records.len(), 6_004);
    // A writer that shows that it means it; then a lease with as many.
    let gone = keys.iter().take(5_000).map(|key| (key.as_str(), None));
    etcd.change(&gone.chain([(HEARTBEAT, Some("now"))]).collect::<Vec<_>>());
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!((local.records.len(), follower.status().held), (1_004, 0));
    assert!(follower.status().is_synced());
}

#[test]
fn a_heartbeat_may_come_late_or_never() {
    // A writer without canaries vouches by its heartbeats alone: Cilium's first one comes after 60 s.
    let mut etcd = alpha();
    etcd.put(CONFIG_KEY, r#"{"id":7}"#);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    assert!(follower.status().is_synced(), "no follower waits for a heartbeat to begin with");
    assert_eq!(follower.status().heartbeats, 0);
    etcd.change(&[(NODE, None), (ADDRESS, None)]);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    for _ in 0..24 {
        etcd.pass(&mut follower, &mut now, Duration::from_secs(3_600));
        local.take(&mut follower);
    }
    assert_eq!((local.records.len(), follower.status().held), (4, 2), "never: it all stays");
    for beat in 1..=6 {
        assert_eq!((local.records.len(), follower.status().held), (4, 2), "{beat}");
        etcd.put(HEARTBEAT, "2026-11-21T01:16:04Z");
        settle(&mut etcd, &mut follower, &mut local, &mut now);
    }
    assert_eq!((local.records.len(), follower.status().held), (2, 0));
    assert!(follower.status().is_synced());
}

/// What may happen to a cluster and to its follower.
#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    DeleteMany(u8),
    Expire,
    Return,
    Cut,
    Compact,
    Restart(bool),
    Answer(usize),
    Beat,
    Pass(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6u8, 1..999u16).prop_map(|(n, port)| Step::Put(n, port)),
        3 => (0..6u8).prop_map(Step::Delete),
        1 => (0..6u8).prop_map(Step::DeleteMany),
        1 => Just(Step::Expire),
        1 => Just(Step::Return),
        1 => Just(Step::Cut),
        1 => Just(Step::Compact),
        1 => any::<bool>().prop_map(Step::Restart),
        8 => any::<usize>().prop_map(Step::Answer),
        1 => Just(Step::Beat),
        2 => (0..40u8).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..80)
}

/// A cluster's writer, as far as it matters to readers: what it wants there to be, and whether its lease holds.
struct Writer {
    desired: BTreeMap<u8, u16>,
    /// Whatever was ever removed by the writer's own will. A reader that lags may see that late.
    removed: BTreeSet<u8>,
    version: u32,
    leased: bool,
}

impl Writer {
    fn key(n: u8) -> String {
        format!("cilium/state/services/v1/alpha/shop/s{n}")
    }

    fn value(n: u8, port: u16) -> String {
        service(port).replace(r#""name":"web""#, &format!(r#""name":"s{n}""#))
    }

    fn fill(&mut self, etcd: &mut FakeEtcd) {
        self.leased = true;
        etcd.put(CONFIG_KEY, &config(7, ""));
        let stale = etcd.all(&KeyRange::prefix("cilium/state/services/"), etcd.revision);
        for kv in stale {
            let key = String::from_utf8(kv.key).unwrap();
            if !self.desired.keys().any(|n| Self::key(*n) == key) {
                etcd.delete(&key);
            }
        }
        for (n, port) in &self.desired {
            etcd.put(&Self::key(*n), &Self::value(*n, *port));
        }
        put_canaries(etcd);
        self.put_position(etcd);
    }

    fn put_position(&mut self, etcd: &mut FakeEtcd) {
        self.version += 1;
        etcd.put(POSITION, &position(self.version));
    }

    fn change(&mut self, etcd: &mut FakeEtcd, n: u8, port: Option<u16>) {
        match port {
            Some(port) => {
                // Half of the keys do not come back, so that a loss of theirs is never excused by a former one.
                if n < 3 && self.removed.contains(&n) {
                    return;
                }
                self.desired.insert(n, port);
            }
            None => {
                if self.desired.remove(&n).is_some() {
                    self.removed.insert(n);
                }
            }
        }
        if self.leased {
            let value = port.map(|port| Self::value(n, port));
            etcd.change(&[(&Self::key(n), value.as_deref())]);
            self.put_position(etcd);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever happens, on the way nothing is missing that no living writer removed, and in the end the copy equals
    /// the cluster's records.
    #[test]
    fn never_loses_and_ends_equal(steps in steps()) {
        let mut etcd = FakeEtcd::new(1);
        let mut writer = Writer {
            desired: BTreeMap::from([(0, 80), (1, 80)]),
            removed: BTreeSet::new(),
            version: 0,
            leased: true,
        };
        writer.fill(&mut etcd);
        let (mut follower, mut local, mut now) = settled(&mut etcd);
        let number = |key: &RecordKey| match key {
            RecordKey::Service(name) => name.name[1..].parse::<u8>().unwrap(),
            other => panic!("{other:?}"),
        };
        let mut known: BTreeSet<u8> = local.records.keys().map(number).collect();
        let (mut id, mut restarts) = (1, 0);
        for step in steps {
            match step {
                Step::Put(n, port) => writer.change(&mut etcd, n, Some(port)),
                Step::Delete(n) => writer.change(&mut etcd, n, None),
                Step::DeleteMany(n) => {
                    let gone: Vec<u8> = writer.desired.keys().copied().filter(|m| *m <= n).collect();
                    let keys: Vec<String> = gone.iter().map(|n| Writer::key(*n)).collect();
                    let mut changes: Vec<(&str, Option<&str>)> =
                        keys.iter().map(|key| (key.as_str(), None)).collect();
                    changes.push((HEARTBEAT, Some("now")));
                    if writer.leased {
                        etcd.change(&changes);
                        gone.into_iter().for_each(|n| {
                            writer.desired.remove(&n);
                            writer.removed.insert(n);
                        });
                        put_canaries(&mut etcd);
                        writer.put_position(&mut etcd);
                    }
                }
                Step::Expire if writer.leased && !writer.desired.is_empty() => {
                    writer.leased = false;
                    let keys: Vec<String> = writer.desired.keys().map(|n| Writer::key(*n))
                        .chain(COUNTED.iter().map(|kind| canary(*kind)))
                        .chain([CONFIG_KEY.to_owned()])
                        .collect();
                    etcd.change(&keys.iter().map(|key| (key.as_str(), None)).collect::<Vec<_>>());
                }
                Step::Return if !writer.leased => writer.fill(&mut etcd),
                Step::Expire | Step::Return => {}
                Step::Cut => {
                    etcd.cut(&mut follower, now);
                }
                Step::Compact => etcd.compact(),
                Step::Restart(same) => {
                    etcd.cut(&mut follower, now);
                    id += u64::from(!same);
                    etcd.restart(id);
                    // Created at another revision than in any history before: that is what distinguishes them.
                    restarts += 1;
                    (0..restarts).for_each(|_| etcd.put("other", ""));
                    writer.fill(&mut etcd);
                }
                Step::Answer(choice) => {
                    now += Duration::from_millis(7);
                    etcd.answer(&mut follower, now, choice);
                }
                Step::Beat => {
                    if writer.leased {
                        etcd.put(HEARTBEAT, "now");
                    }
                }
                Step::Pass(seconds) => {
                    now += Duration::from_secs(seconds.into());
                    etcd.take_actions(&mut follower, now);
                }
            }
            local.take(&mut follower);
            let there: BTreeSet<u8> = local.records.keys().map(number).collect();
            for lost in known.difference(&there) {
                prop_assert!(writer.removed.contains(lost),
                    "s{lost} is gone, and the writer did not remove it");
            }
            known = there;
        }
        // What may have gone by unseen is vouched for.
        for _ in 0..3 {
            writer.fill(&mut etcd);
            settle(&mut etcd, &mut follower, &mut local, &mut now);
        }
        etcd.pass(&mut follower, &mut now, Duration::from_secs(120));
        local.take(&mut follower);
        let there: BTreeMap<u8, u16> = local.records.iter().map(|(key, (record, _))| {
            let Some(Record::Service(service)) = record else { panic!("a service") };
            (number(key), service.backends.values().next().unwrap()[""].number)
        }).collect();
        prop_assert_eq!(there, writer.desired);
        prop_assert!(follower.status().is_synced(), "{:?}", follower.status());
    }
}
