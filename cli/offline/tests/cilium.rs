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
fn services_are_as_a_cilium_exports_them() {
    let (ours, theirs) = both("services");
    let services = |keys: &BTreeMap<String, Vec<u8>>| -> BTreeMap<String, Vec<u8>> {
        let services = keys.iter().filter(|(key, _)| key.starts_with("cilium/state/services/"));
        services.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    assert_eq!(services(&ours).len(), 5);
    assert_eq!(services(&ours), services(&theirs));
}
