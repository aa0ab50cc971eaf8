//! Endpoint slices for the local cluster's nodes, `clustermesh/local/v1/endpointslices/<namespace>/<slice>`.
//!
//! The JSON has what nodes need. Of the labels, it has only the name of the service.

use std::collections::BTreeMap;

use mesh_model::{
    EndpointSlice, Record, ServiceName, SliceEndpoint,
    service::{SERVICE_NAME_LABEL, SlicePort},
};

use crate::{
    check::expect,
    endpoint_slice::check_addresses,
    error::DecodeError,
    excerpt::shown,
    go_json::{self, go_struct},
    key, limits,
    local::{VERSION, known},
    peer::Peer,
};

go_struct! {
    /// The JSON of a slice.
    struct LocalSliceJson {
        "v" => v: u32;
        "namespace" => namespace: String;
        "name" => name: String;
        "service" => service: String;
        "addressType" => address_type: String;
        "endpoints" => endpoints: Vec<EndpointJson>;
        "ports" => ports: Vec<PortJson>;
    }
}

go_struct! {
    /// One endpoint. A condition is absent if the slice does not have it.
    struct EndpointJson {
        "addresses" => addresses: Vec<String>;
        "ready" => ready: Option<bool>, omit;
        "serving" => serving: Option<bool>, omit;
        "terminating" => terminating: Option<bool>, omit;
        "hostname" => hostname: Option<String>, omit;
        "nodeName" => node: Option<String>, omit;
        "zone" => zone: Option<String>, omit;
        "forZones" => for_zones: Vec<String>, omit;
        "forNodes" => for_nodes: Vec<String>, omit;
    }
}

go_struct! {
    /// One port.
    struct PortJson {
        "name" => name: Option<String>, omit;
        "protocol" => protocol: Option<String>, omit;
        "port" => number: Option<i32>, omit;
        "appProtocol" => app_protocol: Option<String>, omit;
    }
}

pub(crate) fn encode(slice: &EndpointSlice) -> Vec<u8> {
    let EndpointSlice {
        cluster: _,
        cluster_id: _,
        namespace,
        name,
        labels,
        annotations: _,
        address_type,
        endpoints,
        ports,
    } = slice;
    go_json::to_vec(&LocalSliceJson {
        v: VERSION,
        namespace: namespace.clone(),
        name: name.clone(),
        service: labels.get(SERVICE_NAME_LABEL).cloned().unwrap_or_default(),
        address_type: address_type.clone(),
        endpoints: endpoints.iter().map(endpoint_json).collect(),
        ports: ports.iter().map(port_json).collect(),
    })
}

pub(crate) fn decode(peer: &Peer, key: &ServiceName, value: &[u8]) -> Result<Record, DecodeError> {
    let json: LocalSliceJson = serde_json::from_slice(value)?;
    known(json.v)?;
    expect("namespace", json.namespace.as_str(), &key.namespace)?;
    expect("name", json.name.as_str(), &key.name)?;
    if key::object_name(&json.service).is_err() {
        return Err(DecodeError::Word { field: "service", text: shown(&json.service) });
    }
    let slice = EndpointSlice {
        cluster: peer.name.to_string(),
        cluster_id: peer.id,
        namespace: json.namespace,
        name: json.name,
        labels: BTreeMap::from([(SERVICE_NAME_LABEL.into(), json.service)]),
        annotations: BTreeMap::new(),
        address_type: json.address_type,
        endpoints: json.endpoints.into_iter().map(endpoint).collect(),
        ports: json.ports.into_iter().map(port).collect(),
    };
    limits::slice(&slice)?;
    check_addresses(&slice)?;
    Ok(Record::LocalEndpointSlice(Box::new(slice)))
}

/// Converts an endpoint to another type with the same fields.
macro_rules! convert {
    ($endpoint:expr, $from:ident => $into:ident) => {
        convert!($endpoint, $from => $into: addresses, ready, serving, terminating, hostname, node, zone, for_zones, for_nodes)
    };
    ($endpoint:expr, $from:ident => $into:ident: $($field:ident),*) => {{
        let $from { $($field),* } = $endpoint;
        $into { $($field),* }
    }};
}

fn endpoint_json(endpoint: &SliceEndpoint) -> EndpointJson {
    convert!(endpoint.clone(), SliceEndpoint => EndpointJson)
}

fn endpoint(json: EndpointJson) -> SliceEndpoint {
    convert!(json, EndpointJson => SliceEndpoint)
}

