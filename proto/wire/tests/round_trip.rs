//! Any valid record is the same after it is encoded and decoded.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use mesh_model::{
    AddressKind, Affinity, ClusterConfig, ClusterId, ClusterLimit, ClusterName, EndpointAddress,
    EndpointSlice, ExportMode, GlobalService, Identity, Label, Labels, LocalNamespace, LocalPod,
    LocalPolicy, LocalService, NamedPort, Node, NodeAddress, PolicyKind, PolicyRef, Port, PortMap,
    Protocol, Record, Refusal, RefusalClass, ServiceName, ServiceTraffic, SliceEndpoint, WeightsOf,
    node::FamilyPair,
    service::{SERVICE_NAME_LABEL, SlicePort, Zone},
};
use mesh_wire::{Key, Layout, Peer, Role, cluster_config, decode, encode};
use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    sample::select,
};
use serde_json::json;
use uuid::Uuid;

fn alpha(layout: Layout) -> Peer {
    Peer {
        name: ClusterName::new("alpha").unwrap(),
        role: Role::Local,
        id: ClusterId::new(7, ClusterLimit::Max255).unwrap(),
        limit: ClusterLimit::Max255,
        layout,
    }
}

prop_compose! {
    fn v4()(bits: u32) -> IpAddr { Ipv4Addr::from(bits).into() }
}

prop_compose! {
    /// Without IPv4-mapped addresses, which are encoded and decoded as IPv4.
    fn v6()(bits in 1u128 << 96..) -> IpAddr { Ipv6Addr::from(bits).into() }
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![v4(), v6()]
}

fn net(address: impl Strategy<Value = IpAddr>) -> impl Strategy<Value = IpNet> {
    (address, 0u8..=128).prop_map(|(ip, length)| {
        IpNet::new(ip, length.min(if ip.is_ipv4() { 32 } else { 128 })).unwrap().trunc()
    })
}

/// Any text, also with characters that need escapes.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[ -~]{0,12}",
        "\\PC{0,6}",
        "[<>&\u{2028}\u{2029}\u{0}-\u{1f}]{0,4}"
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?"
}

fn texts() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..4)
}

fn port() -> impl Strategy<Value = Port> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (protocol, any::<u16>()).prop_map(|(protocol, number)| Port { protocol, number })
}

fn identity() -> impl Strategy<Value = Identity> {
    (458_752u32..=524_287).prop_map(Identity::new)
}

fn node() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![
        Just(AddressKind::Internal),
        Just(AddressKind::External),
        Just(AddressKind::CiliumInternal)
    ];
    let addresses = vec((kind, ip()).prop_map(|(kind, ip)| NodeAddress { kind, ip }), 0..4);
    let pair = || (option::of(v4()), option::of(v6())).prop_map(|(v4, v6)| FamilyPair { v4, v6 });
    // On the wire the families are separate, so IPv4 comes first.
    let cidrs = (vec(net(v4()), 0..3), vec(net(v6()), 0..3)).prop_map(|(v4, v6)| [v4, v6].concat());
    (
        (name(), addresses, cidrs, pair(), pair()),
        (any::<u8>(), texts(), texts(), text(), text(), text()),
    )
        .prop_map(|((name, addresses, pod_cidrs, health_ips, ingress_ips), rest)| {
            let (encryption_key, labels, annotations, source, wireguard_public_key, boot_id) = rest;
            let Peer { name: cluster, id: cluster_id, .. } = alpha(Layout::State);
            Record::Node(Box::new(Node {
                name,
                cluster,
                cluster_id,
                addresses,
                pod_cidrs,
                health_ips,
                ingress_ips,
                source,
                encryption_key,
                labels,
                annotations,
                wireguard_public_key,
                boot_id,
            }))
        })
}

fn named_ports() -> impl Strategy<Value = Vec<NamedPort>> {
    vec((text(), port()).prop_map(|(name, port)| NamedPort { name, port }), 0..3)
}

fn address() -> impl Strategy<Value = Record> {
    let ports = named_ports();
    let who = prop_oneof![identity(), (0u32..256).prop_map(Identity::new)];
    ((net(ip()), option::of(ip()), who, any::<u8>()), (text(), text(), text(), text(), ports))
        .prop_map(|((net, host, identity, encryption_key), rest)| {
            let (metadata, namespace, pod, service_account, named_ports) = rest;
            Record::Address(Box::new(EndpointAddress {
                net,
                host,
                identity,
                encryption_key,
                metadata,
                namespace,
                pod,
                service_account,
                named_ports,
            }))
        })
}

