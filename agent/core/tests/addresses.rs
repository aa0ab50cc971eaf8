//! Whose an address is while peers fall silent and come back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use mesh_balance::Rules;
use mesh_core::{AddressState, Config, Connection, Core, Input, PeerSettings, ProblemKind};
use mesh_follow::PeerEvent;
use mesh_merge::LocalRanges;
use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, EndpointAddress, ExportMode, Identity,
    Record, RecordEvent, RecordKind,
};

const BUDGET: Duration = Duration::from_secs(900);
const UP: Connection = Connection { connected: true, synced: true, beats: 0 };
const DOWN: Connection = Connection { connected: false, synced: false, beats: 0 };

fn name(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn core(now: Instant) -> Core {
    let id = ClusterId::new(1, ClusterLimit::Max255).unwrap();
    let config = Config {
        local: name("a"),
        node: "n1".into(),
        rules: Rules { local: id, node: Some("n1".into()), replace_kube_proxy: false },
        ranges: LocalRanges {
            pod_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
            ..LocalRanges::default()
        },
        local_routes: false,
        staleness_budget: BUDGET,
        snapshots: BTreeMap::new(),
        unbalanced: BTreeSet::new(),
        local_state: None,
    };
    let mut core = Core::new(config, now);
    for cluster in ["a", "b", "c"] {
        core.handle(Input::Follow(name(cluster), PeerSettings::default()), now);
    }
    core
}

/// A cluster reports that an address is its own.
fn report(core: &mut Core, cluster: &str, number: u32, address: IpAddr, now: Instant) {
    let config = ClusterConfig {
        id: ClusterId::new(number, ClusterLimit::Max255).unwrap(),
        synced_canaries: true,
        cached: false,
        max_connected_clusters: 255,
        service_exports_enabled: Some(false),
        export_mode: ExportMode::ServicesAndEndpointSlices,
        uuid: None,
    };
    let record = Record::Address(Box::new(EndpointAddress {
        net: address.into(),
        host: None,
        identity: Identity::new(number * 65_536 + 300),
        encryption_key: 0,
        metadata: String::new(),
        namespace: String::new(),
        pod: String::new(),
        service_account: String::new(),
        named_ports: Vec::new(),
    }));
    let records = [
        RecordEvent::Begin(RecordKind::Address),
        RecordEvent::Upsert(record),
        RecordEvent::Confirmed(RecordKind::Address),
    ];
    let events = [PeerEvent::Connected, PeerEvent::Config(config)];
    let events = events.into_iter().chain(records.map(PeerEvent::Record)).collect();
    core.handle(Input::Events(name(cluster), events, UP), now);
}

fn known(cluster: &str, number: u32) -> AddressState {
    AddressState::Known { cluster: name(cluster), identity: Identity::new(number * 65_536 + 300) }
}

#[test]
fn a_silent_peer_s_report_counts_until_another_reports_or_its_budget_ends() {
    let mut now = Instant::now();
    let mut core = core(now);
    let address: IpAddr = "10.9.0.5".parse().unwrap();
    assert_eq!(core.address(address).0, AddressState::Outside);
    assert_eq!(core.address("10.1.7.7".parse().unwrap()).0, AddressState::UnknownOf(name("a")));

    report(&mut core, "b", 2, address, now);
    assert_eq!(core.address(address).0, known("b", 2));
    core.handle(Input::Connection(name("b"), DOWN), now);
    now += BUDGET / 2;
    core.handle(Input::Timeout, now);
    assert_eq!(core.address(address).0, known("b", 2), "it is held");

    // Another cluster reports it meanwhile: it is heard, and b is not.
    report(&mut core, "c", 3, address, now);
    let (state, claims) = core.address(address);
    let clusters: Vec<&str> = claims.iter().map(|(cluster, _)| cluster.as_str()).collect();
    assert_eq!((state, clusters), (known("c", 3), vec!["c", "b"]));
    let problems = core.problems(now).into_iter();
    let contested = problems.filter(|problem| problem.kind == ProblemKind::AddressesContested);
    let messages: Vec<String> = contested.map(|problem| problem.message).collect();
    assert!(
        matches!(messages.as_slice(), [one] if one.contains("10.9.0.5 (b, c)")),
        "{messages:?}"
    );

    // Both are heard: the first has it.
    core.handle(Input::Connection(name("b"), UP), now);
    assert_eq!(core.address(address).0, known("b", 2));

    // b is silent for longer than its budget, and c has withdrawn.
    core.handle(Input::Unfollow(name("c")), now);
    core.handle(Input::Connection(name("b"), DOWN), now);
    now += BUDGET * 2;
    core.handle(Input::Timeout, now);
    assert_eq!(core.address(address).0, AddressState::UnknownOf(name("b")));
}
