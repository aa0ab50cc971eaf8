//! Services as endpoint slices, and what the local cluster's nodes get of services.

use mesh_model::{
    Affinity, EndpointSlice, LocalService, ServiceTraffic, SliceEndpoint,
    lb::{Backend, Condition, Hints},
    node::ZONE_LABEL,
    service::{MANAGED_BY_LABEL, MESH_CONTROLLER, SERVICE_NAME_LABEL, SlicePort},
};

use super::*;
use crate::backend_set::LOOKS;

/// An endpoint with its address and its conditions ready, serving, terminating.
pub(super) fn endpoint(address: &str, conditions: [Option<bool>; 3]) -> SliceEndpoint {
    let [ready, serving, terminating] = conditions;
    SliceEndpoint {
        addresses: vec![address.into()],
        ready,
        serving,
        terminating,
        ..SliceEndpoint::default()
    }
}

pub(super) fn port(name: &str, protocol: &str, number: i32) -> SlicePort {
    SlicePort {
        name: Some(name.into()),
        protocol: Some(protocol.into()),
        number: Some(number),
        app_protocol: None,
    }
}

/// A slice of a service of a cluster, with port `http` 8080.
pub(super) fn slice(
    cluster: &str,
    service: &str,
    slice: &str,
    endpoints: Vec<SliceEndpoint>,
) -> EndpointSlice {
    let number = u32::from(cluster.as_bytes()[0] - b'a' + 1);
    EndpointSlice {
        cluster: cluster.into(),
        cluster_id: id(number),
        namespace: "shop".into(),
        name: slice.into(),
        labels: BTreeMap::from([(SERVICE_NAME_LABEL.into(), service.into())]),
        annotations: BTreeMap::new(),
        address_type: "IPv4".into(),
        endpoints,
        ports: vec![port("http", "TCP", 8080)],
    }
}

/// The same as what a cluster reports: of the local cluster it is local.
pub(super) fn reported(slice: EndpointSlice) -> RecordEvent {
    let slice = Box::new(slice);
    RecordEvent::Upsert(match slice.cluster.as_str() {
        "a" => Record::LocalEndpointSlice(slice),
        _ => Record::EndpointSlice(slice),
    })
}

pub(super) const READY: [Option<bool>; 3] = [Some(true), Some(true), Some(false)];
pub(super) const LEAVING: [Option<bool>; 3] = [Some(false), Some(true), Some(true)];
pub(super) const AWAY: [Option<bool>; 3] = [Some(false), Some(false), Some(false)];

fn web() -> ServiceName {
    ServiceName::new("shop", "web")
}

pub(super) fn local(vip: Option<u8>, global: bool) -> LocalService {
    let port = Port { protocol: Protocol::Tcp, number: 80 };
    LocalService {
        name: web(),
        cluster_ips: vip.map(|last| IpAddr::from([10, 101, 0, last])).into_iter().collect(),
        ports: BTreeMap::from([("http".into(), port)]),
        traffic: ServiceTraffic { global, ..ServiceTraffic::default() },
        shared: global,
        publish_not_ready_addresses: false,
        foreign_proxy: false,
        outside_addresses: false,
    }
}

fn report_local(merge: &mut Merge, service: &LocalService) {
    let record = Record::LocalService(Box::new(service.clone()));
    merge.apply(&name("a"), RecordEvent::Upsert(record)).unwrap();
}

/// The backends of `shop/web` in words.
fn backends(merge: &Merge) -> Vec<String> {
    let service = web();
    let all = merge.backends_of(&service).map(|(backend, port_name, state)| {
        let Backend { address, port, protocol, .. } = backend;
        let word = |word: &Option<Arc<str>>| word.as_deref().unwrap_or("-").to_owned();
        let (node, zone) = (word(&state.node), word(&state.zone));
        format!("{port_name} {address}:{port}/{protocol} {:?} {node} {zone}", state.condition)
    });
    all.collect()
}

