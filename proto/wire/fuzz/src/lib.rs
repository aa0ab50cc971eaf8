//! Fuzz bodies for everything that a peer writes, and a runner that gives them mutated inputs with stable Rust.
//!
//! `cargo test` runs each body on its corpus and on 100,000 inputs made from it; `make fuzz` runs the same bodies under
//! libFuzzer.

use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_wire::{
    Key, Layout, Peer, Role, cluster_config, decode, decode_removal, encode, local_drain,
    peer_file::PeerFile,
    peering::{Acceptance, Description, PeerEntries, Removed, Requested, SignRequest, Signed},
    timestamp,
    users_file::UsersFile,
};
use serde::{Serialize, de::DeserializeOwned};

mod run;

pub use run::run;

/// Decodes a key and its value, which are separated by a newline.
///
/// A record that was decoded must be the same after it is encoded and decoded again.
#[allow(clippy::expect_used, clippy::panic, reason = "a fuzz body fails by panicking")]
pub fn entry(data: &[u8]) {
    let (key, value) = match data.iter().position(|b| *b == b'\n') {
        Some(at) => (data.get(..at).unwrap_or_default(), data.get(at + 1..).unwrap_or_default()),
        None => (data, [].as_slice()),
    };
    let Ok(name) = ClusterName::new("alpha") else {
        return;
    };
    let limit = ClusterLimit::Max255;
    let Ok(id) = ClusterId::new(7, limit) else {
        return;
    };
    let remote = Layout::ALL.map(|layout| (Role::Remote, layout));
    for (role, layout) in remote.into_iter().chain([(Role::Local, Layout::State)]) {
        let peer = Peer { name: name.clone(), role, id, limit, layout };
        let removal = decode_removal(&peer, key);
        if let Ok(Some(record)) = decode(&peer, key, value) {
            assert_eq!(removal.ok().flatten(), Some(record.key()));
            let key = Key::of_record(layout, &peer.name, record.key()).to_string();
            let again = decode(&peer, key.as_bytes(), &encode(&record));
            assert_eq!(again.expect("what was encoded"), Some(record));
        }
    }
    if let Ok(config) = cluster_config::decode(value) {
        assert_eq!(cluster_config::decode(&cluster_config::encode(&config)).ok(), Some(config));
    }
    if let Ok(key) = Key::parse(key)
        && !matches!(key, Key::Other | Key::Canary(_, None))
    {
        assert_eq!(Key::parse(key.to_string().as_bytes()), Ok(key));
    }
    if let Ok(drain) = local_drain::decode(value) {
        assert_eq!(local_drain::decode(&local_drain::encode(&drain)).ok(), Some(drain));
    }
    let _ = timestamp(value);
}

/// Decodes a peer file or a users file.
pub fn files(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(file) = PeerFile::parse(text) {
        let again = file.to_yaml().ok().and_then(|text| PeerFile::parse(&text).ok());
        assert_eq!(again, Some(file));
    }
    let _ = UsersFile::parse(text);
}

/// Decodes what `clustermesh connect` and `clustermesh-apiserver peer` tell each other, as if another cluster had sent it.
pub fn peering(data: &[u8]) {
    message::<Requested>(data);
    message::<Signed>(data);
    message::<Removed>(data);
    if let Some(request) = message::<SignRequest>(data) {
        entries_of(&request.peer);
    }
    if let Some(acceptance) = message::<Acceptance>(data) {
        entries_of(&acceptance.peer);
        files(acceptance.file.as_bytes());
    }
    if let Some(described) = message::<Description>(data) {
        described.secret.entries.keys().for_each(|name| entries_of(name));
        described.secret.entries.values().for_each(|text| files(text.as_bytes()));
    }
}

/// A message. It must be the same after it is encoded and decoded again.
fn message<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    data: &[u8],
) -> Option<T> {
    // As the commands read it: the input may go on.
    let found = T::deserialize(&mut serde_json::Deserializer::from_slice(data)).ok()?;
    let again = serde_json::to_vec(&found).ok();
    assert_eq!(again.and_then(|json| serde_json::from_slice(&json).ok()).as_ref(), Some(&found));
    Some(found)
}

