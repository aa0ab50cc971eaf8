//! Pods and namespaces for the local cluster's nodes, `clustermesh/local/v1/…`.

use std::collections::BTreeMap;

use mesh_model::{Identity, LocalNamespace, LocalPod, Record};

use crate::{
    check::{address, expect, identity_of},
    error::DecodeError,
    go_json::{self, go_struct},
    ip::{NamedPortJson, decode_ports, encode_ports},
    limits,
    peer::Peer,
};

go_struct! {
    /// The JSON of a pod. `identity` is absent until an ID is allocated.
    struct PodJson {
        "v" => v: u32;
        "namespace" => namespace: String;
        "name" => name: String;
        "node" => node: String;
        "uid" => uid: String;
        "identity" => identity: u32, omit;
        "ips" => ips: Vec<String>;
        "socketLB" => socket_lb: bool;
        "namedPorts" => named_ports: Vec<NamedPortJson>, omit;
    }
}

go_struct! {
    /// The JSON of a namespace.
    struct NamespaceJson {
        "v" => v: u32;
        "name" => name: String;
        "labels" => labels: BTreeMap<String, String>;
        "global" => global: bool;
    }
}

pub(crate) const VERSION: u32 = 1;

pub(crate) fn encode_pod(pod: &LocalPod) -> Vec<u8> {
    let LocalPod { namespace, name, node, uid, identity, ips, socket_lb, named_ports } = pod;
    go_json::to_vec(&PodJson {
        v: VERSION,
        namespace: namespace.clone(),
        name: name.clone(),
        node: node.clone(),
        uid: uid.clone(),
        identity: identity.unwrap_or(Identity::UNKNOWN).get(),
        ips: ips.iter().map(ToString::to_string).collect(),
        socket_lb: *socket_lb,
        named_ports: encode_ports(named_ports),
    })
}

pub(crate) fn decode_pod(
    peer: &Peer,
    node: &str,
    namespace: &str,
    name: &str,
    value: &[u8],
) -> Result<Record, DecodeError> {
    let json: PodJson = serde_json::from_slice(value)?;
    known(json.v)?;
    expect("node", json.node.as_str(), node)?;
    expect("namespace", json.namespace.as_str(), namespace)?;
    expect("name", json.name.as_str(), name)?;
    limits::NAME.text(&json.uid)?;
    limits::PER_ENDPOINT.check(json.ips.len())?;
    let identity = Some(Identity::new(json.identity)).filter(|id| *id != Identity::UNKNOWN);
    identity.map_or(Ok(()), |identity| identity_of(peer, identity))?;
    Ok(Record::Pod(Box::new(LocalPod {
        namespace: json.namespace,
        name: json.name,
        node: json.node,
        uid: json.uid,
        identity,
        ips: json.ips.iter().map(|ip| address("ips", ip)).collect::<Result<_, _>>()?,
        socket_lb: json.socket_lb,
        named_ports: decode_ports(json.named_ports)?,
    })))
}

pub(crate) fn encode_namespace(namespace: &LocalNamespace) -> Vec<u8> {
    let LocalNamespace { name, labels, global } = namespace;
    go_json::to_vec(&NamespaceJson {
        v: VERSION,
        name: name.clone(),
        labels: labels.clone(),
        global: *global,
    })
}

pub(crate) fn decode_namespace(name: &str, value: &[u8]) -> Result<Record, DecodeError> {
    let json: NamespaceJson = serde_json::from_slice(value)?;
    known(json.v)?;
    expect("name", json.name.as_str(), name)?;
    limits::labels(&json.labels)?;
    Ok(Record::Namespace(Box::new(LocalNamespace {
        name: json.name,
        labels: json.labels,
        global: json.global,
    })))
}

pub(crate) fn known(version: u32) -> Result<(), DecodeError> {
    if version == VERSION { Ok(()) } else { Err(DecodeError::Version(version)) }
}

#[cfg(test)]
pub(crate) mod tests {
    use mesh_model::{ClusterId, ClusterLimit, ClusterName, NamedPort, Port, Protocol};

    use super::*;
    use crate::{
        key::Layout,
        peer::Role,
        record::{decode, decode_removal, encode},
    };