/// The rule, as `docs/wire.md` has it under "Endpoint slices".
#[test]
fn an_endpoint_is_ready_terminating_or_not_ready() {
    let [yes, no] = [Some(true), Some(false)];
    for (conditions, expected) in [
        ([None, None, None], Condition::Ready),
        ([yes, None, None], Condition::Ready),
        ([yes, yes, no], Condition::Ready),
        // Not ready and published all the same.
        ([yes, no, yes], Condition::Ready),
        ([None, no, no], Condition::Ready),
        ([no, yes, yes], Condition::Terminating),
        ([no, None, yes], Condition::Terminating),
        ([no, no, yes], Condition::NotReady),
        ([no, yes, no], Condition::NotReady),
        ([no, None, None], Condition::NotReady),
        ([no, no, no], Condition::NotReady),
    ] {
        let mut merge = merge();
        let record = slice("b", "web", "web-1", vec![endpoint("10.2.1.1", conditions)]);
        merge.apply(&name("b"), reported(record)).unwrap();
        let (_, _, state) = merge.backends_of(&web()).next().unwrap();
        assert_eq!(state.condition, expected, "{conditions:?}");
    }
}

#[test]
fn a_backend_has_the_ports_the_node_and_the_zone_of_its_slice() {
    let mut merge = merge();
    let mut record = slice("b", "web", "web-1", vec![endpoint("10.2.1.1", READY)]);
    record.endpoints[0].addresses.push("10.2.1.2".into());
    record.endpoints[0].node = Some("n1".into());
    record.endpoints[0].zone = Some("east-1".into());
    record.ports = vec![
        port("http", "TCP", 8080),
        port("dns", "UDP", 53),
        port("", "", 9000),
        port("sctp", "SCTP", 38412),
        port("huge", "TCP", 65_536),
        port("zero", "TCP", 0),
        port("odd", "QUIC", 443),
        SlicePort { name: None, protocol: None, number: Some(9001), app_protocol: None },
        SlicePort { number: None, ..port("all", "TCP", 1) },
    ];
    merge.apply(&name("b"), reported(record)).unwrap();
    assert_eq!(
        backends(&merge),
        [
            " 10.2.1.1:9000/TCP Ready n1 east-1",
            " 10.2.1.2:9000/TCP Ready n1 east-1",
            " 10.2.1.1:9001/TCP Ready n1 east-1",
            " 10.2.1.2:9001/TCP Ready n1 east-1",
            "dns 10.2.1.1:53/UDP Ready n1 east-1",
            "dns 10.2.1.2:53/UDP Ready n1 east-1",
            "http 10.2.1.1:8080/TCP Ready n1 east-1",
            "http 10.2.1.2:8080/TCP Ready n1 east-1",
        ]
    );
}

/// Endpoints without a port, or with SCTP alone, are no backends; they are known, so that an explanation can list them.
#[test]
fn what_no_frontend_can_lead_to_is_known_and_no_backend() {
    let mut merge = merge();
    let peer = name("b");
    let unusable = |merge: &Merge| -> Vec<String> {
        let service = web();
        let all = merge.unusable_of(&service).map(|(backend, port_name, state)| {
            let Backend { address, port, protocol, .. } = backend;
            let node = state.node.as_deref().unwrap_or("-");
            format!("{port_name} {address}:{port}/{protocol} {:?} {node}", state.condition)
        });
        all.collect()
    };
    let with = |of: &str, last: u8, ports: Vec<SlicePort>| {
        let mut record = slice("b", "web", of, vec![endpoint(&format!("10.2.1.{last}"), LEAVING)]);
        record.endpoints[0].node = Some("n1".into());
        reported(EndpointSlice { ports, ..record })
    };
    merge.apply(&peer, with("web-1", 1, Vec::new())).unwrap();
    merge.apply(&peer, with("web-2", 2, vec![SlicePort::default()])).unwrap();
    merge.apply(&peer, with("web-3", 3, vec![port("signal", "SCTP", 38412)])).unwrap();
    assert_eq!(
        unusable(&merge),
        [
            " 10.2.1.1:0/TCP Terminating n1",
            " 10.2.1.2:0/TCP Terminating n1",
            "signal 10.2.1.3:38412/SCTP Terminating n1",
        ]
    );
    assert_eq!((backends(&merge), deltas(&mut merge)), (Vec::new(), Vec::new()));
    // One port that can be used is enough.
    let both = vec![port("signal", "SCTP", 38412), port("http", "TCP", 8080)];
    merge.apply(&peer, with("web-3", 3, both)).unwrap();
    assert_eq!((unusable(&merge).len(), backends(&merge).len()), (2, 1));
    // A slice that is another service's, and ones that are gone, leave nothing.
    let mut moved = slice("b", "db", "web-1", vec![endpoint("10.2.1.1", READY)]);
    moved.ports.clear();
    merge.apply(&peer, reported(moved)).unwrap();
    assert_eq!(unusable(&merge), [" 10.2.1.2:0/TCP Terminating n1"]);
    for of in ["web-1", "web-2", "web-3"] {
        let key = RecordKey::EndpointSlice(ServiceName::new("shop", of));
        merge.apply(&peer, RecordEvent::Remove(key)).unwrap();
    }
    assert_eq!(unusable(&merge), [""; 0]);
    assert_eq!((merge.counts(&peer).services, merge.kept(&peer).keys), (0, 0));

    // In services v1 it is a matter of each address.
    let RecordEvent::Upsert(Record::Service(mut record)) = service("c", "web", None, &[1, 2, 3])
    else {
        panic!("a service")
    };
    let sctp = Port { protocol: Protocol::Sctp, number: 38412 };
    record.backends.insert([10, 3, 1, 2].into(), [("signal".to_owned(), sctp)].into());
    record.backends.insert([10, 3, 1, 3].into(), BTreeMap::new());
    merge.apply(&name("c"), RecordEvent::Upsert(Record::Service(record))).unwrap();
    assert_eq!(backends(&merge), ["http 10.3.1.1:8080/TCP Ready - -"]);
    assert_eq!(unusable(&merge), [" 10.3.1.3:0/TCP Ready -", "signal 10.3.1.2:38412/SCTP Ready -"]);
    let gone = RecordEvent::Remove(RecordKey::Service(web()));
    merge.apply(&name("c"), gone).unwrap();
    assert_eq!((unusable(&merge).len(), merge.counts(&name("c")).services), (0, 0));
}

