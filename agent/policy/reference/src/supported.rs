//! The fields that are understood. An object with any other one is not judged at all.

use serde_json::Value;

use crate::{
    json::{items, only, required, text},
    unsupported::Unsupported,
};

type Checked = Result<(), Unsupported>;

/// Checks the fields of a policy. Their values are expected to be valid.
pub(crate) fn check(object: &Value) -> Checked {
    let kind = text(object, "kind");
    if kind == "NetworkPolicy" {
        only(object, &["apiVersion", "kind", "metadata", "spec"])?;
        return network_policy(required(object, "spec")?);
    }
    only(object, &["apiVersion", "kind", "metadata", "spec", "specs"])?;
    object.get("spec").into_iter().chain(items(object, "specs")).try_for_each(cilium)
}

fn network_policy(spec: &Value) -> Checked {
    only(spec, &["podSelector", "ingress", "egress", "policyTypes"])?;
    spec.get("podSelector").map_or(Ok(()), selector)?;
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in items(spec, list) {
            only(rule, &[peers, "ports"])?;
            for peer in items(rule, peers) {
                only(peer, &["podSelector", "namespaceSelector", "ipBlock"])?;
                let selectors = ["podSelector", "namespaceSelector"].map(|name| peer.get(name));
                match (peer.get("ipBlock"), selectors) {
                    (Some(block), [None, None]) => only(block, &["cidr", "except"])?,
                    (Some(_), _) | (None, [None, None]) => {
                        return Err(Unsupported(format!("the peer {peer}")));
                    }
                    (None, selectors) => selectors.into_iter().flatten().try_for_each(selector)?,
                }
            }
            let fields = ["protocol", "port", "endPort"];
            items(rule, "ports").iter().try_for_each(|port| only(port, &fields))?;
        }
    }
    Ok(())
}

fn cilium(spec: &Value) -> Checked {
    let lists = ["ingress", "ingressDeny", "egress", "egressDeny"];
    let others = ["endpointSelector", "enableDefaultDeny", "description", "labels", "log"];
    only(spec, &[lists.as_slice(), &others].concat())?;
    selector(required(spec, "endpointSelector")?)?;
    if let Some(deny) = spec.get("enableDefaultDeny") {
        only(deny, &["ingress", "egress"])?;
    }
    let rules = lists.into_iter().flat_map(|list| items(spec, list).iter().map(move |r| (list, r)));
    let mut rules = rules.peekable();
    if rules.peek().is_none() {
        return Err(Unsupported(format!("a spec without rules: {spec}")));
    }
    for (list, one) in rules {
        rule(one, if list.starts_with("ingress") { "from" } else { "to" })?;
    }
    Ok(())
}

fn rule(rule: &Value, word: &str) -> Checked {
    let members = ["Endpoints", "Entities", "CIDR", "CIDRSet", "Services"];
    let members = members.map(|name| format!("{word}{name}"));
    // Only egress has services.
    let members = members.iter().filter(|name| *name != "fromServices").map(String::as_str);
    let members: Vec<&str> = members.collect();
    only(rule, &[&members[..], &["toPorts", "icmps"]].concat())?;
    // Cilium, pkg/policy/api/rule_validation.go: several members, or ports and ICMP types, are not supported together.
    let filled = |names: &[&str]| names.iter().filter(|name| !items(rule, name).is_empty()).count();
    if filled(&members) > 1 || filled(&["toPorts", "icmps"]) > 1 {
        return Err(Unsupported(format!("what is together in {rule}")));
    }
    items(rule, &format!("{word}Endpoints")).iter().try_for_each(selector)?;
    for set in items(rule, &format!("{word}CIDRSet")) {
        only(set, &["cidr", "except"])?;
        required(set, "cidr")?;
    }
    for service in items(rule, "toServices") {
        only(service, &["k8sService", "k8sServiceSelector"])?;
        match (service.get("k8sService"), service.get("k8sServiceSelector")) {
            (Some(named), None) => only(named, &["serviceName", "namespace"])?,
            (None, Some(by)) => {
                only(by, &["selector", "namespace"])?;
                selector(required(by, "selector")?)?;
            }
            _ => return Err(Unsupported(format!("the service {service}"))),
        }
    }
    for ports in items(rule, "toPorts") {
        only(ports, &["ports"])?;
        let fields = ["port", "endPort", "protocol"];
        items(ports, "ports").iter().try_for_each(|port| only(port, &fields))?;
    }
    for icmp in items(rule, "icmps") {
        only(icmp, &["fields"])?;
        items(icmp, "fields").iter().try_for_each(|field| only(field, &["family", "type"]))?;
    }
    Ok(())
}

fn selector(selector: &Value) -> Checked {
    only(selector, &["matchLabels", "matchExpressions"])?;
    for expression in items(selector, "matchExpressions") {
        only(expression, &["key", "operator", "values"])?;
        let operator = text(expression, "operator");
        if !["In", "NotIn", "Exists", "DoesNotExist"].contains(&operator) {
            return Err(Unsupported(format!("the operator {operator}")));
        }
    }
    Ok(())
}
