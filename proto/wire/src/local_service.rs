//! Services for the local cluster's nodes, `clustermesh/local/v1/services/<namespace>/<name>`.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{
    Affinity, ClusterName, LocalService, Record, ServiceName, ServiceTraffic, WeightsOf,
};

use crate::{
    check::{address, expect},
    error::DecodeError,
    excerpt::shown,
    go_json::{self, go_struct},
    local::{VERSION, known},
    service::{PortJson, port_map, port_map_json},
};

go_struct! {
    /// The JSON of a service. Absent fields have the default of a Kubernetes Service.
    struct LocalServiceJson {
        "v" => v: u32;
        "namespace" => namespace: String;
        "name" => name: String;
        "clusterIPs" => cluster_ips: Vec<String>;
        "ports" => ports: BTreeMap<String, PortJson>;
        "global" => global: bool;
        "shared" => shared: bool;
        "affinity" => affinity: String, omit;
        "sessionAffinitySeconds" => session_affinity: u32, omit;
        "weights" => weights: BTreeMap<String, u32>, omit;
        "weightsOf" => weights_of: String, omit;
        "tiers" => tiers: Vec<Vec<String>>, omit;
        "minimumHealthyPercent" => minimum_healthy: u32, omit;
        "publishNotReadyAddresses" => publish_not_ready_addresses: bool, omit;
        "internalTrafficLocal" => internal_traffic_local: bool, omit;
        "topologyHints" => topology_hints: bool, omit;
        "foreignProxy" => foreign_proxy: bool, omit;
        "outsideAddresses" => outside_addresses: bool, omit;
    }
}

pub(crate) fn encode(service: &LocalService) -> Vec<u8> {
    let LocalService {
        name,
        cluster_ips,
        ports,
        traffic,
        shared,
        publish_not_ready_addresses,
        foreign_proxy,
        outside_addresses,
    } = service;
    let ServiceTraffic {
        global,
        affinity,
        session_affinity,
        weights,
        weights_of,
        tiers,
        minimum_healthy,
        internal_traffic_local,
        topology_hints,
    } = traffic;
    let weights_of = if *weights_of == WeightsOf::Backends { "" } else { weights_of.as_str() };
    let affinity = if *affinity == Affinity::None { "" } else { affinity.as_str() };
    go_json::to_vec(&LocalServiceJson {
        v: VERSION,
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        cluster_ips: cluster_ips.iter().map(ToString::to_string).collect(),
        ports: port_map_json(ports),
        global: *global,
        shared: *shared,
        affinity: affinity.into(),
        session_affinity: session_affinity.unwrap_or_default(),
        weights: weights.iter().map(|(name, weight)| (name.to_string(), *weight)).collect(),
        weights_of: weights_of.into(),
        tiers: tiers.iter().map(|tier| tier.iter().map(ToString::to_string).collect()).collect(),
        minimum_healthy: minimum_healthy.unwrap_or_default().into(),
        publish_not_ready_addresses: *publish_not_ready_addresses,
        internal_traffic_local: *internal_traffic_local,
        topology_hints: *topology_hints,
        foreign_proxy: *foreign_proxy,
        outside_addresses: *outside_addresses,
    })
}

pub(crate) fn decode(key: &ServiceName, value: &[u8]) -> Result<Record, DecodeError> {
    let json: LocalServiceJson = serde_json::from_slice(value)?;
    known(json.v)?;
    expect("namespace", json.namespace.as_str(), &key.namespace)?;
    expect("name", json.name.as_str(), &key.name)?;
    if !json.global {
        expect("shared", json.shared, false)?;
    }
    let ips = json.cluster_ips.iter().map(|ip| address("clusterIPs", ip));
    Ok(Record::LocalService(Box::new(LocalService {
        name: key.clone(),
        cluster_ips: ips.collect::<Result<_, _>>()?,
        ports: port_map(json.ports)?,
        traffic: ServiceTraffic {
            global: json.global,
            affinity: affinity(&json.affinity)?,
            session_affinity: session_affinity(json.session_affinity)?,
            weights: weights(&json.weights)?,
            weights_of: weights_of(&json.weights_of)?,
            tiers: tiers(&json.tiers)?,
            minimum_healthy: minimum_healthy(json.minimum_healthy)?,
            internal_traffic_local: json.internal_traffic_local,
            topology_hints: json.topology_hints,
        },
        shared: json.shared,
        publish_not_ready_addresses: json.publish_not_ready_addresses,
        foreign_proxy: json.foreign_proxy,
        outside_addresses: json.outside_addresses,
    })))
}

fn affinity(word: &str) -> Result<Affinity, DecodeError> {
    match word {
        "" | "none" => Ok(Affinity::None),
        "local" => Ok(Affinity::Local),
        "remote" => Ok(Affinity::Remote),
        other => Err(DecodeError::Word { field: "affinity", text: shown(other) }),
    }
}