#[test]
fn an_address_in_two_slices_counts_once_and_the_better_word_counts() {
    let mut merge = merge();
    let peer = name("b");
    let say = |merge: &mut Merge, of: &str, conditions| {
        let record = slice("b", "web", of, vec![endpoint("10.2.1.1", conditions)]);
        merge.apply(&peer, reported(record)).unwrap();
        deltas(merge)
    };
    let condition = |merge: &Merge| {
        let all: Vec<_> = merge.backends_of(&web()).map(|(_, _, state)| state.condition).collect();
        assert_eq!(all.len(), 1);
        all[0]
    };
    assert_eq!(say(&mut merge, "web-1", AWAY), ["+web 10.2.1.1"]);
    assert_eq!(say(&mut merge, "web-2", AWAY), [""; 0], "the same");
    assert_eq!(say(&mut merge, "web-2", LEAVING), ["+web 10.2.1.1"]);
    assert_eq!(condition(&merge), Condition::Terminating);
    assert_eq!(say(&mut merge, "web-1", READY), ["+web 10.2.1.1"]);
    assert_eq!(condition(&merge), Condition::Ready);
    assert_eq!(say(&mut merge, "web-2", AWAY), [""; 0], "no reader sees it");
    let gone =
        |of: &str| RecordEvent::Remove(RecordKey::EndpointSlice(ServiceName::new("shop", of)));
    merge.apply(&peer, gone("web-1")).unwrap();
    assert_eq!(deltas(&mut merge), ["+web 10.2.1.1"]);
    assert_eq!(condition(&merge), Condition::NotReady);
    merge.apply(&peer, gone("web-2")).unwrap();
    assert_eq!(deltas(&mut merge), ["-web 10.2.1.1"]);
    assert_eq!((merge.counts(&peer).services, merge.kept(&peer).keys), (0, 0));
}

#[test]
fn a_slice_that_moves_is_there_before_it_is_gone() {
    let mut merge = merge();
    let peer = name("b");
    let endpoints = || vec![endpoint("10.2.1.1", READY), endpoint("10.2.1.2", READY)];
    merge.apply(&peer, reported(slice("b", "web", "x", endpoints()))).unwrap();
    let _ = merge.take_deltas();
    merge.apply(&peer, reported(slice("b", "db", "x", endpoints()))).unwrap();
    assert_eq!(
        deltas(&mut merge),
        ["+db 10.2.1.1", "+db 10.2.1.2", "-web 10.2.1.1", "-web 10.2.1.2"]
    );
    // An endpoint from one slice to the next: split and merged, no reader sees it.
    let split = |of: &str, last: &str| reported(slice("b", "db", of, vec![endpoint(last, READY)]));
    merge.apply(&peer, split("y", "10.2.1.2")).unwrap();
    merge.apply(&peer, split("x", "10.2.1.1")).unwrap();
    assert_eq!(deltas(&mut merge), [""; 0]);
    merge.apply(&peer, split("x", "10.2.1.3")).unwrap();
    assert_eq!(deltas(&mut merge), ["+db 10.2.1.3", "-db 10.2.1.1"], "what comes first");
    // Without a service it belongs to none.
    let mut orphan = slice("b", "db", "x", endpoints());
    orphan.labels.clear();
    merge.apply(&peer, reported(orphan)).unwrap();
    assert_eq!(deltas(&mut merge), ["-db 10.2.1.3"]);
}

