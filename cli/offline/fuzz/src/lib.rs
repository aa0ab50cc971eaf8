//! Fuzz bodies for files that users receive from others: keys files and lists of events.

#![allow(clippy::expect_used, reason = "a fuzz body fails by panicking")]

use std::{collections::BTreeMap, sync::LazyLock};

use mesh_labels::LabelFilter;
use mesh_model::{
    ClusterName,
    object::{Object, ObjectKey},
};
use mesh_offline::{
    ClusterState, Content, Dump, EtcdContent, KeysFile, Objects, Options, Scope, Simulation, State,
    diff, parse_events, parse_time, settings_beside, time,
};
use mesh_source::{Format, decode};

/// A keys file. A file that is parsed must be the same after it is written and parsed again, can be dumped, does not differ
/// from itself, and can be imported: its keys change nothing of the importing cluster's.
pub fn keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(file) = KeysFile::parse(text) else { return };
    let written = serde_json::to_string(&file).expect("it has text, numbers and lists only");
    assert_eq!(KeysFile::parse(&written).expect("it was written by us"), file);
    let dump = Dump::new(&EtcdContent::from(&file));
    assert_eq!(dump.entries.len(), file.entries.len());
    for deviation in dump.all_deviations() {
        assert!(!deviation.reason.is_empty() && deviation.reason.len() < 2_000, "{deviation:?}");
    }
    assert_eq!(diff(&dump, &dump, Scope::All), []);
    if file.cluster != own() && data.len().is_multiple_of(ONE_IN) {
        let name = file.cluster.clone();
        let Ok(peer) = ClusterState::of_keys(file) else { return };
        let simulation = simulation(BTreeMap::from([(name, peer)]));
        assert!(simulation.refusals().iter().all(|refusal| !refusal.is_empty()));
        let explained = simulation.explain(None);
        assert_eq!(explained.len(), 1, "the frontends are the local cluster's alone");
        let ours = explained.iter().flat_map(|one| &one.entries);
        assert_eq!(ours.filter(|entry| entry.cluster == "own").count(), 1);
    }
}

/// A list of events, as JSON and as YAML. Events that are parsed are sorted by time, and can be run.
pub fn events(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for format in [Format::Json, Format::Yaml] {
        let events = match parse_events(format, text) {
            Ok(events) => events,
            Err(problem) => {
                assert!(!problem.to_string().is_empty());
                continue;
            }
        };
        assert!(events.is_sorted_by_key(|event| event.at));
        for event in &events {
            assert_eq!(parse_time(&time(event.at)), Ok(event.at));
        }
        let until = events.last().map(|event| event.at).unwrap_or_default();
        if !data.len().is_multiple_of(ONE_IN) {
            continue;
        }
        let mut simulation = simulation(BTreeMap::new());
        if simulation.run(&events, until).is_ok() {
            simulation.explain(None);
        }
    }
}

/// Only one input in this many goes through the whole mesh, which takes a hundred times as long as parsing.
const ONE_IN: usize = 8;

/// Compiled once, since its expressions take long.
static FILTER: LazyLock<LabelFilter> = LazyLock::new(|| LabelFilter::new([]).expect("no rules"));

/// The objects of the importing cluster, decoded once.
static OBJECTS: LazyLock<BTreeMap<ObjectKey, Object>> = LazyLock::new(objects);

fn own() -> ClusterName {
    ClusterName::new("own").expect("a name")
}

/// A cluster with a service and one backend, and with these peers.
fn simulation(mut clusters: BTreeMap<ClusterName, ClusterState>) -> Simulation {
    let free = (1..=511).filter_map(mesh_model::ClusterId::from_wire);
    let mut free = free.filter(|id| !clusters.values().any(|peer| peer.settings.id == *id));
    let id = free.next().expect("one peer has one ID");
    let nowhere = std::path::Path::new("/nonexistent");
    let settings =
        settings_beside(nowhere, &own(), Some(id), None, (id, mesh_model::ClusterLimit::default()))
            .expect("no settings");
    let objects = Objects { objects: OBJECTS.clone(), ..Objects::default() };
    clusters.insert(own(), ClusterState { settings, content: Content::Objects(objects) });
    let options = Options::new(FILTER.clone());
    Simulation::new(State { clusters, stray: Vec::new() }, &own(), options)
        .expect("its own cluster is there")
}

fn objects() -> BTreeMap<ObjectKey, Object> {
    let text = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: 10.101.0.10, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1]}]
ports: [{name: http, port: 8080}]
";
    let decoded = decode(Format::Yaml, text).whole().expect("good objects");
    decoded.objects.into_iter().map(|(_, object)| (object.key(), object)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mesh_wire_fuzz::run;

    use super::*;

    #[test]
    fn keys_survive() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../proto/wire/tests/fixtures/cilium-1.20.2"
        );
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
        files.sort();
        let mut corpus: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
        assert_eq!(corpus.len(), 5);
        let web = r#"{\"cluster\":\"b\",\"namespace\":\"shop\",\"name\":\"web\",\"frontends\":{},\"backends\":{\"10.2.0.1\":{\"http\":{\"Protocol\":\"TCP\",\"Port\":8080}}},\"labels\":{},\"selector\":{},\"includeExternal\":true,\"shared\":true,\"clusterID\":2}"#;
        corpus.push(format!(r#"{{"cluster":{{"name":"b","id":2}},"entries":[{{"key":"cilium/state/services/v1/b/shop/web","value":"{web}"}}]}}"#).into_bytes());
        run(corpus, keys);
    }

    #[test]
    fn events_survive() {
        let json = r#"[{"at":"16m","disconnect":"own"},
{"at":"90s","cluster":"own","apply":{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}},
{"at":"1h30m","cluster":"own","delete":{"kind":"EndpointSlice","metadata":{"name":"web-1","namespace":"shop"}}},
{"at":"0s","connect":"own"},
{"at":"1s500ms","remove":"own"}]"#;
        let yaml = "- {at: 0s, disconnect: own}\n- at: 90s\n  cluster: own\n  delete: {kind: Service, metadata: {name: web, namespace: shop}}\n";
        run(vec![json.into(), yaml.into()], events);
    }
}