    const POD: &str = "clustermesh/local/v1/pods/n1/shop/cart-1";
    const POD_JSON: &str = r#"{"v":1,"namespace":"shop","name":"cart-1","node":"n1","uid":"5b0f","identity":458753,"ips":["10.7.1.5","fd00:7::5"],"socketLB":true,"namedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"}]}"#;
    const NAMESPACE: &str = "clustermesh/local/v1/namespaces/shop";
    const NAMESPACE_JSON: &str = r#"{"v":1,"name":"shop","labels":{"team":"a"},"global":true}"#;

    pub(crate) fn alpha(role: Role) -> Peer {
        Peer {
            name: ClusterName::new("alpha").unwrap(),
            role,
            id: ClusterId::new(7, ClusterLimit::Max255).unwrap(),
            limit: ClusterLimit::Max255,
            layout: Layout::State,
        }
    }

    #[test]
    fn records_have_this_json() {
        let local = alpha(Role::Local);
        let pod = LocalPod {
            namespace: "shop".into(),
            name: "cart-1".into(),
            node: "n1".into(),
            uid: "5b0f".into(),
            identity: Some(Identity::new(458_753)),
            ips: vec!["10.7.1.5".parse().unwrap(), "fd00:7::5".parse().unwrap()],
            socket_lb: true,
            named_ports: vec![NamedPort {
                name: "http".into(),
                port: Port { protocol: Protocol::Tcp, number: 8_080 },
            }],
        };
        let scheduled =
            LocalPod { identity: None, ips: Vec::new(), named_ports: Vec::new(), ..pod.clone() };
        let scheduled_json = r#"{"v":1,"namespace":"shop","name":"cart-1","node":"n1","uid":"5b0f","ips":[],"socketLB":true}"#;
        let namespace = LocalNamespace {
            name: "shop".into(),
            labels: BTreeMap::from([("team".into(), "a".into())]),
            global: true,
        };
        for (key, record, json) in [
            (POD, Record::Pod(Box::new(pod)), POD_JSON),
            (POD, Record::Pod(Box::new(scheduled)), scheduled_json),
            (NAMESPACE, Record::Namespace(Box::new(namespace)), NAMESPACE_JSON),
        ] {
            assert_eq!(String::from_utf8(encode(&record)).unwrap(), json);
            assert_eq!(decode(&local, key.as_bytes(), json.as_bytes()).unwrap(), Some(record));
        }
    }

    #[test]
    fn other_clusters_records_are_refused() {
        let remote = alpha(Role::Remote);
        for (key, json) in [(POD, POD_JSON), (NAMESPACE, NAMESPACE_JSON)] {
            let error = decode(&remote, key.as_bytes(), json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("the key is only for the local cluster's nodes"), "{error}");
            assert!(decode_removal(&remote, key.as_bytes()).is_err());
        }
    }

    #[test]
    fn contradicting_or_invalid_records_are_refused() {
        let local = alpha(Role::Local);
        for (key, from, to, says) in [
            (POD, "\"v\":1", "\"v\":2", "version 2 is not known"),
            (POD, "\"v\":1,", "", "version 0 is not known"),
            (POD, "\"n1\"", "\"n2\"", "node is n2, expected n1"),
            (POD, "\"shop\"", "\"shed\"", "namespace is shed, expected shop"),
            (POD, "cart-1", "cart-2", "name is cart-2, expected cart-1"),
            (POD, "458753", "65536", "the identity is 65536, expected 458752 to 524287"),
            (POD, "458753", "6", "the identity is 6, expected 458752 to 524287"),
            (POD, "458753", "-1", "JSON: identity"),
            (POD, "10.7.1.5", "10.7.1.500", "ips: \"10.7.1.500\" is not an IP address"),
            (POD, "\"socketLB\":true", "\"socketLB\":1", "JSON: socketLB"),
            (POD, "8080", "80800", "JSON: namedPorts"),
            (NAMESPACE, "\"v\":1", "\"v\":9", "version 9 is not known"),
            (NAMESPACE, "shop", "shed", "name is shed, expected shop"),
            (NAMESPACE, "{\"team\":\"a\"}", "[]", "JSON: labels"),
        ] {
            let json = if key == POD { POD_JSON } else { NAMESPACE_JSON };
            assert!(json.contains(from), "{from}");
            let lie = json.replacen(from, to, 1);
            let error = decode(&local, key.as_bytes(), lie.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{lie}: {error}");
        }
    }
}