#[test]
fn copies_of_other_clusters_backends_are_passed_over() {
    let mut merge = merge();
    let peer = name("b");
    let mut copy = slice("b", "web", "web-of-c", vec![endpoint("10.3.1.1", READY)]);
    copy.labels.insert(MANAGED_BY_LABEL.into(), MESH_CONTROLLER.into());
    merge.apply(&peer, reported(copy)).unwrap();
    assert_eq!(deltas(&mut merge), [""; 0]);
    assert_eq!(merge.kept(&peer).keys, 1, "and cost their writer what all do");
}

#[test]
fn a_slice_beyond_the_grant_is_refused_whole_and_its_last_content_stays() {
    let mut merge = merge();
    let peer = name("b");
    let good = vec![endpoint("10.2.1.1", READY), endpoint("10.2.1.2", READY)];
    merge.apply(&peer, reported(slice("b", "web", "web-1", good.clone()))).unwrap();
    let _ = merge.take_deltas();
    merge.apply(&peer, RecordEvent::Begin(RecordKind::EndpointSlice)).unwrap();
    let stolen = vec![endpoint("10.2.1.3", READY), endpoint("10.3.1.1", AWAY)];
    let refused = merge.apply(&peer, reported(slice("b", "web", "web-1", stolen))).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "endpoint slice shop/web-1: 10.3.1.1/32 is outside the pod ranges that this cluster may claim: if it is a backend outside the mesh, write `externalBackends: true` below `clustermesh` in the peer's file"
    );
    merge.apply(&peer, RecordEvent::Confirmed(RecordKind::EndpointSlice)).unwrap();
    assert_eq!(deltas(&mut merge), ["b confirmed EndpointSlice"]);
    assert_eq!(backends(&merge).len(), 2);
    // A smaller grant takes back the whole slice.
    merge
        .apply(&peer, reported(slice("b", "web", "web-2", vec![endpoint("10.2.1.9", READY)])))
        .unwrap();
    let _ = merge.take_deltas();
    let claims = Claims { pod_cidrs: vec!["10.2.1.8/29".parse().unwrap()], ..Claims::default() };
    merge.set_peer(&peer, Some(claims));
    assert_eq!(deltas(&mut merge), ["-web 10.2.1.1", "-web 10.2.1.2"]);
    assert_eq!(merge.kept(&peer).keys, 1);
}

/// Whichever way: the new form is there before the old one goes, and nothing is missing in between.
#[test]
fn from_one_form_of_services_to_the_other() {
    let mut merge = merge();
    let peer = name("b");
    let apply = |merge: &mut Merge, event| merge.apply(&peer, event).unwrap();
    apply(&mut merge, RecordEvent::Begin(RecordKind::Service));
    apply(&mut merge, service("b", "web", None, &[1, 2]));
    assert!(!merge.has_listed_services(&peer));
    apply(&mut merge, RecordEvent::Confirmed(RecordKind::Service));
    assert!(merge.has_listed_services(&peer));
    let _ = merge.take_deltas();

    apply(&mut merge, RecordEvent::Begin(RecordKind::EndpointSlice));
    let first = slice("b", "web", "web-1", vec![endpoint("10.2.1.1", LEAVING)]);
    apply(&mut merge, reported(first));
    assert_eq!(deltas(&mut merge), ["+web 10.2.1.1"], "a slice says more than a service");
    let second = slice("b", "web", "web-2", vec![endpoint("10.2.1.3", READY)]);
    apply(&mut merge, reported(second));
    assert_eq!(deltas(&mut merge), ["+web 10.2.1.3"]);
    apply(&mut merge, RecordEvent::Confirmed(RecordKind::EndpointSlice));
    apply(&mut merge, RecordEvent::Without(RecordKind::Service));
    assert_eq!(deltas(&mut merge), ["b confirmed EndpointSlice", "-web 10.2.1.2"]);
    assert!(merge.has_listed_services(&peer) && !merge.is_confirmed(&peer, RecordKind::Service));
    assert_eq!(merge.kept(&peer).keys, 2);
    apply(&mut merge, RecordEvent::Without(RecordKind::Service));
    assert_eq!(deltas(&mut merge), [""; 0]);

    // And back.
    apply(&mut merge, RecordEvent::Begin(RecordKind::Service));
    apply(&mut merge, service("b", "web", None, &[3]));
    apply(&mut merge, RecordEvent::Confirmed(RecordKind::Service));
    let _ = merge.take_deltas();
    apply(&mut merge, RecordEvent::Without(RecordKind::EndpointSlice));
    assert_eq!(deltas(&mut merge), ["-web 10.2.1.1"]);
    assert!(merge.has_listed_services(&peer));
    assert_eq!(merge.kept(&peer).keys, 1);
}

