//! Services v1, `cilium/state/services/v1/<cluster>/<namespace>/<name>`.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_model::{ClusterId, GlobalService, Port, PortMap, Record, ServiceName, service::Zone};

use crate::{
    check::{address, expect, expect_cluster},
    error::DecodeError,
    excerpt::shown,
    go_json::{self, go_struct},
    limits,
    peer::Peer,
};

go_struct! {
    /// The JSON of the value.
    struct ServiceJson {
        "cluster" => cluster: String;
        "namespace" => namespace: String;
        "name" => name: String;
        "frontends" => frontends: AddressMap<BTreeMap<String, PortJson>>;
        "backends" => backends: AddressMap<BTreeMap<String, PortJson>>;
        "hostnames" => hostnames: AddressMap<String>, omit;
        "zones" => zones: AddressMap<ZoneJson>, omit;
        "labels" => labels: BTreeMap<String, String>;
        "selector" => selector: BTreeMap<String, String>;
        "includeExternal" => include_external: bool;
        "shared" => shared: bool;
        "clusterID" => cluster_id: u32;
    }
}

go_struct! {
    /// One port. Its name is the key in the map.
    struct PortJson {
        "Protocol" => protocol: String;
        "Port" => port: u16;
    }
}

go_struct! {
    /// The zone of a backend.
    struct ZoneJson {
        "zone" => zone: String;
        "forZones" => for_zones: Vec<ForZoneJson>;
    }
}

go_struct! {
    /// A zone whose clients should prefer the backend.
    struct ForZoneJson {
        "name" => name: String;
    }
}

/// Keyed by the address as text, whose order is the order on the wire.
type AddressMap<T> = BTreeMap<String, T>;

pub(crate) fn encode(service: &GlobalService) -> Vec<u8> {
    let GlobalService {
        cluster,
        cluster_id,
        name,
        frontends,
        backends,
        hostnames,
        zones,
        labels,
        selector,
        include_external,
        shared,
    } = service;
    go_json::to_vec(&ServiceJson {
        cluster: cluster.to_string(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        frontends: by_text(frontends, port_map_json),
        backends: by_text(backends, port_map_json),
        hostnames: by_text(hostnames, Clone::clone),
        zones: by_text(zones, |zone| ZoneJson {
            zone: zone.zone.clone(),
            for_zones: zone
                .for_zones
                .iter()
                .map(|name| ForZoneJson { name: name.clone() })
                .collect(),
        }),
        labels: labels.clone(),
        selector: selector.clone(),
        include_external: *include_external,
        shared: *shared,
        cluster_id: cluster_id.get().into(),
    })
}

pub(crate) fn decode(peer: &Peer, key: &ServiceName, value: &[u8]) -> Result<Record, DecodeError> {
    let json: ServiceJson = serde_json::from_slice(value)?;
    expect_cluster(peer, &json.cluster, json.cluster_id)?;
    expect("namespace", json.namespace.as_str(), &key.namespace)?;
    expect("name", json.name.as_str(), &key.name)?;
    limits::labels(&json.labels)?;
    limits::labels(&json.selector)?;
    limits::NAME.texts(json.hostnames.values())?;
    for ZoneJson { zone, for_zones } in json.zones.values() {
        limits::ZONE.text(zone)?;
        limits::PER_ENDPOINT.check(for_zones.len())?;
        limits::ZONE.texts(for_zones.iter().map(|zone| &zone.name))?;
    }
    Ok(Record::Service(Box::new(GlobalService {
        cluster: peer.name.clone(),
        cluster_id: ClusterId::from_wire(json.cluster_id).unwrap_or(peer.id),
        name: key.clone(),
        frontends: by_address("frontends", json.frontends, port_map)?,
        backends: by_address("backends", json.backends, port_map)?,
        hostnames: by_address("hostnames", json.hostnames, Ok)?,
        zones: by_address("zones", json.zones, |zone| {
            let for_zones = zone.for_zones.into_iter().map(|z| z.name).collect();
            Ok(Zone { zone: zone.zone, for_zones })
        })?,
        labels: json.labels,
        selector: json.selector,
        include_external: json.include_external,
        shared: json.shared,
    })))
}

fn by_text<T, U>(map: &BTreeMap<IpAddr, T>, convert: impl Fn(&T) -> U) -> AddressMap<U> {
    map.iter().map(|(ip, value)| (ip.to_string(), convert(value))).collect()
}

fn by_address<T, U>(
    field: &'static str,
    map: AddressMap<T>,
    convert: impl Fn(T) -> Result<U, DecodeError>,
) -> Result<BTreeMap<IpAddr, U>, DecodeError> {
    map.into_iter().map(|(ip, value)| Ok((address(field, &ip)?, convert(value)?))).collect()
}

pub(crate) fn port_map_json(ports: &PortMap) -> BTreeMap<String, PortJson> {
    let json = |p: &Port| PortJson { protocol: p.protocol.as_str().into(), port: p.number };
    ports.iter().map(|(name, port)| (name.clone(), json(port))).collect()
}

pub(crate) fn port_map(json: BTreeMap<String, PortJson>) -> Result<PortMap, DecodeError> {
    let port = |(name, p): (String, PortJson)| {
        limits::PORT_NAME.text(&name)?;
        let word = |_| DecodeError::Word { field: "Protocol", text: shown(&p.protocol) };
        Ok((name, Port { protocol: p.protocol.parse().map_err(word)?, number: p.port }))
    };
    json.into_iter().map(port).collect()
}