fn identity_record() -> impl Strategy<Value = Record> {
    let label = ("[a-zA-Z0-9./-]{1,12}", "[^;]{0,12}").prop_map(|(k, v)| Label::kubernetes(k, v));
    (identity(), vec(label, 0..6)).prop_map(|(identity, labels)| {
        let cluster = Label::kubernetes(mesh_model::identity::CLUSTER_LABEL, "alpha");
        Record::Identity(identity, labels.into_iter().chain([cluster]).collect::<Labels>())
    })
}

fn service() -> impl Strategy<Value = Record> {
    let ports = || btree_map(text(), port(), 0..3);
    let addresses = move || -> BoxedStrategy<BTreeMap<IpAddr, PortMap>> {
        btree_map(ip(), ports(), 0..4).boxed()
    };
    let zone = (text(), vec(text(), 0..3)).prop_map(|(zone, for_zones)| Zone { zone, for_zones });
    (
        (name(), name(), addresses(), addresses(), btree_map(ip(), text(), 0..3)),
        (btree_map(ip(), zone, 0..3), texts(), texts(), any::<bool>(), any::<bool>()),
    )
        .prop_map(|((namespace, name, frontends, backends, hostnames), rest)| {
            let (zones, labels, selector, include_external, shared) = rest;
            let Peer { name: cluster, id: cluster_id, .. } = alpha(Layout::State);
            let name = ServiceName::new(&namespace, &name);
            Record::Service(Box::new(GlobalService {
                cluster,
                cluster_id,
                name,
                frontends,
                backends,
                hostnames,
                zones,
                labels,
                selector,
                include_external,
                shared,
            }))
        })
}

fn slice() -> impl Strategy<Value = Record> {
    let endpoint = (
        vec(v4(), 0..3),
        any::<[Option<bool>; 3]>(),
        option::of(text()),
        option::of(text()),
        option::of(text()),
        vec(text(), 0..2),
    )
        .prop_map(
            |(addresses, [ready, serving, terminating], hostname, node, zone, for_zones)| {
                SliceEndpoint {
                    addresses: addresses.iter().map(ToString::to_string).collect(),
                    ready,
                    serving,
                    terminating,
                    hostname,
                    node,
                    zone,
                    for_zones,
                    for_nodes: Vec::new(),
                }
            },
        );
    let port = (option::of(text()), option::of(text()), any::<Option<i32>>(), option::of(text()))
        .prop_map(|(name, protocol, number, app_protocol)| SlicePort {
            name,
            protocol,
            number,
            app_protocol,
        });
    (name(), name(), texts(), texts(), vec(endpoint, 0..5), vec(port, 0..3)).prop_map(
        |(namespace, name, labels, annotations, endpoints, ports)| {
            Record::EndpointSlice(Box::new(EndpointSlice {
                cluster: "alpha".into(),
                cluster_id: alpha(Layout::State).id,
                namespace,
                name,
                labels,
                annotations,
                address_type: "IPv4".into(),
                endpoints,
                ports,
            }))
        },
    )
}

fn local_namespace() -> impl Strategy<Value = Record> {
    (name(), texts(), any::<bool>()).prop_map(|(name, labels, global)| {
        Record::Namespace(Box::new(LocalNamespace { name, labels, global }))
    })
}

fn local_pod() -> impl Strategy<Value = Record> {
    (
        (name(), name(), name(), text()),
        option::of(identity()),
        vec(ip(), 0..3),
        (any::<bool>(), named_ports()),
    )
        .prop_map(|((namespace, name, node, uid), identity, ips, (socket_lb, named_ports))| {
            let pod =
                LocalPod { namespace, name, node, uid, identity, ips, socket_lb, named_ports };
            Record::Pod(Box::new(pod))
        })
}

fn clusters(from: &'static str) -> impl Strategy<Value = BTreeSet<ClusterName>> {
    btree_set(from, 1..3)
        .prop_map(|names| names.iter().map(|name| ClusterName::new(name).unwrap()).collect())
}

