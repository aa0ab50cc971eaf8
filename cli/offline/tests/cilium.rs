//! Our keys for objects equal those of a real Cilium, but for the differences in `docs/wire.md`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of this is test code"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use mesh_labels::LabelFilter;
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_offline::{Cluster, ClusterSetup, KeysFile, Objects};
use mesh_wire::read_endpoint_slice;

fn fixture(name: &str) -> PathBuf {
    let folder = "../../proto/wire/tests/fixtures/cilium-1.20.2";
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name)
}

fn alpha() -> ClusterSetup {
    let limit = ClusterLimit::Max255;
    ClusterSetup {
        name: ClusterName::new("alpha").unwrap(),
        id: ClusterId::new(7, limit).unwrap(),
        limit,
        default_global_namespace: true,
        filter: LabelFilter::new([]).unwrap(),
    }
}

/// Our keys of a recorded scenario, and Cilium's, without keys that do not depend on objects.
fn both(scenario: &str) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Vec<u8>>) {
    let recorded = KeysFile::read(&fixture(&format!("{scenario}.json"))).unwrap();
    let objects = Objects::read(&fixture(&format!("{scenario}.objects.yaml"))).unwrap();
    assert_eq!(objects.problems, []);
    let ours = Cluster::new(alpha(), objects.objects).keys_file().entries;
    let mut theirs = recorded.entries;
    theirs.retain(|key, _| !key.starts_with("cilium/synced/") && key != "cilium/.heartbeat");
    (ours, theirs)
}

#[test]
fn services_and_slices_are_as_a_cilium_exports_them() {
    let (ours, mut theirs) = both("services");
    // Cilium's agents refuse it.
    assert!(theirs.remove("cilium/state/endpointslices/v1/alpha/shop/fqdn-1").is_some());
    let names = |keys: &BTreeMap<String, Vec<u8>>| keys.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for (key, value) in &theirs {
        // Compressed values may differ in their bytes.
        match key.contains("/endpointslices/") {
            true => assert_eq!(
                read_endpoint_slice(&ours[key]).unwrap(),
                read_endpoint_slice(value).unwrap(),
                "{key}"
            ),
            false => assert_eq!(ours[key], *value, "{key}"),
        }
    }
}

#[test]
fn nodes_identities_and_endpoints_are_exported_as_a_cilium_has_them() {
    for scenario in ["nodes", "identities"] {
        let (ours, theirs) = both(scenario);
        assert_eq!(texts(&ours), texts(&theirs), "{scenario}");
    }
    let (mut ours, theirs) = both("endpoints");
    // The recording has a part of the keys only, and its objects have one address more.
    ours.retain(|key, _| theirs.contains_key(key));
    assert_eq!(texts(&ours), texts(&theirs));
}

fn texts(keys: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, String> {
    let text = |value: &Vec<u8>| String::from_utf8(value.clone()).unwrap();
    keys.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// Computed by hand, from the rule in `docs/wire.md`, "Identities".
const FIRST: u32 = 475_725;

/// `printf 'k8s:app=…' | sha256sum`, the first 8 bytes modulo 65,536, plus 7 · 65,536.
#[test]
fn pods_get_the_first_id_that_is_free() {
    let pod = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}, spec: {{nodeName: n1}}, status: {{podIP: 10.7.0.1}}}}"
        )
    };
    let labels = "k8s:app=cart;k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;k8s:io.cilium.k8s.policy.cluster=alpha;k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=shop;";
    let identities = |text: &str| -> BTreeMap<String, String> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let objects = Objects::read(file.path()).unwrap();
        assert_eq!(objects.problems, []);
        let keys = Cluster::new(alpha(), objects.objects).keys_file().entries;
        let prefix = "cilium/state/identities/v1/id/";
        texts(&keys)
            .into_iter()
            .filter_map(|(k, v)| Some((k.strip_prefix(prefix)?.to_owned(), v)))
            .collect()
    };
    let first = FIRST.to_string();
    assert_eq!(identities(&pod("cart")), BTreeMap::from([(first.clone(), labels.to_owned())]));
    // If a CiliumIdentity has that ID, the pod gets the next one.
    let other = format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumIdentity, metadata: {{name: '{first}'}}, security-labels: {{'k8s:a': b, 'k8s:io.kubernetes.pod.namespace': shop}}}}"
    );
    let next = (FIRST + 1).to_string();
    assert_eq!(
        identities(&format!("{}\n---\n{other}", pod("cart"))),
        BTreeMap::from([
            (first, "k8s:a=b;k8s:io.kubernetes.pod.namespace=shop;".to_owned()),
            (next, labels.to_owned())
        ])
    );
    // If a CiliumIdentity has the pod's labels, the pod gets its ID.
    let security: Vec<String> = labels
        .split_terminator(';')
        .map(|label| label.split_once('=').unwrap())
        .map(|(key, value)| format!("'{key}': '{value}'"))
        .collect();
    let same = format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumIdentity, metadata: {{name: '460000'}}, security-labels: {{{}}}}}",
        security.join(", ")
    );
    assert_eq!(
        identities(&format!("{}\n---\n{same}", pod("cart"))),
        BTreeMap::from([("460000".to_owned(), labels.to_owned())])
    );
}