#[test]
fn services_with_parts_that_agents_do_not_serve_are_known() {
    let mut merge = merge();
    let plain = local(Some(10), true);
    let sctp = [(String::new(), Port { protocol: Protocol::Sctp, number: 80 })];
    let outside = LocalService { outside_addresses: true, ..plain.clone() };
    let sctp = LocalService { ports: sctp.into(), ..plain.clone() };
    for (service, is_left) in [
        (plain.clone(), false),
        (outside.clone(), true),
        (LocalService { foreign_proxy: true, ..outside.clone() }, false),
        (sctp.clone(), true),
        (LocalService { cluster_ips: Vec::new(), ..sctp }, false),
        (outside, true),
    ] {
        report_local(&mut merge, &service);
        let left: Vec<_> = merge.left_to_kube_proxy().cloned().collect();
        assert_eq!(left, if is_left { vec![web()] } else { Vec::new() }, "{service:?}");
    }
    merge.apply(&name("a"), RecordEvent::Remove(RecordKey::LocalService(web()))).unwrap();
    assert_eq!(merge.left_to_kube_proxy().count(), 0);
}

#[test]
fn local_services_say_what_they_ask_for() {
    let mut merge = merge();
    let cluster = name("a");
    merge
        .apply(&cluster, reported(slice("a", "web", "web-1", vec![endpoint("10.1.1.1", AWAY)])))
        .unwrap();
    assert_eq!(deltas(&mut merge), ["+web 10.1.1.1"], "slices come first");
    assert_eq!((merge.traffic_of(&web()), merge.services().count()), (None, 0));

    let plain = local(Some(10), false);
    report_local(&mut merge, &plain);
    assert_eq!(deltas(&mut merge), ["set web", "+web 10.101.0.10:80/TCP"]);
    assert!(!merge.traffic_of(&web()).unwrap().global);
    assert_eq!(merge.local_service(&web()), Some(&plain));
    report_local(&mut merge, &plain);
    assert_eq!(deltas(&mut merge), [""; 0]);

    // It turns global, and asks for more.
    let traffic = ServiceTraffic {
        global: true,
        affinity: Affinity::Local,
        session_affinity: Some(60),
        ..ServiceTraffic::default()
    };
    report_local(&mut merge, &LocalService { traffic: traffic.clone(), ..plain.clone() });
    let set = merge.take_deltas();
    let [Delta::Service(ServiceDelta::ServiceSet { traffic: record, .. })] = set.as_slice() else {
        panic!("{set:?}")
    };
    assert_eq!(**record, traffic);

    // Headless, or another proxy's to serve: it is ours and has no frontends.
    for other in [
        LocalService { cluster_ips: Vec::new(), traffic: traffic.clone(), ..plain.clone() },
        LocalService { foreign_proxy: true, traffic: traffic.clone(), ..plain.clone() },
    ] {
        report_local(&mut merge, &other);
        assert_eq!(deltas(&mut merge), ["-web 10.101.0.10:80/TCP"]);
        assert_eq!(merge.services().count(), 1);
        report_local(&mut merge, &LocalService { traffic: traffic.clone(), ..plain.clone() });
        assert_eq!(deltas(&mut merge), ["+web 10.101.0.10:80/TCP"]);
    }
    merge.apply(&cluster, RecordEvent::Remove(RecordKey::LocalService(web()))).unwrap();
    assert_eq!(deltas(&mut merge), ["-web 10.101.0.10:80/TCP", "unset web"]);
    assert_eq!(backends(&merge).len(), 1);

    // No other cluster has any here.
    let record = Record::LocalService(Box::new(plain));
    merge.apply(&name("b"), RecordEvent::Upsert(record)).unwrap();
    assert_eq!(deltas(&mut merge), [""; 0]);
}

