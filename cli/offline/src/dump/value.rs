//! Values of keys as JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use mesh_model::{EndpointSlice, Labels, RecordKey, SliceEndpoint, service::SlicePort};
use mesh_wire::read_endpoint_slice;
use serde_json::{Map, Value, json};

/// A value that is not decoded: its text, or base64 if it is not UTF-8.
pub(super) fn raw(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": BASE64.encode(value) }),
    }
}

/// A value that should be JSON; otherwise as [`raw`].
pub(super) fn json(value: &[u8]) -> Value {
    serde_json::from_slice(value).unwrap_or_else(|_| raw(value))
}

/// The value of a record: JSON as it is, labels as an object, a slice with the field names of Kubernetes.
pub(super) fn of_record(record: &RecordKey, value: &[u8]) -> Value {
    match record {
        RecordKey::Identity(_) => match std::str::from_utf8(value) {
            Ok(text) => labels(&Labels::parse(text)),
            Err(_) => raw(value),
        },
        RecordKey::EndpointSlice(_) => {
            read_endpoint_slice(value).map_or_else(|_| raw(value), |read| slice(&read))
        }
        _ => json(value),
    }
}

fn labels(labels: &Labels) -> Value {
    let all = labels.iter().map(|(source, key, value)| (format!("{source}:{key}"), value.into()));
    json!({ "labels": all.collect::<Map<String, Value>>() })
}

fn slice(slice: &EndpointSlice) -> Value {
    let endpoint = |endpoint: &SliceEndpoint| {
        let zones = endpoint.for_zones.iter().map(|zone| json!({ "name": zone }));
        json!({
            "addresses": endpoint.addresses,
            "conditions": some([
                ("ready", endpoint.ready.map(Value::from)),
                ("serving", endpoint.serving.map(Value::from)),
                ("terminating", endpoint.terminating.map(Value::from)),
            ]),
            "hostname": endpoint.hostname, "nodeName": endpoint.node, "zone": endpoint.zone,
            "forZones": zones.collect::<Vec<_>>(),
        })
    };
    let port = |port: &SlicePort| {
        json!({
            "name": port.name, "protocol": port.protocol, "port": port.number,
            "appProtocol": port.app_protocol,
        })
    };
    json!({
        "cluster": slice.cluster, "clusterID": slice.cluster_id.get(), "namespace": slice.namespace,
        "name": slice.name, "labels": slice.labels, "annotations": slice.annotations,
        "addressType": slice.address_type,
        "endpoints": slice.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": slice.ports.iter().map(port).collect::<Vec<_>>(),
    })
}

/// An object with the fields that have a value.
fn some<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let present = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}
