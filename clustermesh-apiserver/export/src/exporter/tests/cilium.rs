//! Cilium's objects are exported unchanged.

use super::*;

/// The exported values equal those that Cilium made of the recorded objects, without canaries and heartbeats. None of these
/// scenarios has an exception listed in `docs/compatibility.md`.
#[test]
fn nodes_identities_and_addresses_of_the_recording() {
    let mut compared = 0;
    for scenario in ["nodes", "identities", "endpoints"] {
        let (objects, mut recorded) = recording(scenario);
        let mut cluster = Cluster::new();
        cluster.apply(&objects);
        recorded.retain(|key, _| !key.starts_with("cilium/synced/") && key != "cilium/.heartbeat");
        let exported = cluster.exporter.desired();
        let exported = exported.iter().filter(|(key, _)| key.starts_with("cilium/"));
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        let mut exported: BTreeMap<_, _> =
            exported.map(|(k, v)| (k.to_string(), text(v))).collect();
        if scenario == "endpoints" {
            // The recording is incomplete: it lacks the IPv6 address of one of its objects.
            let v6 = exported.remove("cilium/state/ip/v1/default/fd00:70:2::9b").unwrap();
            let v4 = &exported["cilium/state/ip/v1/default/10.70.2.55"];
            assert_eq!(v6, v4.replace("10.70.2.55", "fd00:70:2::9b"));
        }
        let recorded: BTreeMap<_, _> = recorded.iter().map(|(k, v)| (k.clone(), text(v))).collect();
        assert_eq!(exported, recorded, "{scenario}");
        compared += recorded.len();
    }
    assert_eq!(compared, 4 + 3 + 3 + 3);
}

/// As in Cilium's own test of its exporter. `id` is the identity's ID.
const SLICE: &str = "apiVersion: cilium.io/v2alpha1
kind: CiliumEndpointSlice
metadata: {name: ces-1}
namespace: shop
endpoints:
- {name: a, id: 458800, service-account: default, encryption: {}, networking: {addressing: [{ipv4: 10.7.1.5, ipv6: 'fd00:7::5'}], node: 172.18.0.3}}
- {name: b, id: 458801, encryption: {key: 5}, networking: {addressing: [{ipv4: 10.7.1.6}]}, named-ports: [{name: http, port: 8080, protocol: TCP}, {name: any, port: 1, protocol: ANY}]}
- {name: c}
";

#[test]
fn an_endpoint_slice_is_exported_as_its_addresses() {
    let mut cluster = Cluster::new();
    let all = ["ip/v1/default/10.7.1.5", "ip/v1/default/10.7.1.6", "ip/v1/default/fd00:7::5"];
    assert_eq!(cluster.apply(SLICE), all);
    assert_eq!(
        cluster.value(all[0]).unwrap(),
        r#"{"IP":"10.7.1.5","Mask":null,"HostIP":"172.18.0.3","ID":458800,"Key":0,"Metadata":"","K8sNamespace":"shop","K8sPodName":"a","K8sServiceAccount":"default"}"#
    );
    assert_eq!(
        cluster.value(all[1]).unwrap(),
        r#"{"IP":"10.7.1.6","Mask":null,"HostIP":"","ID":458801,"Key":5,"Metadata":"","K8sNamespace":"shop","K8sPodName":"b","NamedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"}]}"#
    );
    assert_eq!(cluster.apply(&namespace("false")), all);
    assert_eq!(cluster.value(all[0]), None);
    assert_eq!(cluster.apply(&namespace("true")), all);
    assert_eq!(cluster.apply(&SLICE.replace("10.7.1.6", "10.7.1.7")).len(), 2);
    assert_eq!(cluster.delete(Kind::CiliumEndpointSlice, "", "ces-1").len(), 3);
}