/// The canary of the local prefix appears: the local cluster was a Cilium, or its apiserver an older one.
#[test]
fn the_local_cluster_changes_to_the_local_form() {
    let mut merge = merge();
    let cluster = name("a");
    let apply = |merge: &mut Merge, event| merge.apply(&cluster, event).unwrap();
    apply(&mut merge, service("a", "web", Some(10), &[1, 2]));
    assert!(merge.traffic_of(&web()).unwrap().global, "whatever it exports is global");
    let _ = merge.take_deltas();
    let both = [RecordKind::LocalService, RecordKind::LocalEndpointSlice];
    for kind in both {
        apply(&mut merge, RecordEvent::Begin(kind));
    }
    let endpoints = vec![endpoint("10.1.1.1", READY), endpoint("10.1.1.2", READY)];
    apply(&mut merge, reported(slice("a", "web", "web-1", endpoints)));
    report_local(&mut merge, &local(Some(10), true));
    apply(&mut merge, RecordEvent::Confirmed(RecordKind::LocalEndpointSlice));
    assert!(!merge.has_listed_services(&cluster));
    apply(&mut merge, RecordEvent::Confirmed(RecordKind::LocalService));
    assert!(merge.has_listed_services(&cluster));
    apply(&mut merge, RecordEvent::Without(RecordKind::Service));
    assert_eq!(
        deltas(&mut merge),
        ["a confirmed LocalEndpointSlice", "a confirmed LocalService"],
        "nothing that a reader sees"
    );
}

#[test]
fn a_frontend_may_change_its_name_or_its_service() {
    let mut merge = merge();
    report_local(&mut merge, &local(Some(10), true));
    let renamed = |of: &str, port_name: &str| {
        let port = Port { protocol: Protocol::Tcp, number: 80 };
        let ports = BTreeMap::from([(port_name.into(), port)]);
        LocalService { name: ServiceName::new("shop", of), ports, ..local(Some(10), true) }
    };
    for of in ["two", "one"] {
        report_local(&mut merge, &renamed(of, "http"));
    }
    let _ = merge.take_deltas();
    report_local(&mut merge, &renamed("web", "grpc"));
    assert_eq!(deltas(&mut merge), ["-web 10.101.0.10:80/TCP", "+web 10.101.0.10:80/TCP"]);
    assert_eq!(merge.frontends_of(&web()).next().unwrap().1, "grpc");
    // The first by name of those that wait.
    let gone =
        |of: &str| RecordEvent::Remove(RecordKey::LocalService(ServiceName::new("shop", of)));
    merge.apply(&name("a"), gone("web")).unwrap();
    assert_eq!(
        deltas(&mut merge),
        ["-web 10.101.0.10:80/TCP", "+one 10.101.0.10:80/TCP", "unset web"]
    );
    merge.apply(&name("a"), gone("two")).unwrap();
    merge.apply(&name("a"), gone("one")).unwrap();
    assert_eq!(deltas(&mut merge), ["unset two", "-one 10.101.0.10:80/TCP", "unset one"]);
    assert!(merge.frontends.is_empty() && merge.waiting.is_empty());
}