/// The entries of a peer are distinct, and in no folder: their names are those of files.
fn entries_of(peer: &str) {
    let Ok(peer) = ClusterName::new(peer) else { return };
    let entries = PeerEntries::new(&peer);
    let names = std::collections::BTreeSet::from(entries.all());
    assert!(names.len() == 5 && names.iter().all(|name| !name.contains('/') && *name != ".."));
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use mesh_model::{
        Affinity, EndpointSlice, Identity, LocalNamespace, LocalPod, LocalPolicy, LocalService,
        NamedPort, PolicyKind, PolicyRef, Port, Protocol, Record, Refusal, RefusalClass,
        ServiceName, ServiceTraffic, SliceEndpoint, WeightsOf,
        service::{SERVICE_NAME_LABEL, SlicePort},
    };

    use super::*;

    /// The corpus: the recorded keys and values of Cilium, and those that only our apiserver writes.
    fn entries() -> Vec<Vec<u8>> {
        let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/cilium-1.20.2");
        let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/clustermesh");
        let mut all = Vec::new();
        let files = [recorded, ours].map(|folder| std::fs::read_dir(folder).unwrap());
        for file in files.into_iter().flatten() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "json") {
                // Read the JSON line by line: the line after each key has its value.
                let text = std::fs::read_to_string(path).unwrap();
                let lines: Vec<_> = text.lines().filter_map(quoted).collect();
                all.extend(
                    lines
                        .windows(2)
                        .filter(|w| {
                            w[0].starts_with(b"cilium/") || w[0].starts_with(b"clustermesh/")
                        })
                        .map(|w| w.join(&b'\n')),
                );
            }
        }
        all.extend(whole().iter().map(|record| {
            let peer = ClusterName::new("alpha").unwrap();
            let key = Key::of_record(Layout::State, &peer, record.key()).to_string();
            [key.as_bytes(), &encode(record)].join(&b'\n')
        }));
        all.extend([
            b"cilium/.heartbeat.drain\n{\"v\":1,\"cluster\":true,\"nodes\":[]}".to_vec(),
            b"clustermesh/local/v1/drain\n{\"v\":1,\"cluster\":false,\"nodes\":[\"n1\"]}".to_vec(),
        ]);
        assert!(all.len() > 50, "{}", all.len());
        all
    }

    /// Records with a value in each field. They do not use defaults, so a new field must be added here too.
    fn whole() -> Vec<Record> {
        let name = |name: &str| ClusterName::new(name).unwrap();
        let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let endpoint = SliceEndpoint {
            addresses: texts(&["10.7.1.5"]),
            ready: Some(false),
            serving: Some(true),
            terminating: Some(true),
            hostname: Some("cart-0".into()),
            node: Some("n1".into()),
            zone: Some("z1".into()),
            for_zones: texts(&["z1", "z2"]),
            for_nodes: texts(&["n1"]),
        };
        let slice = EndpointSlice {
            cluster: "alpha".into(),
            cluster_id: ClusterId::new(7, ClusterLimit::Max255).unwrap(),
            namespace: "shop".into(),
            name: "cart-x1".into(),
            labels: [(SERVICE_NAME_LABEL.into(), "cart".into())].into(),
            annotations: [("a".into(), "b".into())].into(),
            address_type: "IPv4".into(),
            endpoints: vec![endpoint],
            ports: vec![SlicePort {
                name: Some("http".into()),
                protocol: Some("TCP".into()),
                number: Some(8080),
                app_protocol: Some("h2c".into()),
            }],
        };
        let traffic = ServiceTraffic {
            global: true,
            affinity: Affinity::Remote,
            session_affinity: Some(10_800),
            weights: [(name("alpha"), 3), (name("beta"), 0)].into(),
            weights_of: WeightsOf::Clusters,
            tiers: vec![[name("alpha"), name("beta")].into(), [name("gamma")].into()],
            minimum_healthy: Some(30),
            internal_traffic_local: true,
            topology_hints: true,
        };
        let service = LocalService {
            name: ServiceName::new("shop", "cart"),
            cluster_ips: ["10.107.0.9", "fd00:107::9"].map(|ip| ip.parse().unwrap()).into(),
            ports: [("http".into(), Port { protocol: Protocol::Tcp, number: 80 })].into(),
            traffic,
            shared: true,
            publish_not_ready_addresses: true,
            foreign_proxy: true,
            outside_addresses: true,
        };
        let pod = LocalPod {
            namespace: "shop".into(),
            name: "cart-1".into(),
            node: "n1".into(),
            uid: "5b0f2a54".into(),
            identity: Some(Identity::new(458_753)),
            ips: ["10.7.1.5", "fd00:7::5"].map(|ip| ip.parse().unwrap()).into(),
            socket_lb: true,
            named_ports: vec![NamedPort {
                name: "http".into(),
                port: Port { protocol: Protocol::Tcp, number: 8_080 },
            }],
        };
        let labels = [("team".into(), "a".into())].into();
        let namespace = LocalNamespace { name: "shop".into(), labels, global: true };
        vec![
            Record::EndpointSlice(Box::new(slice.clone())),
            Record::LocalEndpointSlice(Box::new(slice)),
            Record::LocalService(Box::new(service)),
            Record::Pod(Box::new(pod)),
            Record::Namespace(Box::new(namespace)),
            Record::Policy(Box::new(policy())),
        ]
    }

    fn policy() -> LocalPolicy {
        let name = PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: "shop".into(),
            name: "deny".into(),
        };
        let refusal = Refusal {
            field: "spec.podSelector".into(),
            reason: "it is a list".into(),
            class: RefusalClass::Malformed,
        };
        LocalPolicy {
            reference: name,
            json: r#"{"kind":"NetworkPolicy","metadata":{"name":"deny","namespace":"shop"},"spec":{"podSelector":[]}}"#.into(),
            refused: vec![refusal],
        }
    }

    /// Else some fields of the corpus would not be tested.
    #[test]
    fn records_with_all_fields_are_decoded_with_all_fields() {
        for record in whole() {
            let role = match record {
                Record::EndpointSlice(_) => Role::Remote,
                _ => Role::Local,
            };
            let id = ClusterId::new(7, ClusterLimit::Max255).unwrap();
            let name = ClusterName::new("alpha").unwrap();
            let (limit, layout) = (ClusterLimit::Max255, Layout::State);
            let peer = Peer { name, role, id, limit, layout };
            let key = Key::of_record(layout, &peer.name, record.key()).to_string();
            let found = decode(&peer, key.as_bytes(), &encode(&record)).unwrap();
            let expected = match record {
                // `for_nodes` is only for nodes of the exporting cluster.
                Record::EndpointSlice(mut slice) => {
                    slice.endpoints.iter_mut().for_each(|endpoint| endpoint.for_nodes.clear());
                    Record::EndpointSlice(slice)
                }
                Record::LocalEndpointSlice(mut slice) => {
                    slice.annotations.clear();
                    Record::LocalEndpointSlice(slice)
                }
                other => other,
            };
            assert_eq!(found, Some(expected));
        }
    }

    fn quoted(line: &str) -> Option<Vec<u8>> {
        let (name, value) = line.trim().trim_end_matches(',').split_once(": ")?;
        let value = value.trim_matches('"');
        match name {
            "\"key\"" | "\"value\"" => {
                Some(value.replace("\\\"", "\"").replace("\\\\", "\\").into())
            }
            "\"value_b64\"" => STANDARD.decode(value).ok(),
            _ => None,
        }
    }

    #[test]
    fn entries_survive() {
        run(entries(), entry);
    }

    #[test]
    fn files_survive() {
        let peer = "endpoints:\n- https://beta.mesh.cilium.io:32379\ntrusted-ca-file: /a\nkey-file: /b\ncert-file: /c\ncilium-host-aliases:\n- hostname: beta.mesh.cilium.io\n  ips: [10.0.0.1, 'fd00::1']\nclustermesh:\n  uuid: 00000000-0000-0000-0000-000000000001\n  podCIDRs: [10.2.0.0/16]\n  nodeCIDRs: [172.31.2.0/24]\n  externalBackends: false\n  budget: {keys: 10}\n";
        let users = "users:\n- name: remote-beta\n  role: remote\n";
        run([peer, users].map(|text| text.as_bytes().to_vec()).into(), files);
    }

    #[test]
    fn messages_between_clusters_survive() {
        let file = "endpoints: ['https://b.mesh.cilium.io:12379']\ntrusted-ca-file: b.etcd-client-ca.crt\n";
        let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        let signed = Signed { certificate: Some(pem.into()), ca: pem.into() };
        let acceptance =
            Acceptance { peer: "b".into(), file: file.into(), signed: Some(signed.clone()) };
        let asked = SignRequest { peer: "b".into(), request: Some(pem.into()) };
        let removed =
            r#"{"entries":["b"],"kept":{"b.etcd-client.crt":["flux"]},"user":true,"drained":true}"#;
        let described = r#"{"version":"1","namespace":"clustermesh-system","name":"b","id":2,"maxConnectedClusters":255,"podCIDRs":["10.2.0.0/16"],"nodeCIDRs":["fd00:172::/64"],"serviceCIDRs":[],"uuid":"00000000-0000-0000-0000-000000000001","ca":"x","signer":"x","users":{"users":[{"name":"remote-a","role":"remote"}]},"drainedPeers":["c"],"secret":{"bytes":10,"entries":{"a":"endpoints: []","a.etcd-client.crt":"x"},"keys":["a"],"pending":["c"]},"etcd":{"configured":[["172.31.1.1:2379","[fd00:172::101]:2379"]],"service":{"type":"NodePort","port":2379,"nodePort":32379,"clusterIps":["10.102.0.9"],"loadBalancer":["lb.example.org"],"local":true},"replicas":[{"node":"n1","addresses":["172.31.1.1"]}],"port":12379,"nodes":[]}}"#;
        let found: Description = serde_json::from_str(described).unwrap();
        let service = found.etcd.service.unwrap();
        assert_eq!((found.secret.entries.len(), service.node_port), (2, Some(32_379)));
        let json = [
            serde_json::to_vec(&Requested { request: pem.into() }),
            serde_json::to_vec(&asked),
            serde_json::to_vec(&signed),
            serde_json::to_vec(&acceptance),
        ];
        let corpus = json.into_iter().map(Result::unwrap);
        let corpus = corpus.chain([removed, described].map(|text| text.as_bytes().to_vec()));
        run(corpus.collect(), peering);
    }
}