/// With `--enable-cilium-endpoint-slice`, Cilium writes endpoints too, but reads only slices.
#[test]
fn endpoints_are_ignored_if_there_are_slices() {
    let endpoint = |name: &str, ip: &str, id: u32| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumEndpoint\nmetadata: {{name: {name}, namespace: shop}}\nstatus: {{identity: {{id: {id}}}, networking: {{addressing: [{{ipv4: {ip}}}]}}}}\n---\n"
        )
    };
    let mut cluster = Cluster::new();
    cluster.apply(&format!("{}{}", node("172.31.7.1"), pod("a", "10.7.1.5", "cart")));
    // An endpoint that differs in a slice, and one that is in no slice.
    cluster.apply(&endpoint("a", "10.7.1.5", 458_900));
    cluster.apply(&endpoint("old", "10.7.1.9", 458_901));
    let id_of = |cluster: &Cluster, ip: &str| {
        let value = cluster.value(&format!("ip/v1/default/{ip}"))?;
        let (_, id) = value.split_once("\"ID\":")?;
        Some(id.split(',').next().unwrap_or_default().to_owned())
    };
    let ids = |cluster: &Cluster| ["10.7.1.5", "10.7.1.9"].map(|ip| id_of(cluster, ip));
    let of_endpoints = [Some("458900".to_owned()), Some("458901".to_owned())];
    assert_eq!(ids(&cluster), of_endpoints);
    cluster.apply(SLICE);
    assert_eq!(ids(&cluster), [Some("458800".to_owned()), None]);
    assert!(cluster.local("pods")[0].contains("\"identity\":458800"));
    cluster.delete(Kind::CiliumEndpointSlice, "", "ces-1");
    assert_eq!(ids(&cluster), of_endpoints);
    assert!(cluster.local("pods")[0].contains("\"identity\":458900"));
}

#[test]
fn identities_need_a_namespace_in_the_mesh_and_labels() {
    let identity = |labels: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {{name: '458800'}}\nsecurity-labels: {labels}\n---\n"
        )
    };
    let key = "identities/v1/id/458800";
    let mut cluster = Cluster::new();
    let of_shop = identity("{'k8s:io.kubernetes.pod.namespace': shop}");
    assert_eq!(cluster.apply(&of_shop), [key]);
    assert_eq!(cluster.apply(&namespace("false")), [key]);
    assert_eq!(cluster.value(key), None);
    cluster.apply(&namespace("true"));
    assert!(cluster.value(key).is_some());
    assert_eq!(
        cluster.apply(&identity("{'k8s:app': x}")),
        [key],
        "of no namespace: a Cilium skips it"
    );
    assert_eq!(cluster.value(key), None);
    cluster.apply(&identity("{}"));
    assert_eq!(cluster.value(key), None);
    let notes: Vec<String> = cluster.exporter.notes().values().flatten().cloned().collect();
    assert_eq!(notes, ["it has no security-labels"]);
}

#[test]
fn ciliums_objects_replace_those_of_kubernetes() {
    let mut cluster = Cluster::new();
    cluster.apply(&format!("{}{}", node("172.31.7.1"), pod("a", "10.7.1.5", "cart")));
    assert!(cluster.value("ip/v1/default/10.7.1.5").unwrap().contains("\"ID\":458753"));
    // The pod has the identity of its endpoint, also in the record for its node.
    cluster.apply(SLICE);
    let address = cluster.value("ip/v1/default/10.7.1.5").unwrap();
    assert!(address.contains("\"ID\":458800") && address.contains("172.18.0.3"), "{address}");
    assert!(cluster.local("pods")[0].contains("\"identity\":458800"));
    assert!(!cluster.exporter.uses(Identity::new(458_753)));
    cluster.delete(Kind::CiliumEndpointSlice, "", "ces-1");
    assert!(cluster.value("ip/v1/default/10.7.1.5").unwrap().contains("\"ID\":458753"));

    // A pod without an endpoint has the ID of its label set.
    let labels = cluster.counter.known[0].to_string();
    let labels: Vec<String> = labels
        .split_terminator(';')
        .map(|label| label.split_once('=').unwrap())
        .map(|(name, value)| format!("'{name}': {value}"))
        .collect();
    cluster.apply(&format!(
        "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {{name: '458900'}}\nsecurity-labels: {{{}}}\n",
        labels.join(", ")
    ));
    assert!(cluster.value("ip/v1/default/10.7.1.5").unwrap().contains("\"ID\":458900"));

    // The CiliumNode replaces the Node.
    let of_cilium = "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {name: n1}\nspec: {bootid: b, addresses: null, ipam: {podCIDRs: [10.7.9.0/24]}}\n";
    assert_eq!(cluster.apply(of_cilium), ["nodes/v1/alpha/n1"]);
    assert!(cluster.value("nodes/v1/alpha/n1").unwrap().contains("10.7.9.0"));
    cluster.delete(Kind::CiliumNode, "", "n1");
    assert!(cluster.value("nodes/v1/alpha/n1").unwrap().contains("10.7.1.0"));
}