/// Services v1 do not contain the node of a backend.
#[test]
fn a_backend_is_on_the_node_that_has_its_address() {
    let mut merge = merge();
    let peer = name("b");
    merge.apply(&peer, service("b", "web", None, &[1, 2])).unwrap();
    let _ = merge.take_deltas();
    merge.apply(&peer, node("b", "n1", "10.2.1.0/24")).unwrap();
    merge.apply(&peer, RecordEvent::Confirmed(RecordKind::Node)).unwrap();
    assert_eq!(
        deltas(&mut merge),
        ["+10.2.1.0/24 via 172.31.2.1", "+web 10.2.1.1", "+web 10.2.1.2", "b confirmed Node"]
    );
    assert_eq!(
        backends(&merge),
        ["http 10.2.1.1:8080/TCP Ready n1 -", "http 10.2.1.2:8080/TCP Ready n1 -"]
    );
    // The record of its address knows better.
    let record = orders::address("10.2.1.2/32", 131_073);
    let RecordEvent::Upsert(Record::Address(mut address)) = record else { panic!("an address") };
    address.host = Some("172.31.2.2".parse().unwrap());
    merge.apply(&peer, RecordEvent::Upsert(Record::Address(address))).unwrap();
    let other = node("b", "n2", "10.2.2.0/24");
    let RecordEvent::Upsert(Record::Node(mut other)) = other else { panic!("a node") };
    other.addresses[0].ip = "172.31.2.2".parse().unwrap();
    merge.apply(&peer, RecordEvent::Upsert(Record::Node(other))).unwrap();
    merge.apply(&peer, RecordEvent::Confirmed(RecordKind::Address)).unwrap();
    assert_eq!(
        deltas(&mut merge),
        ["+10.2.2.0/24 via 172.31.2.1", "+web 10.2.1.2", "b confirmed Address"]
            .map(|text| text.replace("via 172.31.2.1", "via 172.31.2.2"))
    );
    assert!(backends(&merge)[1].ends_with("n2 -"), "{:?}", backends(&merge));
}

/// Which backends of `shop/web` are for clients of which nodes and zones.
fn hints(merge: &Merge) -> Vec<String> {
    let service = web();
    let all = merge.backends_of(&service).filter_map(|(backend, _, state)| {
        let Hints { nodes, zones } = &**state.hints.as_ref()?;
        Some(format!("{} {} {}", backend.address, nodes.join(","), zones.join(",")))
    });
    all.collect()
}

/// Hints are for clients of the cluster that has them: a peer's are not kept.
#[test]
fn hints_are_the_local_clusters() {
    let mut merge = merge();
    for (cluster, first) in [("a", "10.1.1."), ("b", "10.2.1.")] {
        let mut record = slice(cluster, "web", "web-1", Vec::new());
        for (last, zones) in [(1, &["east"][..]), (2, &["east"]), (3, &["east", "west"]), (4, &[])]
        {
            let mut one = endpoint(&format!("{first}{last}"), READY);
            one.for_zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
            record.endpoints.push(one);
        }
        record.endpoints[0].for_nodes = vec!["n1".into()];
        merge.apply(&name(cluster), reported(record)).unwrap();
    }
    let kept = ["10.1.1.1 n1 east", "10.1.1.2  east", "10.1.1.3  east,west"];
    assert_eq!(hints(&merge), kept);
}

/// The zone of the agent's own node comes from its label, and is kept for the next run.
#[test]
fn a_node_is_in_the_zone_of_its_label() {
    let mut merge = merge();
    let report = |merge: &mut Merge, zone: Option<&str>| {
        let mut record = node("a", "n1", "10.1.1.0/24");
        let RecordEvent::Upsert(Record::Node(node)) = &mut record else { unreachable!() };
        node.labels =
            zone.map(|zone| (ZONE_LABEL.to_owned(), zone.to_owned())).into_iter().collect();
        merge.apply(&name("a"), record).unwrap();
    };
    assert_eq!(merge.zone_of("n1"), None);
    for zone in [Some("east"), None, Some("west"), Some("")] {
        report(&mut merge, zone);
        assert_eq!(merge.zone_of("n1"), zone.filter(|zone| !zone.is_empty()));
    }
    report(&mut merge, Some("east"));
    for kind in [RecordKind::Node, RecordKind::LocalService, RecordKind::LocalEndpointSlice] {
        merge.apply(&name("a"), RecordEvent::Confirmed(kind)).unwrap();
    }
    let (id, records) = merge.records(&name("a")).unwrap();
    let mut next = Merge::new(name("a"), merge.ranges.clone());
    assert_eq!(next.remember(&name("a"), id, records, KnownIdentities::default()), Ok(Vec::new()));
    assert_eq!(next.zone_of("n1"), Some("east"));
}

