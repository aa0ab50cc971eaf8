//! What is left of an object that is larger than a limit: which pods it governs, in which directions.

use mesh_model::PolicyKind;
use serde_json::{Map, Value, json};

/// The selectors of the pods that are governed.
const SUBJECTS: [&str; 3] = ["podSelector", "endpointSelector", "nodeSelector"];
/// What decides about directions beside the lists of rules.
const SETTINGS: [&str; 2] = ["policyTypes", "enableDefaultDeny"];
/// The lists of rules.
const RULES: [&str; 4] = ["ingress", "ingressDeny", "egress", "egressDeny"];
/// `policyTypes` has two values; a longer list is no setting.
const SETTING: usize = 256;

/// The outline of an object, at most as large as the limit in bytes: its name, the pods that it governs, and for each list
/// of rules whether it has some. In place of rules stands `null`, so nothing takes it for the object itself: an outline is
/// refused. If its selectors are too large, it governs all pods that it could, in both directions.
///
/// The limit must leave room for the names, which have 253 bytes at most.
pub fn outline(kind: PolicyKind, object: &Value, limit: usize) -> Value {
    let mut outline = Map::new();
    for field in ["apiVersion", "kind", "metadata"] {
        outline.extend(object.get(field).map(|value| (field.to_owned(), value.clone())));
    }
    let specs = object.get("specs").and_then(Value::as_array);
    let mut whole = outline.clone();
    whole.extend(object.get("spec").map(|spec| ("spec".to_owned(), of_spec(spec))));
    let specs = specs.map(|specs| specs.iter().map(of_spec).collect::<Vec<_>>());
    whole.extend(specs.map(|specs| ("specs".to_owned(), specs.into())));
    let whole = Value::from(whole);
    if whole.to_string().len() <= limit {
        return whole;
    }
    let all = match kind {
        PolicyKind::NetworkPolicy => {
            json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [null], "egress": [null] })
        }
        PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy => {
            json!({ "endpointSelector": {}, "ingress": [null], "ingressDeny": [null], "egress": [null], "egressDeny": [null] })
        }
    };
    outline.insert("spec".into(), all);
    outline.into()
}

fn of_spec(spec: &Value) -> Value {
    let mut outline = Map::new();
    for field in SUBJECTS {
        outline.extend(spec.get(field).map(|value| (field.to_owned(), value.clone())));
    }
    for field in SETTINGS {
        let setting = spec.get(field).filter(|value| value.to_string().len() <= SETTING);
        outline.extend(setting.map(|value| (field.to_owned(), value.clone())));
    }
    for field in RULES {
        let rules = spec.get(field).filter(|rules| !rules.is_null()).map(|rules| {
            let is_empty = rules.as_array().is_some_and(Vec::is_empty);
            if is_empty { json!([]) } else { json!([null]) }
        });
        outline.extend(rules.map(|rules| (field.to_owned(), rules)));
    }
    outline.into()
}

#[cfg(test)]
mod tests {
    use mesh_labels::LabelFilter;

    use super::*;
    use crate::parse;

    fn object(kind: PolicyKind, spec: Value) -> Value {
        let metadata = json!({ "name": "x", "namespace": "shop" });
        json!({ "apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": metadata, "spec": spec })
    }

    #[test]
    fn an_outline_has_no_rules_and_is_refused() {
        let kind = PolicyKind::NetworkPolicy;
        let spec = json!({
            "podSelector": { "matchLabels": { "app": "web" } },
            "policyTypes": ["Egress"],
            "ingress": [],
            "egress": [{ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] }],
        });
        let large = object(kind, spec);
        let outline = outline(kind, &large, 1_000);
        let wanted = json!({
            "podSelector": { "matchLabels": { "app": "web" } },
            "policyTypes": ["Egress"],
            "ingress": [],
            "egress": [null],
        });
        assert_eq!(outline, object(kind, wanted));
        let filter = LabelFilter::new([]).unwrap();
        assert!(parse(&large, &filter).unwrap().policy.is_ok());
        assert!(parse(&outline, &filter).unwrap().policy.is_err());
    }

    #[test]
    fn one_with_large_selectors_governs_all_pods() {
        for kind in PolicyKind::ALL {
            let subject = match kind {
                PolicyKind::NetworkPolicy => "podSelector",
                _ => "endpointSelector",
            };
            let spec =
                json!({ (subject): { "matchLabels": { "app": "x".repeat(2_000) } }, "egress": [] });
            for large in [object(kind, spec.clone()), {
                let mut large = object(kind, spec.clone());
                large["specs"] = json!(vec![spec; 3]);
                large
            }] {
                let outline = outline(kind, &large, 1_000);
                assert!(outline.to_string().len() <= 1_000);
                assert_eq!(outline["spec"][subject], json!({}), "{outline}");
                assert_eq!(
                    (&outline["spec"]["ingress"], &outline["spec"]["egress"]),
                    (&json!([null]), &json!([null]))
                );
                assert!(parse(&outline, &LabelFilter::new([]).unwrap()).unwrap().policy.is_err());
            }
        }
    }
}