fn session_affinity(found: u32) -> Result<Option<u32>, DecodeError> {
    if found > ServiceTraffic::MAX_SESSION_AFFINITY {
        let (field, allowed) = ("sessionAffinitySeconds", "1 to 86400");
        return Err(DecodeError::Range { field, found, allowed });
    }
    Ok(Some(found).filter(|seconds| *seconds != 0))
}

fn minimum_healthy(found: u32) -> Result<Option<u8>, DecodeError> {
    let range = DecodeError::Range { field: "minimumHealthyPercent", found, allowed: "1 to 100" };
    let percent = u8::try_from(found).ok().filter(|percent| *percent <= 100).ok_or(range)?;
    Ok(Some(percent).filter(|percent| *percent != 0))
}

fn weights(json: &BTreeMap<String, u32>) -> Result<BTreeMap<ClusterName, u32>, DecodeError> {
    let weight = |(name, weight): (&String, &u32)| {
        if *weight > ServiceTraffic::MAX_WEIGHT {
            let (field, allowed) = ("weights", "0 to 65535");
            return Err(DecodeError::Range { field, found: *weight, allowed });
        }
        Ok((cluster("weights", name)?, *weight))
    };
    json.iter().map(weight).collect()
}

/// Older writers do not write the field: backends are the default.
fn weights_of(word: &str) -> Result<WeightsOf, DecodeError> {
    match word {
        "" | "backends" => Ok(WeightsOf::Backends),
        "clusters" => Ok(WeightsOf::Clusters),
        other => Err(DecodeError::Word { field: "weightsOf", text: shown(other) }),
    }
}

/// A cluster may be in one tier only, and a tier must not be empty.
fn tiers(json: &[Vec<String>]) -> Result<Vec<BTreeSet<ClusterName>>, DecodeError> {
    let mut seen = BTreeSet::new();
    let mut tiers = Vec::with_capacity(json.len());
    for names in json {
        let mut tier = BTreeSet::new();
        for name in names {
            let cluster = cluster("tiers", name)?;
            if !seen.insert(cluster.clone()) {
                return Err(DecodeError::Word { field: "tiers", text: shown(name) });
            }
            tier.insert(cluster);
        }
        if tier.is_empty() {
            return Err(DecodeError::Word { field: "tiers", text: String::new() });
        }
        tiers.push(tier);
    }
    Ok(tiers)
}

fn cluster(field: &'static str, name: &str) -> Result<ClusterName, DecodeError> {
    ClusterName::new(name).map_err(|_| DecodeError::Word { field, text: shown(name) })
}

#[cfg(test)]
mod tests {
    use mesh_model::{Port, Protocol};

    use super::*;
    use crate::{local::tests::alpha, peer::Role, record};

    const KEY: &str = "clustermesh/local/v1/services/shop/cart";
    const PLAIN: &str = r#"{"v":1,"namespace":"shop","name":"cart","clusterIPs":["10.107.0.9"],"ports":{"":{"Protocol":"TCP","Port":80}},"global":false,"shared":false}"#;
    const FULL: &str = r#"{"v":1,"namespace":"shop","name":"cart","clusterIPs":["10.107.0.9","fd00:107::9"],"ports":{"dns":{"Protocol":"UDP","Port":53},"http":{"Protocol":"TCP","Port":80}},"global":true,"shared":true,"affinity":"local","sessionAffinitySeconds":10800,"weights":{"alpha":3,"beta":0},"weightsOf":"clusters","tiers":[["alpha","beta"],["gamma"]],"minimumHealthyPercent":30,"publishNotReadyAddresses":true,"internalTrafficLocal":true,"topologyHints":true,"foreignProxy":true,"outsideAddresses":true}"#;

