use std::{fs, path::Path};

use super::*;
use crate::keys_file::KeysFile;

const CONFIG: &str = r#"{"id":7,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false,"endpointSlicesExportMode":"services-and-endpointslices"}}"#;

fn holding(entries: &[(&str, &str)]) -> EtcdContent {
    let entry = |(key, value): &(&str, &str)| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    EtcdContent {
        entries: entries.iter().map(entry).collect(),
        cluster: None,
        whole: false,
        contradiction: None,
    }
}

fn deviations(holding: &EtcdContent) -> Vec<String> {
    let all = Dump::new(holding).all_deviations();
    all.iter().map(|d| format!("{}: {}", d.key, d.reason)).collect()
}

fn recorded(scenario: &str) -> EtcdContent {
    let folder = "../../proto/wire/tests/fixtures/cilium-1.20.2";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(format!("{scenario}.json"));
    let file = KeysFile::parse(&fs::read_to_string(path).unwrap()).unwrap();
    EtcdContent { whole: true, ..EtcdContent::from(&file) }
}

#[test]
fn what_a_cilium_wrote_is_as_the_contract_says_but_for_what_it_is_known_for() {
    for scenario in ["empty", "nodes", "identities"] {
        assert_eq!(deviations(&recorded(scenario)), Vec::<String>::new(), "{scenario}");
    }
    // The recording has a part of the keys only: the identity is in another one.
    let missing = "missing identity: there is no identity 458753";
    assert_eq!(
        deviations(&recorded("endpoints")),
        ["10.70.1.55", "10.70.2.55"]
            .map(|ip| format!("cilium/state/ip/v1/default/{ip}: {missing}"))
    );
    assert_eq!(
        deviations(&recorded("services")),
        [
            "cilium/state/endpointslices/v1/alpha/shop/fqdn-1: undecodable value: addressType: \"FQDN\" is not allowed here"
        ]
    );
}

/// A copy of another cluster's etcd may have only one format of services, although the config, which is the source's, has
/// both.
#[test]
fn a_cache_with_one_form_of_services_is_no_contradiction() {
    let config = CONFIG.replace("\"syncedCanaries\"", "\"cached\":true,\"syncedCanaries\"");
    let service = r#"{"cluster":"alpha","namespace":"shop","name":"web","frontends":{},"backends":{"10.0.0.1":{"http":{"Protocol":"TCP","Port":80}}},"labels":{},"selector":{},"includeExternal":true,"shared":true,"clusterID":7}"#;
    let time = "2027-02-03T04:05:06Z";
    let canaries = ["identities", "ip", "nodes", "serviceexports"]
        .map(|tree| format!("cilium/synced/alpha/cilium/cache/{tree}/v1"));
    let cache = |entries: &[(&str, &str)]| {
        let head = [("cilium/cluster-config/alpha", config.as_str())];
        let canaries = canaries.iter().map(|key| (key.as_str(), time));
        let all: Vec<_> = head.into_iter().chain(canaries).chain(entries.iter().copied()).collect();
        EtcdContent { whole: true, ..holding(&all) }
    };
    let services = [
        ("cilium/cache/services/v1/alpha/shop/web", service),
        ("cilium/synced/alpha/cilium/cache/services/v1", time),
    ];
    let slices = ("cilium/synced/alpha/cilium/cache/endpointslices/v1", time);
    assert_eq!(deviations(&cache(&services)), Vec::<String>::new());
    assert_eq!(deviations(&cache(&[slices])), Vec::<String>::new());
    let both = [services[0], services[1], slices];
    let found = deviations(&cache(&both));
    assert!(found[0].contains("10.0.0.1 is in the service only"), "{found:?}");
}

