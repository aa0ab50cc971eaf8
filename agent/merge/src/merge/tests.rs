mod addresses;
mod model;
mod orders;
mod slices;

use mesh_model::{
    AddressKind, ClusterLimit, EndpointAddress, GlobalService, KnownIdentities, LocalNamespace,
    LocalPod, LocalPolicy, NodeAddress, PolicyKind, PolicyRef, Port, Protocol, node::FamilyPair,
};

use super::*;
use crate::{accounting::Tally, addresses::AddressEntry, cluster::Counts};

fn name(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn id(number: u32) -> ClusterId {
    ClusterId::new(number, ClusterLimit::Max255).unwrap()
}

fn merge() -> Merge {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let ranges = LocalRanges { pod_cidrs: vec![net("10.1.0.0/16")], ..LocalRanges::default() };
    let mut merge = Merge::new(name("a"), ranges);
    merge.set_id(&name("a"), id(1)).unwrap();
    for (peer, number) in [("b", 2), ("c", 3)] {
        let claims = Claims {
            id: None,
            pod_cidrs: vec![net(&format!("10.{number}.0.0/16"))],
            node_cidrs: vec![net(&format!("172.31.{number}.0/24"))],
            external_backends: false,
        };
        merge.set_peer(&name(peer), Some(claims));
        merge.set_id(&name(peer), id(number)).unwrap();
    }
    merge
}

/// A service of a cluster: its cluster IP's last byte, and its backends' last bytes. Port `http` is 80 → 8080.
fn service(cluster: &str, service: &str, vip: Option<u8>, backends: &[u8]) -> RecordEvent {
    let number = u8::try_from(u32::from(cluster.as_bytes()[0] - b'a' + 1)).unwrap();
    let ports =
        |number| BTreeMap::from([("http".to_owned(), Port { protocol: Protocol::Tcp, number })]);
    RecordEvent::Upsert(Record::Service(Box::new(GlobalService {
        cluster: name(cluster),
        cluster_id: id(number.into()),
        name: ServiceName::new("shop", service),
        frontends: vip
            .map(|last| (IpAddr::from([10, 101, 0, last]), ports(80)))
            .into_iter()
            .collect(),
        backends: backends
            .iter()
            .map(|last| (IpAddr::from([10, number, 1, *last]), ports(8080)))
            .collect(),
        hostnames: BTreeMap::new(),
        zones: BTreeMap::new(),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        include_external: true,
        shared: true,
    })))
}

fn node(cluster: &str, node: &str, range: &str) -> RecordEvent {
    let number = cluster.as_bytes()[0] - b'a' + 1;
    RecordEvent::Upsert(Record::Node(Box::new(Node {
        name: node.into(),
        cluster: name(cluster),
        cluster_id: id(number.into()),
        addresses: vec![NodeAddress {
            kind: AddressKind::Internal,
            ip: IpAddr::from([172, 31, number, 1]),
        }],
        pod_cidrs: vec![range.parse().unwrap()],
        health_ips: FamilyPair::default(),
        ingress_ips: FamilyPair::default(),
        source: String::new(),
        encryption_key: 0,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        wireguard_public_key: String::new(),
        boot_id: String::new(),
    })))
}

/// Deltas in short.
fn deltas(merge: &mut Merge) -> Vec<String> {
    let deltas = merge.take_deltas().into_iter();
    let others = |delta: &Delta| {
        matches!(
            delta,
            Delta::Located { .. }
                | Delta::Address(_)
                | Delta::Range(_)
                | Delta::Identity { .. }
                | Delta::Claims { .. }
        )
    };
    deltas
        .filter(|delta| !others(delta))
        .map(|delta| match delta {
            Delta::Service(ServiceDelta::FrontendAdded { service, frontend, .. }) => {
                format!("+{} {frontend}", service.name)
            }
            Delta::Service(ServiceDelta::FrontendRemoved { service, frontend }) => {
                format!("-{} {frontend}", service.name)
            }
            Delta::Service(ServiceDelta::BackendSet { service, backend, .. }) => {
                format!("+{} {}", service.name, backend.address)
            }
            Delta::Service(ServiceDelta::BackendRemoved { service, backend, .. }) => {
                format!("-{} {}", service.name, backend.address)
            }
            Delta::Service(ServiceDelta::ServiceSet { service, .. }) => {
                format!("set {}", service.name)
            }
            Delta::Service(ServiceDelta::ServiceRemoved { service }) => {
                format!("unset {}", service.name)
            }
            Delta::Route(RouteDelta::Added(Route { range, via, .. })) => {
                format!("+{range} via {via}")
            }
            Delta::Route(RouteDelta::Removed(Route { range, via, .. })) => {
                format!("-{range} via {via}")
            }
            Delta::Pod(pod) => format!("pod {}/{}", pod.namespace, pod.name),
            Delta::Policy(policy) => format!("policy {}/{}", policy.namespace, policy.name),
            Delta::Confirmed { cluster, kind, .. } => format!("{cluster} confirmed {kind:?}"),
            Delta::Located { .. }
            | Delta::Address(_)
            | Delta::Range(_)
            | Delta::Identity { .. }
            | Delta::Claims { .. } => unreachable!("left out above"),
        })
        .collect()
}

/// A change of an address's location is reported once, and a record without a change is not.
#[test]
fn a_new_host_or_node_says_where_addresses_are() {
    let mut merge = merge();
    let address = |host: &str| {
        RecordEvent::Upsert(Record::Address(Box::new(EndpointAddress {
            net: "10.2.1.1/32".parse().unwrap(),
            identity: Identity::new(131_073),
            host: host.parse().ok(),
            encryption_key: 0,
            metadata: String::new(),
            namespace: String::new(),
            pod: String::new(),
            service_account: String::new(),
            named_ports: Vec::new(),
        })))
    };
    let one = Located::One("10.2.1.1".parse().unwrap());
    for (event, expected) in [
        (address(""), None),
        (address("172.31.2.1"), Some(one)),
        (address("172.31.2.1"), None),
        (address("172.31.2.2"), Some(one)),
        (node("b", "n1", "10.2.1.0/24"), Some(Located::Any)),
        (node("b", "n1", "10.2.1.0/24"), None),
        (node("b", "n1", "10.2.2.0/24"), Some(Located::Any)),
    ] {
        merge.apply(&name("b"), event).unwrap();
        let found = merge.take_deltas().into_iter().find_map(|delta| match delta {
            Delta::Located { id, addresses } => Some((id, addresses)),
            _ => None,
        });
        assert_eq!(found, expected.map(|addresses| (id(2), addresses)));
    }
}

#[test]
fn the_local_clusters_pods_are_known_by_name() {
    let mut merge = merge();
    let pod = |node: &str, identity| LocalPod {
        namespace: "shop".into(),
        name: "p".into(),
        node: node.into(),
        identity,
        ..LocalPod::default()
    };
    let upsert = |pod: &LocalPod| RecordEvent::Upsert(Record::Pod(Box::new(pod.clone())));
    let removed = |node: &str| {
        let (node, namespace, name) = (node.into(), "shop".into(), "p".into());
        RecordEvent::Remove(RecordKey::Pod { node, namespace, name })
    };
    let (without_identity, with_identity) =
        (pod("n1", None), pod("n1", Some(Identity::new(65_540))));
    let local = name("a");
    merge.apply(&local, upsert(&without_identity)).unwrap();
    merge.apply(&local, upsert(&without_identity)).unwrap();
    assert_eq!(deltas(&mut merge), ["pod shop/p"], "what is reported again wakes no reader");
    merge.apply(&local, upsert(&with_identity)).unwrap();
    assert_eq!(deltas(&mut merge), ["pod shop/p"]);
    assert_eq!(merge.local_pod("shop", "p"), Some(&with_identity));
    assert_eq!(merge.local_pod("shop", "q"), None);
    assert_eq!(merge.counts(&local).pods, 1);

    // It moved: the end of the old key is not the pod's.
    merge.apply(&local, upsert(&pod("n2", None))).unwrap();
    merge.apply(&local, removed("n1")).unwrap();
    assert_eq!(merge.local_pod("shop", "p"), Some(&pod("n2", None)));
    merge.apply(&local, removed("n2")).unwrap();
    assert_eq!(merge.local_pod("shop", "p"), None);
    assert_eq!(deltas(&mut merge), ["pod shop/p", "pod shop/p"]);

    // A list without it takes it away, one with it does not.
    merge.apply(&local, upsert(&with_identity)).unwrap();
    merge.apply(&local, RecordEvent::Begin(RecordKind::Pod)).unwrap();
    merge
        .apply(&local, RecordEvent::Keep(Record::Pod(Box::new(with_identity.clone())).key()))
        .unwrap();
    merge.apply(&local, RecordEvent::Confirmed(RecordKind::Pod)).unwrap();
    assert_eq!(merge.local_pods().count(), 1);
    merge.apply(&local, RecordEvent::Begin(RecordKind::Pod)).unwrap();
    merge.apply(&local, RecordEvent::Confirmed(RecordKind::Pod)).unwrap();
    assert_eq!(merge.local_pod("shop", "p"), None);

    // No other cluster has any here.
    merge.apply(&name("b"), upsert(&with_identity)).unwrap();
    assert_eq!(merge.counts(&name("b")).pods, 0);
}

#[test]
fn the_local_clusters_namespaces_are_known_by_name() {
    let mut merge = merge();
    let local = name("a");
    let shop = LocalNamespace { name: "shop".into(), global: true, ..LocalNamespace::default() };
    merge.apply(&local, RecordEvent::Upsert(Record::Namespace(Box::new(shop.clone())))).unwrap();
    assert_eq!(merge.local_namespace("shop"), Some(&shop));
    merge.apply(&local, RecordEvent::Remove(RecordKey::Namespace("shop".into()))).unwrap();
    assert_eq!(merge.local_namespace("shop"), None);
}

#[test]
fn the_local_clusters_policies_are_known_by_name() {
    let mut merge = merge();
    let local = name("a");
    let policy = |name: &str, json: &str| LocalPolicy {
        reference: PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: "shop".into(),
            name: name.into(),
        },
        json: json.into(),
        refused: Vec::new(),
    };
    let set = |policy: &LocalPolicy| RecordEvent::Upsert(Record::Policy(Box::new(policy.clone())));
    let (first, second) = (policy("deny", "{}"), policy("deny", r#"{"spec":{}}"#));
    let other = policy("allow", "{}");
    merge.apply(&local, set(&first)).unwrap();
    merge.apply(&local, set(&first)).unwrap();
    assert_eq!(deltas(&mut merge), ["policy shop/deny"], "once");
    merge.apply(&local, set(&second)).unwrap();
    merge.apply(&local, set(&other)).unwrap();
    assert_eq!(deltas(&mut merge), ["policy shop/deny", "policy shop/allow"]);
    assert_eq!(merge.local_policy(&second.reference), Some(&second));
    assert_eq!(merge.local_policies().collect::<Vec<_>>(), [&other, &second]);

    // What a list does not have is gone.
    merge.apply(&local, RecordEvent::Begin(RecordKind::Policy)).unwrap();
    merge.apply(&local, set(&second)).unwrap();
    merge.apply(&local, RecordEvent::Confirmed(RecordKind::Policy)).unwrap();
    let said = deltas(&mut merge);
    assert_eq!(
        said.iter().filter(|said| said.starts_with("policy")).collect::<Vec<_>>(),
        ["policy shop/allow"]
    );
    merge.apply(&local, RecordEvent::Remove(RecordKey::Policy(second.reference.clone()))).unwrap();
    assert_eq!(deltas(&mut merge), ["policy shop/deny"]);
    assert_eq!(merge.local_policies().count(), 0);

    // Another cluster's are never taken.
    merge.apply(&name("b"), set(&first)).unwrap();
    assert_eq!((deltas(&mut merge).len(), merge.local_policies().count()), (0, 0));
}

#[test]
fn backends_of_all_clusters_meet_under_our_frontend() {
    let mut merge = merge();
    merge.apply(&name("b"), service("b", "web", Some(7), &[1])).unwrap();
    assert_eq!(deltas(&mut merge), ["+web 10.2.1.1"], "their frontends are not ours");
    merge.apply(&name("a"), service("a", "web", Some(10), &[1, 2])).unwrap();
    assert_eq!(
        deltas(&mut merge),
        ["set web", "+web 10.101.0.10:80/TCP", "+web 10.1.1.1", "+web 10.1.1.2"]
    );
    let all = merge.backends_of(&ServiceName::new("shop", "web")).count();
    assert_eq!(all, 3);

    merge.apply(&name("b"), service("b", "web", None, &[2])).unwrap();
    assert_eq!(
        deltas(&mut merge),
        ["+web 10.2.1.2", "-web 10.2.1.1"],
        "what comes before what goes"
    );
    merge.apply(&name("b"), service("b", "web", None, &[2])).unwrap();
    assert!(deltas(&mut merge).is_empty());
    merge.remove_peer(&name("b"));
    assert_eq!(deltas(&mut merge), ["-web 10.2.1.2"]);
    let key = RecordKey::Service(ServiceName::new("shop", "web"));
    merge.apply(&name("a"), RecordEvent::Remove(key)).unwrap();
    assert_eq!(
        deltas(&mut merge),
        ["-web 10.1.1.1", "-web 10.1.1.2", "-web 10.101.0.10:80/TCP", "unset web"]
    );
}

#[test]
fn a_withheld_service_has_no_backends() {
    let mut merge = merge();
    let RecordEvent::Upsert(Record::Service(mut record)) = service("b", "web", None, &[1]) else {
        panic!()
    };
    record.shared = false;
    merge.apply(&name("b"), RecordEvent::Upsert(Record::Service(record))).unwrap();
    assert!(deltas(&mut merge).is_empty());
}

#[test]
fn a_refused_record_changes_nothing_and_stays_in_a_listing() {
    let mut merge = merge();
    merge.apply(&name("b"), service("b", "web", None, &[1])).unwrap();
    deltas(&mut merge);
    merge.apply(&name("b"), RecordEvent::Begin(RecordKind::Service)).unwrap();
    let RecordEvent::Upsert(Record::Service(mut record)) = service("b", "web", None, &[1]) else {
        panic!()
    };
    let stolen = record.backends.pop_first().unwrap().1;
    record.backends.insert("10.3.1.1".parse().unwrap(), stolen);
    let refused =
        merge.apply(&name("b"), RecordEvent::Upsert(Record::Service(record))).unwrap_err();
    assert!(refused.to_string().contains("service shop/web: 10.3.1.1/32 is outside"), "{refused}");
    merge.apply(&name("b"), RecordEvent::Confirmed(RecordKind::Service)).unwrap();
    assert_eq!(deltas(&mut merge), ["b confirmed Service"]);
    assert!(merge.is_confirmed(&name("b"), RecordKind::Service));
}

#[test]
fn what_a_list_does_not_have_is_gone() {
    let mut merge = merge();
    merge.apply(&name("b"), service("b", "web", None, &[1])).unwrap();
    merge.apply(&name("b"), service("b", "db", None, &[2])).unwrap();
    merge.apply(&name("b"), node("b", "n1", "10.2.1.0/24")).unwrap();
    merge.apply(&name("b"), node("b", "n2", "10.2.2.0/24")).unwrap();
    assert_eq!(
        deltas(&mut merge)[2..],
        ["+10.2.1.0/24 via 172.31.2.1", "+10.2.2.0/24 via 172.31.2.1"]
    );
    for kind in [RecordKind::Service, RecordKind::Node] {
        merge.apply(&name("b"), RecordEvent::Begin(kind)).unwrap();
    }
    merge.apply(&name("b"), service("b", "db", None, &[2])).unwrap();
    merge.apply(&name("b"), node("b", "n2", "10.2.3.0/24")).unwrap();
    // Its node is known by now, and is reported.
    assert_eq!(
        deltas(&mut merge),
        ["+db 10.2.1.2", "-10.2.2.0/24 via 172.31.2.1", "+10.2.3.0/24 via 172.31.2.1"]
    );
    for kind in [RecordKind::Service, RecordKind::Node] {
        merge.apply(&name("b"), RecordEvent::Confirmed(kind)).unwrap();
    }
    assert_eq!(
        deltas(&mut merge),
        [
            "-web 10.2.1.1",
            "b confirmed Service",
            "-10.2.1.0/24 via 172.31.2.1",
            "+db 10.2.1.2",
            "b confirmed Node"
        ],
        "db's backend has lost its node"
    );
}

#[test]
fn an_id_is_one_clusters() {
    let mut merge = merge();
    assert_eq!(merge.set_id(&name("c"), id(2)), Err(IdInUse { id: id(2), other: name("b") }));
    merge.apply(&name("b"), service("b", "web", None, &[1])).unwrap();
    deltas(&mut merge);
    merge.set_id(&name("b"), id(4)).unwrap();
    assert_eq!(deltas(&mut merge), ["-web 10.2.1.1"]);
    merge.set_id(&name("c"), id(2)).unwrap();
}

#[test]
fn a_peer_with_the_id_of_another_is_refused() {
    let mut merge = merge();
    merge.apply(&name("b"), service("b", "web", None, &[1])).unwrap();
    let _ = merge.take_deltas();
    // The config and what follows it may come in one batch.
    merge.set_id(&name("b"), id(3)).unwrap_err();
    merge.apply(&name("b"), RecordEvent::Begin(RecordKind::Service)).unwrap();
    merge.apply(&name("b"), service("b", "web", None, &[2])).unwrap();
    merge.apply(&name("b"), RecordEvent::Confirmed(RecordKind::Service)).unwrap();
    assert!(deltas(&mut merge).is_empty(), "what it reported before stays");
    merge.set_id(&name("b"), id(2)).unwrap();
    merge.apply(&name("b"), service("b", "web", None, &[2])).unwrap();
    assert_eq!(deltas(&mut merge), ["+web 10.2.1.2", "-web 10.2.1.1"]);
}

#[test]
fn a_smaller_grant_takes_back_what_it_no_longer_covers() {
    let mut merge = merge();
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    merge.apply(&name("b"), service("b", "web", None, &[1, 200])).unwrap();
    merge.apply(&name("b"), service("b", "shop", None, &[1])).unwrap();
    merge.apply(&name("b"), node("b", "n1", "10.2.1.0/24")).unwrap();
    let _ = merge.take_deltas();
    let claims = |pods: &str, nodes: &str| {
        let (pod_cidrs, node_cidrs) = (vec![net(pods)], vec![net(nodes)]);
        Some(Claims { pod_cidrs, node_cidrs, ..Claims::default() })
    };
    merge.set_peer(&name("b"), claims("10.2.0.0/16", "172.31.2.0/25"));
    assert!(deltas(&mut merge).is_empty(), "it covers all of it");
    merge.set_peer(&name("b"), claims("10.2.1.0/25", "172.31.2.0/25"));
    assert_eq!(
        deltas(&mut merge),
        ["-web 10.2.1.1", "-web 10.2.1.200", "-10.2.1.0/24 via 172.31.2.1"],
        "a record is taken as a whole"
    );
    merge.apply(&name("b"), service("b", "web", None, &[1, 200])).unwrap_err();
}

#[test]
fn two_services_with_one_frontend() {
    let mut merge = merge();
    merge.apply(&name("a"), service("a", "one", Some(10), &[1])).unwrap();
    merge.apply(&name("a"), service("a", "two", Some(10), &[2])).unwrap();
    assert_eq!(
        deltas(&mut merge),
        ["set one", "+one 10.101.0.10:80/TCP", "+one 10.1.1.1", "set two", "+two 10.1.1.2"]
    );
    merge.apply(&name("a"), service("a", "one", None, &[])).unwrap();
    assert_eq!(
        deltas(&mut merge),
        ["-one 10.1.1.1", "-one 10.101.0.10:80/TCP", "+two 10.101.0.10:80/TCP", "unset one"]
    );
}

#[test]
fn an_address_has_only_an_identity_that_its_cluster_may_give() {
    let mut merge = merge();
    let address = |ip: &str, identity, host: &str| {
        RecordEvent::Upsert(Record::Address(Box::new(EndpointAddress {
            net: ip.parse().unwrap(),
            host: Some(host.parse().unwrap()),
            identity: Identity::new(identity),
            encryption_key: 0,
            metadata: String::new(),
            namespace: String::new(),
            pod: String::new(),
            service_account: String::new(),
            named_ports: Vec::new(),
        })))
    };
    merge.apply(&name("b"), node("b", "n1", "10.2.1.0/24")).unwrap();
    for (ip, reported, kept) in [
        ("10.2.1.1/32", 131_073, 131_073),
        ("10.2.1.2/32", 0, 0),
        ("10.2.1.3/32", 2, 0),
        ("10.2.1.4/32", 255, 0),
        ("172.31.2.1/32", 1, 6),
        ("172.31.2.2/32", 6, 6),
    ] {
        merge.apply(&name("b"), address(ip, reported, "172.31.2.1")).unwrap();
        let found = merge.identity_of(&name("b"), ip.parse().unwrap());
        assert_eq!(found, Some(Identity::new(kept)), "{ip}");
    }
    assert_eq!(merge.counts(&name("b")), Counts { nodes: 1, addresses: 6, ..Counts::default() });
    assert_eq!(merge.node_of(id(2), "10.2.1.1".parse().unwrap()), Some("n1"));
    assert_eq!(merge.node_of(id(2), "10.2.1.9".parse().unwrap()), Some("n1"), "its range");
    assert_eq!(merge.node_of(id(2), "10.2.9.9".parse().unwrap()), None);
    // A million of these have to fit.
    assert_eq!(size_of::<AddressEntry>(), 12);
}

/// What the previous run knew fills the same tables, is swept by a list, and expires without one.
#[test]
fn state_of_the_previous_run_is_valid_until_it_is_reported_again() {
    let peer = name("b");
    let mut before = merge();
    before.apply(&peer, service("b", "web", Some(7), &[1, 2])).unwrap();
    assert_eq!(before.records(&peer), None, "not all was reported");
    for kind in [RecordKind::Node, RecordKind::Service] {
        before.apply(&peer, RecordEvent::Begin(kind)).unwrap();
        before.apply(&peer, node("b", "n1", "10.2.1.0/24")).unwrap();
        before.apply(&peer, service("b", "web", Some(7), &[1, 2])).unwrap();
        before.apply(&peer, RecordEvent::Confirmed(kind)).unwrap();
    }
    let filled = ["+10.2.1.0/24 via 172.31.2.1", "+web 10.2.1.1", "+web 10.2.1.2"];
    let (number, records) = before.records(&peer).unwrap();
    assert_eq!((number, records.len()), (id(2), 2));

    let remembered = || {
        let mut merge = merge();
        merge.set_id(&peer, id(9)).unwrap();
        assert_eq!(
            merge.remember(&peer, id(2), records.clone(), KnownIdentities::default()),
            Ok(vec![]),
            "it has spoken"
        );
        assert!(deltas(&mut merge).is_empty());
        let claims = merge.grants[&peer].clone();
        merge.remove_peer(&peer);
        merge.set_peer(&peer, Some(claims));
        assert!(
            merge.remember(&peer, id(3), records.clone(), KnownIdentities::default()).is_err(),
            "its ID is another's"
        );
        let foreign = node("b", "n2", "10.3.1.0/24");
        let RecordEvent::Upsert(foreign) = foreign else { panic!("a node") };
        let all = [records.clone(), vec![foreign]].concat();
        assert_eq!(
            merge.remember(&peer, id(2), all, KnownIdentities::default()).unwrap().len(),
            1,
            "beyond its grant"
        );
        assert_eq!(deltas(&mut merge), filled);
        assert!(!merge.is_confirmed(&peer, RecordKind::Service));
        merge
    };
    let mut merge = remembered();
    merge.apply(&peer, RecordEvent::Begin(RecordKind::Service)).unwrap();
    merge.apply(&peer, service("b", "web", None, &[2])).unwrap();
    assert_eq!(deltas(&mut merge), ["-web 10.2.1.1"]);
    merge.apply(&peer, service("b", "db", None, &[3])).unwrap();
    merge.apply(&peer, RecordEvent::Confirmed(RecordKind::Service)).unwrap();
    assert_eq!(deltas(&mut merge), ["+db 10.2.1.3", "b confirmed Service"]);
    assert_eq!(merge.expire(&peer), Expired::Something);
    assert_eq!(deltas(&mut merge), ["-10.2.1.0/24 via 172.31.2.1"], "what was reported stays");
    assert_eq!(merge.expire(&peer), Expired::Nothing);

    let mut merge = remembered();
    assert_eq!(merge.expire(&peer), Expired::Something);
    assert_eq!(merge.counts(&peer), Counts::default());
    assert!(merge.set_id(&name("c"), id(2)).is_ok(), "its ID is free");
}

/// A peer whose lists are never confirmed does not get room for each of them.
#[test]
fn lists_that_were_not_confirmed_count_as_they_are_kept() {
    let peer = name("b");
    let mut merge = merge();
    let list = |merge: &mut Merge, names: std::ops::Range<u32>| {
        for kind in [RecordKind::Service, RecordKind::Address, RecordKind::Identity] {
            merge.apply(&peer, RecordEvent::Begin(kind)).unwrap();
        }
        for n in names {
            merge.apply(&peer, service("b", &format!("s{n}"), None, &[1])).unwrap();
            merge.apply(&peer, service("b", &format!("s{n}"), None, &[1, 2])).unwrap();
            let ip = format!("10.2.{}.{}/32", n / 200, n % 200);
            merge.apply(&peer, orders::address(&ip, 131_073)).unwrap();
            let labels = Labels::parse(&format!("k8s:app={n};"));
            let identity = Record::Identity(Identity::new(131_100 + n), labels);
            merge.apply(&peer, RecordEvent::Upsert(identity)).unwrap();
        }
        merge.kept(&peer)
    };
    let first = list(&mut merge, 0..100);
    assert_eq!(first.keys, 300);
    // The same once more is no more.
    assert_eq!(list(&mut merge, 0..100), first);
    for generation in 1..10 {
        let kept = list(&mut merge, generation * 100..(generation + 1) * 100);
        assert_eq!(kept.keys, 300 * u64::from(generation + 1));
        assert!(kept.bytes > first.bytes * u64::from(generation), "{kept:?} after {first:?}");
    }
    // Nor does a refused or rejected record count twice.
    merge
        .apply(&peer, RecordEvent::Keep(RecordKey::Service(ServiceName::new("shop", "s905"))))
        .unwrap();
    assert_eq!(merge.kept(&peer).keys, 3_000);
    for kind in [RecordKind::Service, RecordKind::Address, RecordKind::Identity] {
        merge.apply(&peer, RecordEvent::Confirmed(kind)).unwrap();
    }
    let kept = merge.kept(&peer);
    assert_eq!(kept.keys, 300);
    assert!(kept.bytes < 2 * first.bytes, "{kept:?} after {first:?}");
    merge.remove_peer(&peer);
    merge.set_peer(&peer, None);
    assert_eq!(merge.kept(&peer), Tally::default());
}

/// A peer that an operator admits again is not counted by its former records: its kinds are listed one after the other.
#[test]
fn what_is_asked_for_anew_counts_for_nothing_until_it_comes() {
    let peer = name("b");
    let mut merge = merge();
    for kind in [RecordKind::Node, RecordKind::Service] {
        merge.apply(&peer, RecordEvent::Begin(kind)).unwrap();
    }
    merge.apply(&peer, node("b", "n1", "10.2.1.0/24")).unwrap();
    merge.apply(&peer, service("b", "web", None, &[1])).unwrap();
    merge.apply(&peer, service("b", "db", None, &[1])).unwrap();
    assert_eq!(merge.kept(&peer).keys, 3);
    let _ = merge.take_deltas();
    merge.begin_again(&peer);
    assert_eq!((merge.kept(&peer).keys, deltas(&mut merge).len()), (0, 0), "and nothing is gone");
    merge.apply(&peer, RecordEvent::Begin(RecordKind::Node)).unwrap();
    merge.apply(&peer, node("b", "n1", "10.2.1.0/24")).unwrap();
    assert_eq!((merge.kept(&peer).keys, merge.counts(&peer).services), (1, 2));
    // What is removed meanwhile was no longer counted.
    merge
        .apply(&peer, RecordEvent::Remove(RecordKey::Service(ServiceName::new("shop", "db"))))
        .unwrap();
    merge.apply(&peer, RecordEvent::Begin(RecordKind::Service)).unwrap();
    assert_eq!((merge.kept(&peer).keys, merge.counts(&peer).services), (1, 1));
    merge.apply(&peer, RecordEvent::Confirmed(RecordKind::Service)).unwrap();
    assert_eq!((merge.kept(&peer).keys, merge.counts(&peer).services), (1, 0));
    // From then on all counts again.
    merge.apply(&peer, RecordEvent::Begin(RecordKind::Node)).unwrap();
    merge.apply(&peer, node("b", "n2", "10.2.2.0/24")).unwrap();
    assert_eq!(merge.kept(&peer).keys, 2);
}

#[test]
fn without_a_grant_there_are_no_routes() {
    let mut merge = merge();
    let peer = name("b");
    merge.set_peer(&peer, None);
    merge.apply(&peer, node("b", "n1", "8.8.8.0/24")).unwrap();
    merge.apply(&peer, node("b", "n2", "10.2.2.0/24")).unwrap();
    merge.apply(&peer, service("b", "web", None, &[1])).unwrap();
    assert_eq!(deltas(&mut merge), ["+web 10.2.1.1"], "its services are taken");
    let missing: Vec<String> = merge.missing_grants().map(|missing| missing.to_string()).collect();
    assert_eq!(
        missing,
        [
            r#"b: no routes to its pods: its peer file lacks `podCIDRs`, which says where they may be. Its nodes have these: if that is right, add `clustermesh: {podCIDRs: ["8.8.8.0/24", "10.2.2.0/24"], nodeCIDRs: ["172.31.2.1/32"]}`"#
        ]
    );
    // With the line there are, and what it does not cover goes.
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let claims = |pods: &[&str]| Claims {
        pod_cidrs: pods.iter().map(|pods| net(pods)).collect(),
        node_cidrs: vec![net("172.31.2.0/24")],
        ..Claims::default()
    };
    merge.set_peer(&peer, Some(claims(&["10.2.0.0/16"])));
    let now = deltas(&mut merge);
    assert!(now.contains(&"+10.2.2.0/24 via 172.31.2.1".into()), "{now:?}");
    let of_google = now.iter().filter(|delta| delta.contains("8.8.8.0"));
    let of_google: Vec<&str> = of_google.map(|delta| delta.split(' ').next().unwrap()).collect();
    assert!(of_google.is_empty() || of_google == ["+8.8.8.0/24", "-8.8.8.0/24"], "{now:?}");
    assert_eq!(merge.missing_grants().count(), 0);
    // Without it there are none again.
    merge.set_peer(&peer, None);
    assert_eq!(deltas(&mut merge), ["-10.2.2.0/24 via 172.31.2.1"]);
    // A grant that names no ranges for pods is as good as none.
    merge.set_peer(&peer, Some(claims(&[])));
    let missing = merge.missing_grants().next().unwrap().to_string();
    assert!(missing.contains("Add `clustermesh: {podCIDRs: […], nodeCIDRs: […]}`"), "{missing}");
    // Long lists are cut.
    merge.set_peer(&peer, None);
    for n in 0..20 {
        merge.apply(&peer, node("b", &format!("m{n}"), &format!("10.2.{}.0/24", 2 * n))).unwrap();
    }
    let missing = merge.missing_grants().next().unwrap();
    assert_eq!((missing.pods.len(), missing.more), (8, 12));
    assert!(missing.to_string().contains("these, and 12 more"), "{missing}");
}

/// A peer that moves one address from host to host forever keeps a bounded number of hosts here.
#[test]
fn hosts_that_no_address_is_on_are_forgotten() {
    let mut merge = merge();
    for n in 0..10_000_u32 {
        let reported = orders::address("10.2.1.1/32", 131_073);
        let RecordEvent::Upsert(Record::Address(mut address)) = reported else {
            panic!("an address")
        };
        address.host = Some(IpAddr::from(n.to_be_bytes()));
        merge.apply(&name("b"), RecordEvent::Upsert(Record::Address(address))).unwrap();
    }
    assert!(merge.clusters[&name("b")].hosts() < 2_000);
    merge.apply(&name("b"), node("b", "n1", "10.2.1.0/24")).unwrap();
    let reported = orders::address("10.2.1.2/32", 131_073);
    let RecordEvent::Upsert(Record::Address(mut address)) = reported else { panic!("an address") };
    address.host = Some(IpAddr::from([172, 31, 2, 1]));
    merge.apply(&name("b"), RecordEvent::Upsert(Record::Address(address))).unwrap();
    assert_eq!(merge.node_of(id(2), "10.2.1.2".parse().unwrap()), Some("n1"));
}
