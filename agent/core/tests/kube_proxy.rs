//! Where all services are taken and no kube-proxy runs, a problem names the services of which no program serves all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh_balance::Rules;
use mesh_core::{Config, Connection, Core, Input, KubeProxy, PeerSettings, ProblemKind};
use mesh_follow::PeerEvent;
use mesh_merge::LocalRanges;
use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, ExportMode, LocalService, Port, Protocol,
    Record, RecordEvent, ServiceName, ServiceTraffic,
};

fn core(replace_kube_proxy: bool, now: Instant) -> Core {
    let local = ClusterName::new("a").unwrap();
    let id = ClusterId::new(1, ClusterLimit::Max255).unwrap();
    let config = Config {
        local: local.clone(),
        node: "n1".into(),
        rules: Rules { local: id, node: Some("n1".into()), replace_kube_proxy },
        ranges: LocalRanges {
            pod_cidrs: Vec::new(),
            node_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
        },
        local_routes: false,
        staleness_budget: Duration::from_secs(900),
        snapshots: BTreeMap::new(),
        unbalanced: BTreeSet::new(),
        local_state: None,
    };
    let mut core = Core::new(config, now);
    core.handle(Input::Follow(local.clone(), PeerSettings::default()), now);
    let config = ClusterConfig {
        id,
        synced_canaries: true,
        cached: false,
        max_connected_clusters: 255,
        service_exports_enabled: Some(false),
        export_mode: ExportMode::ServicesAndEndpointSlices,
        uuid: None,
    };
    let services =
        [("inner", false), ("web", true), ("b", true), ("c", true), ("d", true), ("e", true)];
    let services = services.map(|(name, outside_addresses)| {
        let service = LocalService {
            name: ServiceName::new("shop", name),
            cluster_ips: Vec::new(),
            ports: BTreeMap::from([(String::new(), Port { protocol: Protocol::Tcp, number: 80 })]),
            traffic: ServiceTraffic::default(),
            shared: false,
            publish_not_ready_addresses: false,
            foreign_proxy: false,
            outside_addresses,
        };
        PeerEvent::Record(RecordEvent::Upsert(Record::LocalService(Box::new(service))))
    });
    let events = [PeerEvent::Connected, PeerEvent::Config(config)].into_iter().chain(services);
    let connection = Connection { connected: true, synced: false, beats: 0 };
    core.handle(Input::Events(local, events.collect(), connection), now);
    core
}

fn unserved(core: &Core, now: Instant) -> Vec<String> {
    let problems = core.problems(now).into_iter();
    let problems = problems.filter(|problem| problem.kind == ProblemKind::KubeProxy);
    problems.map(|problem| problem.message).collect()
}

#[test]
fn services_that_no_program_serves_are_named() {
    let now = Instant::now();
    let mut all = core(true, now);
    assert_eq!(unserved(&all, now), [""; 0], "there was no look yet");
    all.handle(Input::KubeProxy(KubeProxy::Present), now);
    assert_eq!(unserved(&all, now), [""; 0]);
    all.handle(Input::KubeProxy(KubeProxy::Absent), now);
    let [problem] = <[String; 1]>::try_from(unserved(&all, now)).unwrap();
    assert!(problem.ends_with("shop/b, shop/c, shop/d, shop/e and 1 more"), "{problem}");
    all.handle(Input::KubeProxy(KubeProxy::Present), now);
    assert_eq!(unserved(&all, now), [""; 0], "it started later");

    // Who takes global services alone leaves the rest to whatever is there.
    let mut global = core(false, now);
    global.handle(Input::KubeProxy(KubeProxy::Absent), now);
    assert_eq!(unserved(&global, now), [""; 0]);
}