    #[test]
    fn records_have_this_json() {
        let name = |name| cluster("", name).unwrap();
        let port = |protocol, number| Port { protocol, number };
        let plain = LocalService {
            name: ServiceName::new("shop", "cart"),
            cluster_ips: vec!["10.107.0.9".parse().unwrap()],
            ports: [(String::new(), port(Protocol::Tcp, 80))].into(),
            traffic: ServiceTraffic::default(),
            shared: false,
            publish_not_ready_addresses: false,
            foreign_proxy: false,
            outside_addresses: false,
        };
        let full = LocalService {
            name: ServiceName::new("shop", "cart"),
            cluster_ips: vec!["10.107.0.9".parse().unwrap(), "fd00:107::9".parse().unwrap()],
            ports: [
                ("http".to_owned(), port(Protocol::Tcp, 80)),
                ("dns".to_owned(), port(Protocol::Udp, 53)),
            ]
            .into(),
            traffic: ServiceTraffic {
                global: true,
                affinity: Affinity::Local,
                session_affinity: Some(10_800),
                weights: [(name("alpha"), 3), (name("beta"), 0)].into(),
                weights_of: WeightsOf::Clusters,
                tiers: vec![[name("alpha"), name("beta")].into(), [name("gamma")].into()],
                minimum_healthy: Some(30),
                internal_traffic_local: true,
                topology_hints: true,
            },
            shared: true,
            publish_not_ready_addresses: true,
            foreign_proxy: true,
            outside_addresses: true,
        };
        for (service, json) in [(plain, PLAIN), (full, FULL)] {
            let record = Record::LocalService(Box::new(service));
            assert_eq!(String::from_utf8(record::encode(&record)).unwrap(), json);
            let decoded = record::decode(&alpha(Role::Local), KEY.as_bytes(), json.as_bytes());
            assert_eq!(decoded.unwrap(), Some(record));
        }
    }

    /// An older apiserver does not write the field, and another writer may write the default.
    #[test]
    fn weights_are_of_backends_unless_the_record_says_otherwise() {
        for (word, expected) in [
            ("", WeightsOf::Backends),
            (r#""weightsOf":"backends","#, WeightsOf::Backends),
            (r#""weightsOf":"clusters","#, WeightsOf::Clusters),
        ] {
            let json = FULL.replace(r#""weightsOf":"clusters","#, word);
            let record = record::decode(&alpha(Role::Local), KEY.as_bytes(), json.as_bytes());
            let Some(Record::LocalService(service)) = record.unwrap() else { unreachable!() };
            assert_eq!(service.traffic.weights_of, expected, "{word}");
        }
    }

    /// An older apiserver does not write these fields.
    #[test]
    fn connections_go_anywhere_unless_the_record_says_otherwise() {
        let json = FULL.replace(r#""internalTrafficLocal":true,"topologyHints":true,"#, "");
        assert_ne!(json, FULL);
        let record = record::decode(&alpha(Role::Local), KEY.as_bytes(), json.as_bytes());
        let Some(Record::LocalService(service)) = record.unwrap() else { unreachable!() };
        let ServiceTraffic { internal_traffic_local, topology_hints, .. } = service.traffic;
        assert_eq!((internal_traffic_local, topology_hints), (false, false));
    }

    #[test]
    fn other_clusters_records_are_refused() {
        let error = record::decode(&alpha(Role::Remote), KEY.as_bytes(), PLAIN.as_bytes());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("the key is only for the local cluster's nodes"), "{error}");
    }

    #[test]
    fn contradicting_or_invalid_records_are_refused() {
        for (from, to, says) in [
            ("\"v\":1", "\"v\":2", "version 2 is not known"),
            ("shop", "shed", "namespace is shed, expected shop"),
            ("cart", "card", "name is card, expected cart"),
            ("10.107.0.9", "10.107.0", "clusterIPs: \"10.107.0\" is not an IP address"),
            ("TCP", "tcp", "Protocol: \"tcp\" is not allowed here"),
            ("\"Port\":80", "\"Port\":65536", "JSON: ports: Port"),
            ("\"global\":true", "\"global\":false", "shared is true, expected false"),
            ("\"local\"", "\"Local\"", "affinity: \"Local\" is not allowed here"),
            ("10800", "86401", "sessionAffinitySeconds is 86401: it is 1 to 86400"),
            ("\"alpha\":3", "\"alpha\":65536", "weights is 65536: it is 0 to 65535"),
            ("\"alpha\":3", "\"alpha\":-3", "JSON: weights"),
            ("\"alpha\":3", "\"Alpha\":3", "weights: \"Alpha\" is not allowed here"),
            ("\"clusters\"", "\"nodes\"", "weightsOf: \"nodes\" is not allowed here"),
            ("[\"gamma\"]", "[\"alpha\"]", "tiers: \"alpha\" is not allowed here"),
            ("[\"gamma\"]", "[]", "tiers: \"\" is not allowed here"),
            ("[\"gamma\"]", "[\"-\"]", "tiers: \"-\" is not allowed here"),
            ("30", "101", "minimumHealthyPercent is 101: it is 1 to 100"),
            ("30", "256", "minimumHealthyPercent is 256: it is 1 to 100"),
            ("\"foreignProxy\":true", "\"foreignProxy\":\"x\"", "JSON: foreignProxy"),
        ] {
            let lie = FULL.replacen(from, to, 1);
            assert_ne!(lie, FULL, "{from}");
            let error = record::decode(&alpha(Role::Local), KEY.as_bytes(), lie.as_bytes());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(says), "{lie}: {error}");
        }
    }
}