#[test]
fn a_cluster_that_is_known_by_its_keys_has_the_limit_of_its_id_and_no_other_name() {
    let file = |id: u32, entries: &str| {
        let text = format!(r#"{{"cluster":{{"name":"b","id":{id}}},"entries":[{entries}]}}"#);
        deviations(&EtcdContent::from(&KeysFile::parse(&text).unwrap()))
    };
    let node = r#"{"key":"cilium/state/nodes/v1/b/n1","value":"{\"Name\":\"n1\",\"Cluster\":\"b\",\"ClusterID\":300}"}"#;
    assert_eq!(file(300, node), Vec::<String>::new());
    let config = r#"{"key":"cilium/cluster-config/b","value":"{\"id\":3}"}"#;
    assert_eq!(
        file(2, config),
        ["cluster: contradiction: cluster.id: 2, and cilium/cluster-config/b says 3"]
    );
}

#[test]
fn every_value_is_decoded() {
    let dump = Dump::new(&recorded("services"));
    let value =
        |key: &str| dump.entries.iter().find(|entry| entry.key == key).unwrap().value.clone();
    let slice = value("cilium/state/endpointslices/v1/alpha/shop/web-1");
    assert_eq!(slice["endpoints"][0]["addresses"][0], "10.67.1.10");
    assert_eq!(slice["endpoints"][0]["conditions"], serde_json::json!({ "ready": true }));
    // The slice is decoded although agents refuse it.
    let slice = value("cilium/state/endpointslices/v1/alpha/shop/fqdn-1");
    assert_eq!(slice["addressType"], "FQDN");
    assert_eq!(value("cilium/state/services/v1/alpha/shop/web")["clusterID"], 7);
    let dump = Dump::new(&recorded("identities"));
    let labels = &dump.entries[1].value["labels"];
    assert_eq!(labels["k8s:app"], "cart");
    assert_eq!(
        dump.cluster.as_ref().map(|(name, id)| (name.as_str(), id.get())),
        Some(("alpha", 7))
    );
}

#[test]
fn deviations_are_named() {
    let config = ("cilium/cluster-config/alpha", CONFIG);
    for (entries, says) in [
        (&[("cilium/state/ip/v1/default/<nil>", "{}")][..], "<nil>: bad key: not an IP address"),
        (&[("cilium/state/ip/v1/default/010.0.0.1", "{}")], "bad key: not an IP address"),
        (
            &[("cilium/state/ip/v1/default/FD00::1", r#"{"IP":"fd00::1","ID":0}"#)],
            "bad key: it should be written cilium/state/ip/v1/default/fd00::1",
        ),
        (
            &[("cilium/state/identities/v1/id/1", "k8s:io.cilium.k8s.policy.cluster=alpha;")],
            "contradiction: the identity is 1, expected 458752 to 524287",
        ),
        (
            &[("cilium/state/identities/v1/id/999999", "k8s:a=b;")],
            "contradiction: the identity is 999999, expected 458752 to 524287",
        ),
        (&[("cilium/state/nodes/v1/alpha/n1", "{")], "undecodable value: JSON: EOF"),
        (
            &[(
                "cilium/state/nodes/v1/alpha/n1",
                r#"{"Name":"n2","Cluster":"alpha","ClusterID":7}"#,
            )],
            "contradiction: ",
        ),
        (
            &[("cilium/state/nodes/v1/beta/n1", r#"{"Name":"n1","Cluster":"beta","ClusterID":8}"#)],
            "contradiction: the cluster in the key is beta, expected alpha",
        ),
        (&[("cilium/state/endpointslices/v1/alpha/shop/x", "x")], "undecodable value: zstd"),
        (
            &[("cilium/state/ip/v1/default/10.0.0.1", r#"{"IP":"10.0.0.1","ID":458753}"#)],
            "missing identity: there is no identity 458753",
        ),
        (
            &[("cilium/synced/alpha/cilium/state/nodes/v1", "2027-02-03T04:05:06Z")],
            "cilium/synced/alpha/cilium/state/ip/v1: missing canary",
        ),
        (&[("cilium/synced/alpha/cilium/state/nodes/v1", "soon")], "not a time in RFC 3339"),
        (&[("cilium/.heartbeat", "soon")], "cilium/.heartbeat: the value is not a time"),
        (&[("cilium/.heartbeat.position", "{}")], "undecodable value"),
        (&[("cilium/cluster-config/beta", "{")], "cilium/cluster-config/beta: undecodable value"),
        (&[("cilium/cluster-config/beta", r#"{"capabilities":{}}"#)], "the cluster has no ID"),
        (
            &[("cilium/cluster-config/beta", r#"{"id":300,"capabilities":{}}"#)],
            "the ID 300 is above the limit of 255",
        ),
        (
            &[(
                "cilium/cluster-config/beta",
                r#"{"id":3,"capabilities":{"maxConnectedClusters":256}}"#,
            )],
            "maxConnectedClusters is 256",
        ),
        (
            &[(
                "cilium/cluster-config/beta",
                r#"{"id":3,"capabilities":{"endpointSlicesExportMode":"new"}}"#,
            )],
            "endpointSlicesExportMode is \"new\"",
        ),
        (&[("cilium/cache/nodes/v1/beta/n1", "{}")], "there is no config of cluster beta"),
        (
            &[(
                "cilium/state/services/v1/alpha/shop/web",
                r#"{"cluster":"alpha","namespace":"shop","name":"web","frontends":{},"backends":{"10.0.0.1":{"http":{"Protocol":"TCP","Port":80}}},"labels":{},"selector":{},"includeExternal":true,"shared":true,"clusterID":7}"#,
            )],
            "cilium/state/services/v1/alpha/shop/web: service and slices disagree: 10.0.0.1 is in the service only",
        ),
        (
            &[(
                "cilium/state/services/v1/alpha/shop/web",
                r#"{"cluster":"alpha","namespace":"shop","name":"api","clusterID":7}"#,
            )],
            "contradiction: name is api, expected web",
        ),
    ] {
        let all: Vec<_> = entries.iter().copied().chain([config]).collect();
        let found = deviations(&holding(&all));
        assert!(found.iter().any(|found| found.contains(says)), "{entries:?}: {found:#?}");
    }
    let none = EtcdContent { whole: true, ..holding(&[]) };
    assert!(deviations(&none)[0].contains("no cluster can be a peer without it"));
}
