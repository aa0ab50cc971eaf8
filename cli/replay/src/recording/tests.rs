use std::path::Path;

use mesh_labels::LabelFilter;
use mesh_model::RecordKey;
use mesh_offline::{Cluster, ClusterSetup, Objects};
use mesh_wire::key::{HEARTBEAT, POSITION};

use super::*;

/// What a cluster's exporter writes for objects.
fn exported(scenario: &str, name: &str, id: u32) -> BTreeMap<String, Vec<u8>> {
    let folder = "../../proto/wire/tests/fixtures/cilium-1.20.2";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let objects = Objects::read(&folder.join(format!("{scenario}.objects.yaml"))).unwrap();
    let limit = ClusterLimit::Max255;
    let setup = ClusterSetup {
        name: ClusterName::new(name).unwrap(),
        id: ClusterId::new(id, limit).unwrap(),
        limit,
        default_global_namespace: true,
        filter: LabelFilter::new([]).unwrap(),
    };
    Cluster::new(setup, objects.objects).keys_file().entries
}

/// Records by their keys. The key of an identity has its labels instead of the ID, which each cluster allocates for itself.
fn comparable(
    name: &str,
    id: u32,
    entries: &BTreeMap<String, Vec<u8>>,
) -> BTreeMap<String, String> {
    let limit = ClusterLimit::Max255;
    let (name, id) = (ClusterName::new(name).unwrap(), ClusterId::new(id, limit).unwrap());
    let peer = Peer { name, role: Role::Remote, id, limit, layout: Layout::State };
    let decoded = |(key, value): (&String, &Vec<u8>)| decode(&peer, key.as_bytes(), value).unwrap();
    let records: Vec<Record> = entries.iter().filter_map(decoded).collect();
    let labels: BTreeMap<Identity, String> = records
        .iter()
        .filter_map(|record| match record {
            Record::Identity(identity, labels) => Some((*identity, labels.to_string())),
            _ => None,
        })
        .collect();
    let comparable = |record: &Record| match record {
        Record::Identity(identity, _) => (format!("identity {}", labels[identity]), String::new()),
        Record::Address(address) => {
            let identity = Identity::new(0);
            let rest = EndpointAddress { identity, ..*address.clone() };
            (format!("{}", address.net), format!("{} {rest:?}", labels[&address.identity]))
        }
        other => (format!("{:?}", other.key()), format!("{other:?}")),
    };
    let all: BTreeMap<String, String> = records.iter().map(comparable).collect();
    assert_eq!(all.len(), records.len());
    all
}

#[test]
fn a_recording_of_another_cluster_is_what_that_clusters_exporter_writes() {
    let mut kinds = BTreeMap::new();
    // Scenarios without identities that have an allocated ID.
    for scenario in ["nodes", "services"] {
        let alpha = ClusterName::new("alpha").unwrap();
        let recording = Recording::new(&alpha, exported(scenario, "alpha", 7)).unwrap();
        let name = ClusterName::new("beta").unwrap();
        let id = ClusterId::new(200, ClusterLimit::Max255).unwrap();
        let beta = recording.of_cluster(&Become { name: &name, id, ranges: &[] }).unwrap();
        let expected = comparable("beta", 200, &exported(scenario, "beta", 200));
        assert_eq!(comparable("beta", 200, &beta), expected, "{scenario}");
        for key in beta.keys() {
            assert!(key.split('/').all(|part| part != "alpha"), "{key}");
            if let Ok(Key::Record { record, .. }) = Key::parse(key.as_bytes()) {
                *kinds.entry(format!("{:?}", RecordKey::kind(&record))).or_insert(0) += 1;
            }
        }
        let config = Key::ClusterConfig(name).to_string();
        assert_eq!(cluster_config::decode(&beta[&config]).unwrap().id.get(), 200);
    }
    assert!(kinds.len() >= 3, "nodes, services and slices: {kinds:?}");
}

#[test]
fn addresses_move_into_the_other_range_and_others_stay() {
    let range = |from: &str, to: &str| (from.parse().unwrap(), to.parse().unwrap());
    let ranges = [range("10.1.0.0/16", "10.9.0.0/16"), range("fd00:10:1::/48", "fd00:10:9::/48")];
    let (name, id) = (ClusterName::new("b").unwrap(), ClusterId::NONE);
    let other = Become { name: &name, id, ranges: &ranges };
    for (from, to) in [
        ("10.1.2.3", "10.9.2.3"),
        ("10.2.2.3", "10.2.2.3"),
        ("fd00:10:1:2::3", "fd00:10:9:2::3"),
        ("fd00:10:2::3", "fd00:10:2::3"),
    ] {
        assert_eq!(other.ip(from.parse().unwrap()).to_string(), to);
    }
    assert_eq!(other.net("10.1.7.0/24".parse().unwrap()).to_string(), "10.9.7.0/24");
}

#[test]
fn what_is_no_record_stays_and_what_is_no_recording_says_so() {
    let alpha = ClusterName::new("alpha").unwrap();
    let mut entries = exported("services", "alpha", 7);
    entries.insert(HEARTBEAT.into(), b"now".to_vec());
    entries.insert(POSITION.into(), b"{}".to_vec());
    let recording = Recording::new(&alpha, entries.clone()).unwrap();
    let name = ClusterName::new("beta").unwrap();
    let other = Become { name: &name, id: ClusterId::NONE, ranges: &[] };
    let beta = recording.of_cluster(&other).unwrap();
    assert_eq!((&beta[HEARTBEAT][..], &beta[POSITION][..]), (&b"now"[..], &b"{}"[..]));
    let error = Recording::new(&name, entries.clone()).unwrap_err().to_string();
    assert!(error.contains("cilium/cluster-config/beta"), "{error}");
    entries.insert("cilium/state/ip/v1/default/10.0.0.1".into(), b"{".to_vec());
    let error = Recording::new(&alpha, entries).unwrap().of_cluster(&other).unwrap_err();
    assert!(error.to_string().contains("10.0.0.1"), "{error}");
}