/// Of whatever form: states, nodes and zones too, and what a service asks for.
#[test]
fn what_is_kept_for_the_next_run_has_the_same_content() {
    let mut before = merge();
    for (cluster, first) in [("a", "10.1.1."), ("b", "10.2.1.")] {
        let mut record = slice(cluster, "web", "web-1", Vec::new());
        for (last, conditions) in [READY, LEAVING, AWAY].into_iter().enumerate() {
            let mut one = endpoint(&format!("{first}{last}"), conditions);
            one.node = Some(format!("n{last}"));
            one.zone = (last == 1).then(|| "east-1".into());
            one.for_zones = vec!["east-1".into(), format!("east-{last}")];
            one.for_nodes = vec![format!("n{last}")];
            record.endpoints.push(one);
        }
        record.ports.push(port("", "UDP", 53));
        before.apply(&name(cluster), reported(record)).unwrap();
    }
    let mut asks = local(Some(10), true);
    asks.traffic.internal_traffic_local = true;
    report_local(&mut before, &asks);
    before.apply(&name("c"), service("c", "web", None, &[1])).unwrap();
    for (cluster, kinds) in [
        ("a", [RecordKind::LocalService, RecordKind::LocalEndpointSlice].as_slice()),
        ("b", &[RecordKind::EndpointSlice]),
        ("c", &[RecordKind::Service]),
    ] {
        assert_eq!(before.records(&name(cluster)), None, "not all was reported");
        for kind in kinds.iter().chain(&[RecordKind::Node]) {
            before.apply(&name(cluster), RecordEvent::Confirmed(*kind)).unwrap();
        }
    }
    let mut next = Merge::new(name("a"), before.ranges.clone());
    for cluster in ["a", "b", "c"] {
        if cluster != "a" {
            next.set_peer(&name(cluster), Some(before.grants[&name(cluster)].clone()));
        }
        let (id, records) = before.records(&name(cluster)).unwrap();
        assert_eq!(
            next.remember(&name(cluster), id, records, KnownIdentities::default()),
            Ok(Vec::new())
        );
    }
    assert_eq!(backends(&next), backends(&before));
    assert_eq!(backends(&next).len(), 13);
    assert_eq!(hints(&next), hints(&before));
    assert_eq!(hints(&next).len(), 6, "a's, at two ports each: {:?}", hints(&next));
    assert_eq!(next.local_service(&web()), before.local_service(&web()));
    assert_eq!(next.frontends_of(&web()).count(), 1);
    // It is not reported again in this form: the cluster has changed to the other one meanwhile.
    next.apply(&name("b"), RecordEvent::Begin(RecordKind::Service)).unwrap();
    next.apply(&name("b"), service("b", "web", None, &[0])).unwrap();
    next.apply(&name("b"), RecordEvent::Confirmed(RecordKind::Service)).unwrap();
    next.apply(&name("b"), RecordEvent::Without(RecordKind::EndpointSlice)).unwrap();
    assert_eq!(backends(&next).len(), 8);
}

/// A service of ten thousand backends in a hundred slices: one endpoint's change costs what it costs in one slice alone.
#[test]
fn a_change_costs_its_slice_and_not_its_service() {
    let endpoints = |of: u8, changed: bool| {
        let all = 0..100u8;
        let all = all.map(|n| {
            endpoint(&format!("10.2.{of}.{n}"), if changed && n == 50 { LEAVING } else { READY })
        });
        all.collect::<Vec<_>>()
    };
    let peer = name("b");
    let cost = |slices: u8| {
        let mut merge = merge();
        for of in 0..slices {
            merge
                .apply(
                    &peer,
                    reported(slice("b", "web", &format!("web-{of}"), endpoints(of, false))),
                )
                .unwrap();
        }
        assert_eq!(merge.backends_of(&web()).count(), 100 * usize::from(slices));
        let _ = merge.take_deltas();
        let before = LOOKS.get();
        merge.apply(&peer, reported(slice("b", "web", "web-0", endpoints(0, true)))).unwrap();
        assert_eq!(deltas(&mut merge), ["+web 10.2.0.50"]);
        LOOKS.get() - before
    };
    let (alone, of_many) = (cost(1), cost(100));
    assert!(alone <= 210, "twice a slice, and the one that changed: {alone}");
    assert_eq!(of_many, alone);
}

/// What a backend costs here, beside its strings, which all have in common. `docs/performance.md` has the whole.
#[test]
fn what_a_backend_takes() {
    use crate::{backend_set::BackendId, services::SourceId};
    assert_eq!(size_of::<(BackendId, mesh_model::lb::BackendState)>(), 88, "in its slice");
    assert_eq!(
        size_of::<(BackendId, SourceId)>(),
        48,
        "in the index of a service of several slices"
    );
}
