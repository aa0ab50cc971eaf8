//! What a real Cilium made of objects is what we make of them, but for what `docs/wire.md` says that we do otherwise.
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

/// Our keys of a recorded scenario, and Cilium's without what an etcd has whatever the objects are.
fn both(scenario: &str) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Vec<u8>>) {
    let recorded = KeysFile::read(&fixture(&format!("{scenario}.json"))).unwrap();
    let objects = Objects::read(&fixture(&format!("{scenario}.objects.yaml"))).unwrap();
    assert_eq!(objects.problems, []);
    let limit = ClusterLimit::Max255;
    let setup = ClusterSetup {
        name: ClusterName::new("alpha").unwrap(),
        id: ClusterId::new(7, limit).unwrap(),
        limit,
        default_global_namespace: true,
        filter: LabelFilter::new([]).unwrap(),
    };
    let ours = Cluster::new(setup, objects.objects).keys_file().entries;
    let mut theirs = recorded.entries;
    theirs.retain(|key, _| !key.starts_with("cilium/synced/") && key != "cilium/.heartbeat");
    (ours, theirs)
}

#[test]
fn services_and_slices_are_as_a_cilium_exports_them() {
    let (ours, mut theirs) = both("services");
    // Its readers refuse it.
    assert!(theirs.remove("cilium/state/endpointslices/v1/alpha/shop/fqdn-1").is_some());
    let names = |keys: &BTreeMap<String, Vec<u8>>| keys.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for (key, value) in &theirs {
        // A compressor may say the same in other bytes.
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
