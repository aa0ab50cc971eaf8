//! Policies: they stay JSON, without what decides nothing. What they mean, and whether that is supported, is decided later.

use mesh_model::{
    PolicyKind, PolicyObject, PolicyRef,
    object::{Object, Uid},
};
use serde_json::{Map, Value};

use crate::kubernetes::Header;

/// An object of a kind. Of its metadata only the name stays, and nothing of its status. A field that no version has stays:
/// it may be a misspelt one.
pub(super) fn read(kind: PolicyKind, header: &Header, value: &Value) -> Object {
    let name = header.metadata.name.clone();
    let namespace = match kind.is_namespaced() {
        true => header.metadata.namespace(),
        false => String::new(),
    };
    let mut metadata = Map::from_iter([("name".to_owned(), Value::from(name.as_str()))]);
    if kind.is_namespaced() {
        metadata.insert("namespace".into(), namespace.as_str().into());
    }
    let fields = value.as_object().into_iter().flatten();
    let fields = fields.filter(|(field, _)| !["metadata", "status"].contains(&field.as_str()));
    let mut object: Map<String, Value> =
        fields.map(|(field, value)| (field.clone(), value.clone())).collect();
    // An API server leaves them out of lists.
    for (field, text) in [("apiVersion", kind.api_version()), ("kind", kind.as_str())] {
        object.entry(field).or_insert_with(|| text.into());
    }
    object.insert("metadata".into(), metadata.into());
    let uid = value.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    Object::from(PolicyObject {
        reference: PolicyRef { kind, namespace, name },
        uid: Uid::from(uid),
        json: Value::from(object).to_string().into(),
    })
}

#[cfg(test)]
mod tests {
    use mesh_model::object::Kind;

    use crate::decode::{Format, decode, decode_object};

    use super::*;

    fn json_of(object: Object) -> String {
        let Object::Policy(policy) = object else { panic!("{object:?}") };
        policy.json.to_string()
    }

    #[test]
    fn what_decides_nothing_is_left_out() {
        let yaml = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: deny
  labels: {a: b}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
  managedFields: [{manager: kubectl}]
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: []
sepc: 1
status: {conditions: []}
";
        let (_, object) = decode(Format::Yaml, yaml).whole().unwrap().objects.remove(0);
        let wanted = r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"deny","namespace":"default"},"sepc":1,"spec":{"ingress":[],"podSelector":{"matchLabels":{"app":"web"}}}}"#;
        assert_eq!(json_of(object), wanted);
    }

    #[test]
    fn an_api_servers_lists_leave_out_version_and_kind() {
        let json = r#"{"metadata":{"name":"deny","uid":"5b0f2a54-8a77-4f0e-9d6f-3c1d2e4b7a90"},"spec":{"endpointSelector":{}},"status":{}}"#;
        let object = decode_object(Kind::CiliumClusterwideNetworkPolicy, json).unwrap();
        let Object::Policy(policy) = &object else { panic!("{object:?}") };
        assert_eq!(policy.uid.to_string(), "5b0f2a54-8a77-4f0e-9d6f-3c1d2e4b7a90");
        assert_eq!(policy.reference.to_string(), "CiliumClusterwideNetworkPolicy deny");
        let wanted = r#"{"apiVersion":"cilium.io/v2","kind":"CiliumClusterwideNetworkPolicy","metadata":{"name":"deny"},"spec":{"endpointSelector":{}}}"#;
        assert_eq!(json_of(object), wanted);
    }

    /// In YAML a forgotten value is null. Without the label, the selector would select all pods.
    #[test]
    fn a_label_without_a_value_is_no_wider_selector() {
        let yaml = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: null}
spec:
  podSelector:
    matchLabels:
      app:
  egress: null
";
        let json = r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"deny"},"spec":{"podSelector":{"matchLabels":{"app":null}}}}"#;
        for (format, text) in [(Format::Yaml, yaml), (Format::Json, json)] {
            let (_, object) = decode(format, text).whole().unwrap().objects.remove(0);
            let json = json_of(object);
            let wanted = r#","spec":{"podSelector":{"matchLabels":{"app":null}}}}"#;
            assert!(json.ends_with(wanted), "{json}");
        }
    }

    #[test]
    fn names_that_are_no_part_of_a_key_and_fields_that_occur_twice_are_rejected() {
        let object = |name: &str, spec: &str| {
            format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
            )
        };
        for (text, says) in [
            (object("a/b", "{}"), "metadata.name"),
            (object("deny", "{ingress: [], ingress: [{}]}"), "spec.ingress occurs twice"),
        ] {
            let decoded = decode(Format::Yaml, &text);
            assert!(decoded.rejected[0].reason.contains(says), "{:?}", decoded.rejected);
            assert!(decoded.objects.is_empty());
        }
        // What else is wrong with one is decided by those who know what it means.
        let decoded = decode(Format::Yaml, &object("deny", "[1]")).whole().unwrap();
        assert_eq!(decoded.objects.len(), 1);
    }
}
