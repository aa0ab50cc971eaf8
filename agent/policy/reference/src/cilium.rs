//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (`cilium.io/v2`).

use serde_json::Value;

use crate::{
    json::{items, pairs, text, texts},
    labels::{CLUSTER, Keys, Label, NAMESPACE, NAMESPACE_LABELS, Requirement, requirements},
    peer::Peer,
    port::{Traffic, cilium},
    unsupported::Unsupported,
    world::Place,
};

/// Cilium, pkg/k8s/apis/cilium.io/utils/utils.go, ParseToCiliumRule: pods of the policy's namespace, if it has one.
pub(crate) fn governs(spec: &Value, namespace: Option<&str>, labels: &[Label]) -> bool {
    let mut all = subject(spec);
    all.extend(namespace.map(|namespace| Requirement::equals(NAMESPACE, namespace)));
    all.iter().all(|one| one.holds(labels))
}

fn subject(spec: &Value) -> Vec<Requirement> {
    requirements(spec.get("endpointSelector").unwrap_or(&Value::Null), Keys::Cilium)
}

/// Cilium, pkg/policy/api/rule_validation.go, Sanitize: rules of either list, unless the spec says it itself.
pub(crate) fn is_default_deny(spec: &Value, ingress: bool) -> bool {
    let (allow, deny) = lists(ingress);
    let given = spec.get("enableDefaultDeny").and_then(|one| one.get(allow)?.as_bool());
    given.unwrap_or(!items(spec, allow).is_empty() || !items(spec, deny).is_empty())
}

/// The names of a direction's lists: allows, and denies.
pub(crate) fn lists(ingress: bool) -> (&'static str, &'static str) {
    if ingress { ("ingress", "ingressDeny") } else { ("egress", "egressDeny") }
}

/// Cilium, pkg/policy/api/ingress.go, egress.go. Members that are absent have no effect: without any peers every end is
/// meant if there are ports, and nothing at all if there are none either. A member that is empty matches nothing.
pub(crate) fn matches(
    rule: &Value,
    (spec, namespace): (&Value, Option<&str>),
    ingress: bool,
    peer: &Peer<'_>,
    traffic: &Traffic,
    receiver: &Place,
) -> Result<bool, Unsupported> {
    let is_port = cilium(rule, traffic, receiver);
    let word = if ingress { "from" } else { "to" };
    let members = ["Endpoints", "Entities", "CIDR", "CIDRSet", "Services"];
    let [endpoints, entities, cidrs, sets, services] = members.map(|name| format!("{word}{name}"));
    let given = [&endpoints, &entities, &cidrs, &sets, &services];
    let mut given = given.into_iter().filter(|name| rule.get(name.as_str()).is_some()).peekable();
    if given.peek().is_none() {
        return Ok(is_port == Some(true));
    }
    if given.any(|name| items(rule, name).is_empty()) {
        return Ok(false);
    }
    let mut is_peer =
        items(rule, &endpoints).iter().any(|one| peer.is_selected(scoped(one, spec, namespace)));
    is_peer |= texts(rule, &entities).any(|name| peer.is_entity(name));
    for cidr in texts(rule, &cidrs) {
        is_peer |= peer.is_in(cidr, [].into_iter(), false)?;
    }
    for set in items(rule, &sets) {
        is_peer |= peer.is_in(text(set, "cidr"), texts(set, "except"), false)?;
    }
    for service in items(rule, &services) {
        is_peer |= is_backend(service, peer)?;
    }
    Ok(is_peer && is_port != Some(false))
}

/// Cilium, pkg/k8s/apis/cilium.io/utils/utils.go, getEndpointSelector: where the peers are, if the selector does not say it.
fn scoped(selector: &Value, spec: &Value, namespace: Option<&str>) -> Vec<Requirement> {
    let mut all = requirements(selector, Keys::Cilium);
    let is_init = |one: &Requirement| one.is_reserved() && one.key == "init";
    if all.iter().any(|one| one.is_reserved() || one.key == NAMESPACE) {
        return all;
    }
    match namespace {
        // Policies of pods without labels meet other such pods.
        None if subject(spec).iter().any(is_init) => {}
        None => all.push(Requirement::exists(NAMESPACE)),
        Some(_) if all.iter().any(|one| one.key.starts_with(NAMESPACE_LABELS)) => {}
        Some(namespace) => all.push(Requirement::equals(NAMESPACE, namespace)),
    }
    all
}

/// Cilium documentation, "Services based": the pods that services of the own cluster select, or without a selector the
/// addresses of their EndpointSlices, as ranges.
fn is_backend(one: &Value, peer: &Peer<'_>) -> Result<bool, Unsupported> {
    let own = peer.world.services.iter().filter(|(cluster, _)| cluster == peer.cluster);
    let objects: Vec<&Value> = own.map(|(_, object)| object).collect();
    let mut is_peer = false;
    for service in objects.iter().filter(|object| text(object, "kind") == "Service") {
        let spec = service.get("spec").unwrap_or(&Value::Null);
        if !is_meant(one, service) {
            continue;
        }
        let namespace = namespace_of(service);
        let mut all: Vec<Requirement> =
            pairs(spec, "selector").map(|(key, value)| Requirement::equals(key, value)).collect();
        if all.is_empty() {
            for address in addresses(&objects, namespace, text(metadata(service), "name")) {
                let host = if address.contains(':') { 128 } else { 32 };
                is_peer |= peer.is_in(&format!("{address}/{host}"), [].into_iter(), false)?;
            }
        } else {
            all.push(Requirement::equals(NAMESPACE, namespace));
            all.push(Requirement::equals(CLUSTER, peer.cluster));
            is_peer |= peer.is_selected(all);
        }
    }
    Ok(is_peer)
}

/// Cilium, pkg/policy/k8s/service.go: by name, or by the service's labels; without a namespace in all of them.
fn is_meant(one: &Value, service: &Value) -> bool {
    let is_there = |by: &Value| ["", namespace_of(service)].contains(&text(by, "namespace"));
    if let Some(by) = one.get("k8sService") {
        return is_there(by) && text(by, "serviceName") == text(metadata(service), "name");
    }
    let Some(by) = one.get("k8sServiceSelector") else { return false };
    let labels = pairs(metadata(service), "labels");
    let labels: Vec<Label> = labels.map(|(key, value)| Label::new("k8s", key, value)).collect();
    let all = requirements(by.get("selector").unwrap_or(&Value::Null), Keys::Cilium);
    is_there(by) && all.iter().all(|one| one.holds(&labels))
}

fn metadata(object: &Value) -> &Value {
    object.get("metadata").unwrap_or(&Value::Null)
}

fn namespace_of(object: &Value) -> &str {
    match text(metadata(object), "namespace") {
        "" => "default",
        other => other,
    }
}

/// The addresses of a service's EndpointSlices.
fn addresses<'a>(objects: &[&'a Value], namespace: &str, service: &str) -> Vec<&'a str> {
    let is_slice = |object: &&&Value| {
        let mut labels = pairs(metadata(object), "labels");
        text(object, "kind") == "EndpointSlice"
            && namespace_of(object) == namespace
            && labels.any(|label| label == ("kubernetes.io/service-name", service))
    };
    let slices = objects.iter().filter(is_slice);
    let endpoints = slices.flat_map(|slice| items(slice, "endpoints"));
    let is_ready = |one: &&Value| {
        one.get("conditions").and_then(|one| one.get("ready")) != Some(&Value::Bool(false))
    };
    endpoints.filter(is_ready).flat_map(|one| texts(one, "addresses")).collect()
}
