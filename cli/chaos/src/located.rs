//! Services whose backends depend on the client's node, and the zones that nodes are in.

use mesh_lab::ClusterState;
use serde_json::{Value, json};

/// Services over the pods of the example `echo`, which look for backends near their clients.
pub(crate) const NEAR: &str = include_str!("../manifests/near.yaml");
/// The label that names a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
const GLOBAL: &str = "service.cilium.io/global";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

/// Services with slices of their own, whose backends are the cluster's nodes. `hinted` has hints. Of `unplaced` no node is
/// named, and the first cluster has no backends: its clients, whose connections stay on their node, get the others'.
pub(crate) fn with_slices(cluster: &ClusterState, is_first: bool) -> String {
    let policy = if is_first { "Local" } else { "Cluster" };
    let mut items = vec![
        service("hinted", json!({ GLOBAL: "true", TOPOLOGY_MODE: "Auto" }), "Cluster"),
        service("unplaced", json!({ GLOBAL: "true" }), policy),
    ];
    for family in ["IPv4", "IPv6"] {
        let nodes = cluster.nodes.iter().enumerate();
        let endpoints = nodes.filter_map(|(index, node)| {
            let ip = node.ips.iter().find(|ip| ip.is_ipv4() == (family == "IPv4"))?;
            // One for each zone in turn. Not all have hints for nodes, so these are not followed.
            let zone = if index % 2 == 0 { "east" } else { "west" };
            let zones = json!([{ "name": zone }]);
            let hints = match index {
                0 => json!({ "forZones": zones, "forNodes": [{ "name": node.name }] }),
                _ => json!({ "forZones": zones }),
            };
            Some(json!({ "addresses": [ip], "nodeName": node.name, "hints": hints }))
        });
        let endpoints: Vec<Value> = endpoints.collect();
        let mut unplaced = endpoints.clone();
        for endpoint in unplaced.iter_mut().filter_map(Value::as_object_mut) {
            endpoint.retain(|field, _| field == "addresses");
        }
        items.push(slice("hinted", family, endpoints));
        if !is_first {
            items.push(slice("unplaced", family, unplaced));
        }
    }
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

fn service(name: &str, annotations: Value, policy: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "annotations": annotations },
        "spec": {
            "ipFamilyPolicy": "PreferDualStack",
            "internalTrafficPolicy": policy,
            "ports": [{ "name": "http", "port": 80 }],
        },
    })
}

fn slice(service: &str, family: &str, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()),
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": family,
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": endpoints,
    })
}

/// A list of nodes in which one is in another zone, or in none.
pub(crate) fn with_zone(mut nodes: Value, node: &str, zone: Option<&str>) -> Value {
    let items = nodes.get_mut("items").and_then(Value::as_array_mut);
    for item in items.into_iter().flatten() {
        if item.pointer("/metadata/name").and_then(Value::as_str) != Some(node) {
            continue;
        }
        let labels = item.pointer_mut("/metadata/labels").and_then(Value::as_object_mut);
        let Some(labels) = labels else { continue };
        match zone {
            Some(zone) => labels.insert(ZONE.into(), json!(zone)),
            None => labels.remove(ZONE),
        };
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_in_one_zone_or_in_none() {
        let node =
            |name: &str, labels: Value| json!({ "metadata": { "name": name, "labels": labels } });
        let nodes = |n1, n2| json!({ "items": [node("n1", n1), node("n2", n2)] });
        let bare = nodes(json!({ "a": "b" }), json!({}));
        let east = nodes(json!({ "a": "b", ZONE: "east" }), json!({}));
        let west = nodes(json!({ "a": "b", ZONE: "west" }), json!({}));
        assert_eq!(with_zone(bare.clone(), "n1", Some("east")), east);
        assert_eq!(with_zone(east.clone(), "n1", Some("west")), west);
        assert_eq!(with_zone(west, "n1", None), bare);
        assert_eq!(with_zone(east.clone(), "n3", Some("west")), east);
    }
}