fn port_json(port: &SlicePort) -> PortJson {
    let SlicePort { name, protocol, number, app_protocol } = port.clone();
    PortJson { name, protocol, number, app_protocol }
}

fn port(json: PortJson) -> SlicePort {
    let PortJson { name, protocol, number, app_protocol } = json;
    SlicePort { name, protocol, number, app_protocol }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{local::tests::alpha, peer::Role, record};

    const KEY: &str = "clustermesh/local/v1/endpointslices/shop/cart-x1";
    const JSON: &str = r#"{"v":1,"namespace":"shop","name":"cart-x1","service":"cart","addressType":"IPv4","endpoints":[{"addresses":["10.7.1.5"],"ready":false,"serving":true,"terminating":true,"hostname":"cart-0","nodeName":"n1","zone":"z1","forZones":["z1","z2"],"forNodes":["n1"]},{"addresses":["10.7.1.6"]}],"ports":[{"name":"http","protocol":"TCP","port":8080,"appProtocol":"h2c"},{"name":""}]}"#;

    #[test]
    fn records_have_this_json() {
        let leaving = SliceEndpoint {
            addresses: vec!["10.7.1.5".into()],
            ready: Some(false),
            serving: Some(true),
            terminating: Some(true),
            hostname: Some("cart-0".into()),
            node: Some("n1".into()),
            zone: Some("z1".into()),
            for_zones: vec!["z1".into(), "z2".into()],
            for_nodes: vec!["n1".into()],
        };
        let bare = SliceEndpoint { addresses: vec!["10.7.1.6".into()], ..SliceEndpoint::default() };
        let http = SlicePort {
            name: Some("http".into()),
            protocol: Some("TCP".into()),
            number: Some(8080),
            app_protocol: Some("h2c".into()),
        };
        let slice = EndpointSlice {
            cluster: "alpha".into(),
            cluster_id: alpha(Role::Local).id,
            namespace: "shop".into(),
            name: "cart-x1".into(),
            labels: [(SERVICE_NAME_LABEL.into(), "cart".into())].into(),
            annotations: BTreeMap::new(),
            address_type: "IPv4".into(),
            endpoints: vec![leaving, bare],
            ports: vec![http, SlicePort { name: Some(String::new()), ..SlicePort::default() }],
        };
        let record = Record::LocalEndpointSlice(Box::new(slice));
        assert_eq!(String::from_utf8(record::encode(&record)).unwrap(), JSON);
        let decoded = record::decode(&alpha(Role::Local), KEY.as_bytes(), JSON.as_bytes());
        assert_eq!(decoded.unwrap(), Some(record));
    }

    #[test]
    fn other_clusters_records_are_refused() {
        let error = record::decode(&alpha(Role::Remote), KEY.as_bytes(), JSON.as_bytes());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("the key is only for the local cluster's nodes"), "{error}");
    }

    #[test]
    fn contradicting_or_invalid_records_are_refused() {
        let many = format!("[{}{{}}]", "{},".repeat(limits::REPEATED.most()));
        for (from, to, says) in [
            ("\"v\":1", "\"v\":2", "version 2 is not known"),
            ("shop", "shed", "namespace is shed, expected shop"),
            ("cart-x1", "cart-x2", "name is cart-x2, expected cart-x1"),
            ("\"cart\"", "\"\"", "service: \"\" is not allowed here"),
            ("\"cart\"", "\"../cart\"", "service: \"../cart\" is not allowed here"),
            ("IPv4", "FQDN", "addressType: \"FQDN\" is not allowed here"),
            ("IPv4", "IPv6", "addresses: \"10.7.1.5\" is not an address of the slice's type"),
            ("10.7.1.6", "10.7.1", "addresses: \"10.7.1\" is not an address of the slice's type"),
            ("false", "0", "JSON: endpoints: ready"),
            ("8080", "4294967296", "JSON: ports: port"),
            (
                "[{\"name\":\"http\"",
                &format!("{many},\"x\":[{{\"name\":\"http\""),
                "more than 1000",
            ),
        ] {
            let lie = JSON.replacen(from, to, 1);
            assert_ne!(lie, JSON, "{from}");
            let error = record::decode(&alpha(Role::Local), KEY.as_bytes(), lie.as_bytes());
            let error = error.unwrap_err().to_string();
            assert!(error.contains(says), "{lie:.300}: {error}");
        }
    }
}