#[test]
fn a_kubernetes_nodes_annotations_and_the_keys_in_them_are_not_exported() {
    let mut cluster = Cluster::new();
    let key = "annotations: {network.cilium.io/wg-pub-key: a2V5, note: long}";
    let of_kubernetes = node("172.31.7.1").replace("name: n1", &format!("name: n1, {key}"));
    assert_eq!(cluster.apply(&of_kubernetes), ["nodes/v1/alpha/n1"]);
    let value = cluster.value("nodes/v1/alpha/n1").unwrap();
    for empty in [r#""Annotations":null"#, r#""WireguardPubKey":"""#, r#""IPv4HealthIP":"""#] {
        assert!(value.contains(empty), "{empty}: {value}");
    }
    let of_cilium = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {{name: n1, {key}}}\nspec: {{health: {{ipv4: 10.7.1.7}}}}\n"
    );
    assert_eq!(cluster.apply(&of_cilium), ["nodes/v1/alpha/n1"]);
    let value = cluster.value("nodes/v1/alpha/n1").unwrap();
    for given in
        ["\"note\":\"long\"", r#""WireguardPubKey":"a2V5""#, r#""IPv4HealthIP":"10.7.1.7""#]
    {
        assert!(value.contains(given), "{given}: {value}");
    }
}

/// For such an address Cilium writes the key `…/<nil>`, which readers refuse.
#[test]
fn an_invalid_address_is_reported_and_the_others_are_exported() {
    let mut cluster = Cluster::new();
    let endpoint = "apiVersion: cilium.io/v2\nkind: CiliumEndpoint\nmetadata: {name: a, namespace: shop}\nstatus: {networking: {addressing: [{ipv4: 10.70.1, ipv6: '::ffff:10.70.1.80'}]}}\n";
    assert_eq!(cluster.apply(endpoint), ["ip/v1/default/10.70.1.80"]);
    let notes: Vec<String> = cluster.exporter.notes().values().flatten().cloned().collect();
    assert_eq!(notes, [r#"a: "10.70.1" is not an IP address"#]);
}

#[test]
fn an_identity_affects_only_pods_with_its_labels() {
    let mut cluster = Cluster::new();
    let pods = (1..=40).map(|n| {
        let app = if n <= 3 { "cart" } else { "web" };
        pod(&format!("p-{n}"), &format!("10.7.1.{n}"), app)
    });
    cluster.apply(&pods.collect::<String>());
    let labels = cluster.counter.known.iter().find(|labels| labels.to_string().contains("cart"));
    let labels = labels.unwrap().to_string();
    let labels = labels.split_terminator(';').map(|label| label.split_once('=').unwrap());
    let labels: Vec<String> = labels.map(|(name, value)| format!("'{name}': {value}")).collect();
    let identity = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumIdentity\nmetadata: {{name: '458900'}}\nsecurity-labels: {{{}}}\n",
        labels.join(", ")
    );
    let with_id = |cluster: &Cluster| {
        let pods = cluster.local("pods");
        pods.iter().filter(|pod| pod.contains("\"identity\":458900")).count()
    };
    let before = cluster.exporter.makes;
    cluster.apply(&identity);
    assert_eq!((with_id(&cluster), cluster.exporter.makes - before), (3, 4), "it, and its pods");
    // The ID of a pod changes when it gets these labels or loses them.
    cluster.apply(&pod("p-4", "10.7.1.4", "cart"));
    cluster.apply(&pod("p-1", "10.7.1.1", "web"));
    assert_eq!(with_id(&cluster), 3);
    let before = cluster.exporter.makes;
    cluster.delete(Kind::CiliumIdentity, "", "458900");
    assert_eq!((with_id(&cluster), cluster.exporter.makes - before), (0, 4));
}
