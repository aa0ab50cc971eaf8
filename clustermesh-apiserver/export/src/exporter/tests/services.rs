//! Services and slices, as local nodes and other clusters get them.

use std::collections::BTreeMap;

use mesh_model::{ClusterId, ClusterLimit, ClusterName, Record};
use mesh_wire::{Layout, Peer, Role};

use super::*;

const SLICE: &str = "endpointslices/v1/alpha/shop/web-1";

/// A slice as another cluster reads it.
pub(super) fn slice(cluster: &Cluster, key: &str) -> Option<mesh_model::EndpointSlice> {
    let key = format!("cilium/state/{key}");
    match read(&key, &cluster.exporter.value(&key)?) {
        Record::EndpointSlice(slice) => Some(*slice),
        other => panic!("{other:?}"),
    }
}

fn read(key: &str, value: &[u8]) -> Record {
    let limit = ClusterLimit::Max255;
    let peer = Peer {
        name: ClusterName::new("alpha").unwrap(),
        role: Role::Remote,
        id: ClusterId::new(7, limit).unwrap(),
        limit,
        layout: Layout::State,
    };
    mesh_wire::decode(&peer, key.as_bytes(), value).unwrap().unwrap()
}

#[test]
fn a_service_has_the_backends_of_its_slices() {
    let mut cluster = Cluster::new();
    let service = "services/v1/alpha/shop/web";
    let both = ["endpointslices/v1/alpha/shop/web-1", service];
    assert_eq!(cluster.apply(SERVICE), both);
    assert!(
        cluster
            .value(service)
            .unwrap()
            .contains(r#""backends":{"10.7.1.5":{"http":{"Protocol":"TCP","Port":8080}}}"#)
    );

    // An endpoint that is neither ready nor terminating is not a backend.
    let conditions = |text: &str| {
        SERVICE.replace(
            "{addresses: [10.7.1.5]}",
            &format!("{{addresses: [10.7.1.5], conditions: {text}}}"),
        )
    };
    assert_eq!(cluster.apply(&conditions("{ready: false, serving: false}")), both);
    assert!(cluster.value(service).unwrap().contains(r#""backends":{}"#));
    for unused in ["{ready: false}", "{ready: false, serving: true, terminating: false}"] {
        cluster.apply(&conditions(unused));
        assert!(cluster.value(service).unwrap().contains(r#""backends":{}"#), "{unused}");
    }
    assert_eq!(
        cluster.apply(&conditions("{ready: false, serving: true, terminating: true}")),
        both
    );
    assert!(cluster.value(service).unwrap().contains("10.7.1.5"));

    assert_eq!(cluster.delete(Kind::EndpointSlice, "shop", "web-1"), both);
    assert!(cluster.value(service).unwrap().contains(r#""backends":{}"#));
    assert_eq!(cluster.apply(&SERVICE.replace("'true'", "'false'")), [service]);
    assert_eq!(cluster.value(service), None);
    assert_eq!(cluster.apply(SERVICE), both);
    assert_eq!(cluster.delete(Kind::Service, "shop", "web"), both);
    assert!(cluster.local("services").is_empty() && cluster.local("endpointslices").is_empty());
}

#[test]
fn every_service_but_external_names_is_exported_for_local_nodes() {
    let mut cluster = Cluster::new();
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{{spec}}}\n"
        )
    };
    for (spec, exported) in [
        (
            "clusterIP: 10.97.0.1, ports: [{port: 80}]",
            r#""clusterIPs":["10.97.0.1"],"ports":{"":{"Protocol":"TCP","Port":80}},"global":false,"shared":false}"#,
        ),
        (
            "clusterIPs: [10.97.0.1, 'fd00::1'], ports: [{name: a, port: 80}, {name: b, port: 53, protocol: UDP}]",
            r#""clusterIPs":["10.97.0.1","fd00::1"],"ports":{"a":{"Protocol":"TCP","Port":80},"b":{"Protocol":"UDP","Port":53}},"global":false,"shared":false}"#,
        ),
        (
            "clusterIP: None, ports: [{port: 80}]",
            r#""clusterIPs":[],"ports":{"":{"Protocol":"TCP","Port":80}},"global":false,"shared":false}"#,
        ),
        (
            "clusterIP: 10.97.0.1, ports: [{port: 80}], sessionAffinity: ClientIP, publishNotReadyAddresses: true, internalTrafficPolicy: Local",
            r#""clusterIPs":["10.97.0.1"],"ports":{"":{"Protocol":"TCP","Port":80}},"global":false,"shared":false,"sessionAffinitySeconds":10800,"publishNotReadyAddresses":true,"internalTrafficLocal":true}"#,
        ),
        (
            "clusterIP: 10.97.0.1, ports: [{port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}",
            r#""clusterIPs":["10.97.0.1"],"ports":{"":{"Protocol":"TCP","Port":80}},"global":false,"shared":false,"sessionAffinitySeconds":7}"#,
        ),
        // Nodes' ports and addresses from outside lead to no backend of ours, and agents only learn that there are some.
        (
            "type: LoadBalancer, clusterIP: 10.97.0.1, externalIPs: [192.0.2.1], loadBalancerSourceRanges: [192.0.2.0/24], externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]",
            r#""clusterIPs":["10.97.0.1"],"ports":{"":{"Protocol":"TCP","Port":80}},"global":false,"shared":false,"outsideAddresses":true}"#,
        ),
        (
            "type: NodePort, clusterIP: 10.97.0.1, ports: [{port: 80, nodePort: 30080}]",
            r#""clusterIPs":["10.97.0.1"],"ports":{"":{"Protocol":"TCP","Port":80}},"global":false,"shared":false,"outsideAddresses":true}"#,
        ),
        (
            "type: ClusterIP, clusterIP: 10.97.0.1, externalIPs: [192.0.2.1], ports: [{port: 80}]",
            r#""clusterIPs":["10.97.0.1"],"ports":{"":{"Protocol":"TCP","Port":80}},"global":false,"shared":false,"outsideAddresses":true}"#,
        ),
        (
            "type: ClusterIP, clusterIP: 10.97.0.1, externalIPs: [], ports: [{port: 80}]",
            r#""clusterIPs":["10.97.0.1"],"ports":{"":{"Protocol":"TCP","Port":80}},"global":false,"shared":false}"#,
        ),
    ] {
        assert!(cluster.apply(&service(spec)).is_empty(), "others are not");
        let expected = format!(r#"shop/web {{"v":1,"namespace":"shop","name":"web",{exported}"#);
        assert_eq!(cluster.local("services"), [expected]);
    }
    let alias = service("type: ExternalName, externalName: example.org");
    let global = "namespace: shop, annotations: {service.cilium.io/global: 'true'}";
    for alias in [alias.replace("namespace: shop", global), alias] {
        cluster.apply(&alias);
        assert!(cluster.local("services").is_empty());
        assert_eq!(cluster.value("services/v1/alpha/shop/web"), None);
    }
}

#[test]
fn a_services_settings_are_exported_for_local_nodes() {
    let mut cluster = Cluster::new();
    let annotated = |more: &str| SERVICE.replace("'true'}", &format!("'true', {more}}}"));
    let exported = |cluster: &Cluster| {
        let exported = cluster.local("services").join("");
        exported.split_once(r#""global":"#).unwrap().1.to_owned()
    };
    for (annotations, asks) in [
        ("service.cilium.io/shared: 'false'", "true,\"shared\":false}"),
        ("service.cilium.io/affinity: remote", "true,\"shared\":true,\"affinity\":\"remote\"}"),
        (
            "clustermesh.dev/weights: 'beta=3,alpha=1', clustermesh.dev/tiers: 'beta;alpha', clustermesh.dev/minimum-healthy: 30%",
            r#"true,"shared":true,"weights":{"alpha":1,"beta":3},"weightsOf":"clusters","tiers":[["beta"],["alpha"]],"minimumHealthyPercent":30}"#,
        ),
    ] {
        cluster.apply(&annotated(annotations));
        assert_eq!(exported(&cluster), asks, "{annotations}");
    }
    // Not shared, but global: it uses the backends of other clusters.
    let withheld = annotated("service.cilium.io/shared: 'false'");
    cluster.apply(&withheld);
    assert_eq!(cluster.value("services/v1/alpha/shop/web"), None);
    assert_eq!(slice(&cluster, SLICE), None);
    cluster.apply(&withheld.replace(
        "metadata: {name: web, ",
        "metadata: {name: web, labels: {service.kubernetes.io/service-proxy-name: x}, ",
    ));
    assert_eq!(exported(&cluster), r#"true,"shared":false,"foreignProxy":true}"#);
}

#[test]
fn a_typo_in_an_annotation_is_reported_and_the_service_is_exported() {
    let mut cluster = Cluster::new();
    let typo = SERVICE.replace("'true'}", "'true', clustermesh.dev/weights: 'alpha=many'}");
    assert_eq!(cluster.apply(&typo), [SLICE, "services/v1/alpha/shop/web"]);
    let notes: Vec<String> = cluster.exporter.notes().values().flatten().cloned().collect();
    assert_eq!(
        notes,
        [r#"clustermesh.dev/weights: "many" is not a weight: it must be 0 to 65535"#]
    );
    assert!(cluster.exporter.problems().is_empty());
    cluster.apply(SERVICE);
    assert!(cluster.exporter.notes().is_empty());
}

#[test]
fn slices_are_exported_unchanged() {
    let mut cluster = Cluster::new();
    let hinted = |hints: &str| {
        let endpoints = format!(
            "endpoints: [{{addresses: [10.7.1.5], nodeName: n1, zone: z1, hints: {{{hints}}}}}, {{addresses: [10.7.1.6], conditions: {{ready: false, serving: false, terminating: true}}}}]"
        );
        SERVICE.replace("endpoints: [{addresses: [10.7.1.5]}]", &endpoints)
    };
    cluster.apply(&hinted("forZones: [{name: z1}]"));
    let changed = cluster.apply(&hinted("forZones: [{name: z1}], forNodes: [{name: n1}]"));
    assert!(changed.is_empty(), "another cluster may have a node of this name: {changed:?}");
    let exported = slice(&cluster, SLICE).unwrap();
    assert_eq!(exported.labels["kubernetes.io/service-name"], "web");
    let [ready, gone] = exported.endpoints.as_slice() else { panic!("{exported:?}") };
    assert_eq!((ready.ready, ready.serving, ready.terminating), (None, None, None));
    assert_eq!((ready.node.as_deref(), ready.zone.as_deref()), (Some("n1"), Some("z1")));
    assert_eq!(gone.terminating, Some(true), "one that is not ready is exported too");
    assert_eq!(
        cluster.local("endpointslices"),
        [
            r#"shop/web-1 {"v":1,"namespace":"shop","name":"web-1","service":"web","addressType":"IPv4","endpoints":[{"addresses":["10.7.1.5"],"nodeName":"n1","zone":"z1","forZones":["z1"],"forNodes":["n1"]},{"addresses":["10.7.1.6"],"ready":false,"serving":false,"terminating":true}],"ports":[{"name":"http","protocol":"TCP","port":8080}]}"#
        ]
    );

    // FQDN slices, copies of other clusters' slices, and slices without a service are not exported.
    for (from, to) in [
        ("addressType: IPv4", "addressType: FQDN"),
        (
            "kubernetes.io/service-name: web}",
            "kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: endpointslice-mesh-controller.cilium.io}",
        ),
        ("kubernetes.io/service-name: web}", "kubernetes.io/service-name: other}"),
    ] {
        cluster.apply(&SERVICE.replace(from, to));
        assert_eq!(slice(&cluster, SLICE), None, "{to}");
        assert!(cluster.local("endpointslices").is_empty(), "{to}");
    }

    // Readers would refuse the whole slice.
    cluster.apply(&SERVICE.replace(
        "endpoints: [{addresses: [10.7.1.5]}]",
        "endpoints: [{addresses: [10.7.1.5, 'fd00::1']}, {addresses: [web.example.org]}]",
    ));
    assert_eq!(slice(&cluster, SLICE).unwrap().endpoints.len(), 1);
    let notes: Vec<String> = cluster.exporter.notes().values().flatten().cloned().collect();
    let named =
        [r#""fd00::1" is not an IPv4 address"#, r#""web.example.org" is not an IPv4 address"#];
    assert_eq!(notes, named);
}

#[test]
fn a_changed_endpoint_changes_one_slice_one_service_and_one_local_slice() {
    let mut cluster = Cluster::new();
    let other = SERVICE.split_once("---\n").unwrap().1.replace("web-1", "web-2");
    cluster.apply(&format!("{SERVICE}{}", other.replace("10.7.1.5", "10.7.2.5")));
    let next = other.replace("10.7.1.5", "10.7.2.6");
    for (_, object) in decode(Format::Yaml, &next).objects {
        let event = SourceEvent::Applied { resource_version: ResourceVersion(2), object };
        cluster.exporter.handle(event, &mut cluster.counter);
    }
    let changed = cluster.exporter.take_changed();
    assert!(changed.iter().map(|key| &**key).eq([
        "cilium/state/endpointslices/v1/alpha/shop/web-2",
        "cilium/state/services/v1/alpha/shop/web",
        "clustermesh/local/v1/endpointslices/shop/web-2",
    ]));
}

/// The exported services equal those of the recorded Cilium, and slices have the same protobuf message. FQDN slices are not
/// exported.
#[test]
fn services_of_the_recording() {
    let mut cluster = Cluster::new();
    let (objects, recorded) = recording("services");
    cluster.apply(&objects);
    let trees = ["cilium/state/services/", "cilium/state/endpointslices/"];
    let comparable = |key: &str, value: &[u8]| match key.starts_with(trees[0]) {
        true => String::from_utf8(value.to_vec()).unwrap(),
        false => format!("{:?}", read(key, value)),
    };
    let of = |all: BTreeMap<String, Value>| -> BTreeMap<String, String> {
        let all = all.iter().filter(|(key, _)| trees.iter().any(|tree| key.starts_with(tree)));
        all.map(|(key, value)| (key.clone(), comparable(key, value))).collect()
    };
    let mut recorded = recorded;
    assert!(recorded.remove("cilium/state/endpointslices/v1/alpha/shop/fqdn-1").is_some());
    let recorded = of(recorded.into_iter().map(|(key, value)| (key, value.into())).collect());
    assert_eq!(recorded.len(), 10);
    let exported = cluster.exporter.desired().into_iter();
    let exported = exported.map(|(key, value)| (key.to_string(), value)).collect();
    assert_eq!(of(exported), recorded);
}

fn slice_of(name: &str, address: &str, ports: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nendpoints: [{{addresses: [{address}]}}]\nports: {ports}\n---\n"
    )
}

#[test]
fn services_v1_has_the_ports_of_all_slices_and_reports_what_does_not_fit() {
    let mut cluster = Cluster::new();
    let service = "services/v1/alpha/shop/web";
    cluster.apply(SERVICE);
    cluster.delete(Kind::EndpointSlice, "shop", "web-1");
    cluster.apply(&slice_of("a", "10.7.1.5", "[{name: http, port: 8090}]"));
    cluster.apply(&slice_of("b", "10.7.1.5", "[{name: admin, port: 9090}]"));
    let union = r#""backends":{"10.7.1.5":{"admin":{"Protocol":"TCP","Port":9090},"http":{"Protocol":"TCP","Port":8090}}}"#;
    assert!(cluster.value(service).unwrap().contains(union), "{:?}", cluster.value(service));
    assert!(cluster.exporter.notes().is_empty());
    cluster.apply(&slice_of("c", "10.7.1.5", "[{name: http, port: 8091}]"));
    assert!(cluster.value(service).unwrap().contains(union), "{:?}", cluster.value(service));
    let notes: Vec<&String> = cluster.exporter.notes().values().flatten().collect();
    assert_eq!(
        notes,
        [
            r#"port "http" has two numbers at one address (for example 10.7.1.5: 8090 and 8091; 1 addresses): services v1 have the first, slices both"#
        ]
    );
}

#[test]
fn a_service_is_made_once_for_many_slices_and_too_long_a_value_is_reported() {
    let mut cluster = Cluster::new();
    let slices: String = (0..400)
        .map(|n| {
            let addresses: Vec<String> = (0..100)
                .map(|m| format!("{{addresses: [10.{}.{}.{m}]}}", n / 100, n % 100))
                .collect();
            slice_of(
                &format!("s-{n:03}"),
                "x",
                "[{name: http, port: 8080}, {name: admin, port: 9090}]",
            )
            .replace("[{addresses: [x]}]", &format!("[{}]", addresses.join(", ")))
        })
        .collect();
    let text = format!("{SERVICE}---\n{slices}");
    let objects = decode(Format::Yaml, &text).objects;
    let count = objects.len();
    let resource_version = ResourceVersion(1);
    let events =
        objects.into_iter().map(|(_, object)| SourceEvent::Applied { resource_version, object });
    let before = cluster.exporter.makes;
    cluster.exporter.handle_all(events, &mut cluster.counter);
    assert!(
        cluster.exporter.makes - before <= count,
        "{} of {count}",
        cluster.exporter.makes - before
    );
    let notes: Vec<&String> = cluster.exporter.notes().values().flatten().collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("cilium/state/services/v1/alpha/shop/web has "), "{notes:?}");
    assert!(
        notes[0].ends_with(
            " bytes: an etcd accepts at most 1571840, unless its --max-request-bytes is larger"
        ),
        "{notes:?}"
    );
}