fn local_service() -> impl Strategy<Value = Record> {
    let affinity = prop_oneof![Just(Affinity::None), Just(Affinity::Local), Just(Affinity::Remote)];
    // A cluster must not be in two tiers.
    let tiers = prop_oneof![
        Just(Vec::new()),
        (clusters("[a-m]{1,3}"), clusters("[n-z]{1,3}")).prop_map(|(a, b)| vec![a, b])
    ];
    let weights_of = prop_oneof![Just(WeightsOf::Backends), Just(WeightsOf::Clusters)];
    let weights = (clusters("[a-z]{1,3}"), vec(0u32..=65_535, 3))
        .prop_map(|(names, weights)| names.into_iter().zip(weights).collect());
    (
        (name(), name(), vec(ip(), 0..3), btree_map(text(), port(), 0..3)),
        (affinity, option::of(1u32..=86_400), (weights, weights_of), tiers, option::of(1u8..=100)),
        any::<[bool; 7]>(),
    )
        .prop_map(|((namespace, name, cluster_ips, ports), traffic, flags)| {
            let (affinity, session_affinity, (weights, weights_of), tiers, minimum_healthy) =
                traffic;
            let [
                global,
                shared,
                not_ready,
                internal_traffic_local,
                topology_hints,
                foreign_proxy,
                outside,
            ] = flags;
            Record::LocalService(Box::new(LocalService {
                name: ServiceName::new(&namespace, &name),
                cluster_ips,
                ports,
                traffic: ServiceTraffic {
                    global,
                    affinity,
                    session_affinity,
                    weights,
                    weights_of,
                    tiers,
                    minimum_healthy,
                    internal_traffic_local,
                    topology_hints,
                },
                shared: global && shared,
                publish_not_ready_addresses: not_ready,
                foreign_proxy,
                outside_addresses: outside,
            }))
        })
}

/// Slices for local nodes have no annotations, and of the labels only the name of the service.
fn local_slice() -> impl Strategy<Value = Record> {
    (slice(), name(), vec(text(), 0..2)).prop_map(|(record, service, for_nodes)| {
        let Record::EndpointSlice(mut slice) = record else { unreachable!() };
        slice.endpoints.iter_mut().take(1).for_each(|e| e.for_nodes.clone_from(&for_nodes));
        slice.annotations.clear();
        slice.labels = [(SERVICE_NAME_LABEL.into(), service)].into();
        Record::LocalEndpointSlice(slice)
    })
}

fn local_policy() -> impl Strategy<Value = Record> {
    let refusal = (text(), text(), select(RefusalClass::ALL.as_slice()));
    let refusal = refusal.prop_map(|(field, reason, class)| Refusal { field, reason, class });
    (select(PolicyKind::ALL.as_slice()), name(), name(), text(), vec(refusal, 0..3)).prop_map(
        |(kind, namespace, name, spec, refused)| {
            let namespace = if kind.is_namespaced() { namespace } else { String::new() };
            let metadata = json!({ "name": name, "namespace": namespace });
            let object = json!({ "kind": kind.as_str(), "metadata": metadata, "spec": spec });
            let json = object.to_string().into();
            let reference = PolicyRef { kind, namespace, name };
            Record::Policy(Box::new(LocalPolicy { reference, json, refused }))
        },
    )
}

fn local_record() -> impl Strategy<Value = Record> {
    prop_oneof![local_namespace(), local_pod(), local_service(), local_slice(), local_policy()]
}

proptest! {
    /// Keys for local nodes are refused for other clusters, and ignored in a cache.
    #[test]
    fn local_records(record in local_record()) {
        let local = alpha(Layout::State);
        let key = Key::of_record(local.layout, &local.name, record.key());
        prop_assert_eq!(Key::parse(key.to_string().as_bytes()), Ok(key.clone()));
        let (key, value) = (key.to_string(), encode(&record));
        prop_assert_eq!(decode(&local, key.as_bytes(), &value).unwrap(), Some(record));
        prop_assert_eq!(decode(&alpha(Layout::Cache), key.as_bytes(), &value).unwrap(), None);
        let remote = Peer { role: Role::Remote, ..local };
        prop_assert!(decode(&remote, key.as_bytes(), &value).is_err());
    }

    #[test]
    fn records(record in prop_oneof![node(), address(), identity_record(), service(), slice()], cache: bool) {
        let peer = alpha(if cache { Layout::Cache } else { Layout::State });
        let key = Key::of_record(peer.layout, &peer.name, record.key()).to_string();
        let decoded = decode(&peer, key.as_bytes(), &encode(&record)).unwrap();
        prop_assert_eq!(decoded, Some(record));
    }

    #[test]
    fn cluster_configs(id in 0u32..=511, flags: [bool; 2], max in prop_oneof![Just(0u32), Just(255), any::<u32>()], exports: Option<bool>, mode in text(), uuid: Option<u128>) {
        let config = ClusterConfig {
            id: ClusterId::from_wire(id).unwrap(),
            synced_canaries: flags[0],
            cached: flags[1],
            max_connected_clusters: max,
            service_exports_enabled: exports,
            export_mode: ExportMode::from_word(&mode),
            uuid: uuid.map(Uuid::from_u128),
        };
        prop_assert_eq!(cluster_config::decode(&cluster_config::encode(&config)).unwrap(), config);
    }
}
