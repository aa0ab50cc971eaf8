//! Holds the table, the parser and the published schemas together: `schemas/*.txt` lists every field of them, one a line,
//! with a value.

use std::collections::BTreeSet;

use mesh_labels::LabelFilter;
use serde_json::{Map, Value, json};

use super::*;
use crate::{Policy, Refusal, parse};

/// A field of a published schema and a value for it.
struct Published {
    path: &'static str,
    value: Value,
}

fn published(schema: Schema) -> Vec<Published> {
    let text = match schema {
        Schema::NetworkPolicy => include_str!("../../schemas/network_policy.txt"),
        Schema::Cilium => include_str!("../../schemas/cilium.txt"),
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &'static str| {
        let (path, value) = line.split_once(' ').unwrap();
        Published { path, value: serde_json::from_str(value).unwrap() }
    };
    lines.map(read).collect()
}

/// A valid object, with one field put into it.
fn with(schema: Schema, field: &Published) -> Value {
    let mut object = match schema {
        Schema::NetworkPolicy => json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "one", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "cart"}}, "ingress": [{}]},
        }),
        Schema::Cilium => json!({
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "one", "namespace": "shop"},
            "spec": {"endpointSelector": {"matchLabels": {"app": "cart"}}, "ingress": [{}]},
        }),
    };
    put(&mut object, field.path, &field.value);
    object
}

/// Puts a value at a path; lists there have one item.
fn put(into: &mut Value, path: &str, value: &Value) {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    if into.is_null() {
        *into = Value::Object(Map::new());
    }
    let field = into.as_object_mut().unwrap().entry(name).or_insert(Value::Null);
    match rest.strip_prefix("[]") {
        _ if rest.is_empty() => field.clone_from(value),
        None => put(field, &rest[1..], value),
        Some(rest) => {
            if field.as_array().is_none_or(Vec::is_empty) {
                *field = json!([null]);
            }
            let item = &mut field.as_array_mut().unwrap()[0];
            match rest.strip_prefix('.') {
                None => item.clone_from(value),
                Some(rest) => put(item, rest, value),
            }
        }
    }
}

fn read(object: &Value) -> Result<Policy, Vec<Refusal>> {
    parse(object, &LabelFilter::new([]).unwrap()).unwrap().policy
}

#[test]
fn each_published_field_is_in_the_table_and_the_parser_does_what_it_says() {
    for schema in Schema::ALL {
        let fields = published(schema);
        assert!(fields.len() > 40);
        for field in &fields {
            let support = schema.support(field.path);
            let support = support.unwrap_or_else(|| panic!("{} is not in the table", field.path));
            let outcome = read(&with(schema, field));
            let refused: Vec<String> = outcome
                .as_ref()
                .err()
                .into_iter()
                .flatten()
                .map(|one| {
                    assert!(!one.reason.contains("unknown field"), "{one}");
                    one.field.replace("[0]", "[]")
                })
                .collect();
            match support {
                // Some values are refused without others beside them, but for other reasons.
                Support::Done => {}
                Support::Refused(reason) => {
                    let is_it = |path: &String| {
                        field.path == path
                            || field
                                .path
                                .strip_prefix(path.as_str())
                                .is_some_and(|rest| rest.starts_with(['.', '[']))
                    };
                    assert!(refused.iter().any(is_it), "{}: {refused:?}", field.path);
                    let reasons: Vec<&str> = outcome
                        .as_ref()
                        .unwrap_err()
                        .iter()
                        .map(|one| one.reason.as_str())
                        .collect();
                    assert!(reasons.contains(&reason), "{}: {reasons:?}", field.path);
                }
                Support::NoEffect(_) => {
                    let mut without = with(schema, field);
                    remove(&mut without, field.path);
                    assert!(outcome.is_ok(), "{}: {outcome:?}", field.path);
                    assert_eq!(outcome, read(&without), "{}", field.path);
                }
            }
        }
    }
}

/// Removes the topmost field of a path that is below the spec or the object.
fn remove(object: &mut Value, path: &str) {
    let mut names = path.split(['.', '[']);
    let first = names.next().unwrap();
    let parent = match first {
        "spec" | "metadata" => object.get_mut(first).unwrap(),
        _ => return drop(object.as_object_mut().unwrap().remove(first)),
    };
    parent.as_object_mut().unwrap().remove(names.next().unwrap());
}

#[test]
fn each_field_of_the_table_is_published() {
    // Newer than the schema, so that its reason is told.
    let later = ["matchCELExpression"];
    for schema in Schema::ALL {
        let mut known = BTreeSet::new();
        for field in published(schema) {
            let ends = field.path.match_indices(['.', '[']).map(|(at, _)| &field.path[..at]);
            known.extend(ends.map(str::to_owned));
            known.insert(field.path.to_owned());
        }
        for path in schema.fields().iter().flat_map(|field| field.paths(schema)) {
            let is_later = later.iter().any(|name| path.ends_with(name));
            assert!(known.contains(&path) || path.ends_with(".*") || is_later, "{path}");
        }
    }
}

#[test]
fn fields_with_an_effect_have_one() {
    // A field that is called done must be able to change what is read.
    let same = ["apiVersion", "kind", "specs"];
    for schema in Schema::ALL {
        let base = Published { path: "metadata.uid", value: json!("x") };
        let base = read(&with(schema, &base)).unwrap();
        for field in published(schema) {
            if schema.support(field.path) == Some(Support::Done) && !same.contains(&field.path) {
                assert_ne!(read(&with(schema, &field)).as_ref(), Ok(&base), "{}", field.path);
            }
        }
    }
}

#[test]
fn misspelt_fields() {
    let reason = |rule: Value| {
        let mut object = with(Schema::Cilium, &Published { path: "specs", value: json!([]) });
        object["spec"]["ingress"] = json!([rule]);
        let refusals = read(&object).unwrap_err();
        refusals[0].to_string()
    };
    let at = "spec.ingress[0]";
    assert_eq!(
        reason(json!({"fromEndpoint": []})),
        format!("{at}.fromEndpoint: unknown field; did you mean fromEndpoints?")
    );
    assert_eq!(
        reason(json!({"fromCidr": []})),
        format!("{at}.fromCidr: unknown field; did you mean fromCIDR?")
    );
    assert_eq!(reason(json!({"toEndpoints": []})), format!("{at}.toEndpoints: unknown field"));
}

#[test]
fn lookups() {
    let cilium = |path| Schema::Cilium.support(path);
    assert_eq!(cilium("spec.ingress[].fromEndpoints"), Some(Support::Done));
    assert_eq!(cilium("spec.ingress[].toEndpoints"), None);
    assert_eq!(cilium("spec.ingressDeny[].authentication"), None);
    assert_eq!(cilium("spec.ingressDeny[].toPorts[].rules"), None);
    assert!(matches!(cilium("spec.egress[].toFQDNs[].matchName"), Some(Support::Refused(_))));
    assert!(matches!(cilium("metadata.labels.app"), Some(Support::NoEffect(_))));
    assert_eq!(cilium("metadata.name"), Some(Support::Done));
    assert_eq!(cilium("metadata"), Some(Support::Done));
    assert_eq!(cilium("nothing"), None);
    assert_eq!(Schema::NetworkPolicy.support("spec.ingress[].fromEndpoints"), None);
}

#[test]
fn tables_for_readers() {
    let text = fields_markdown();
    for line in [
        "### NetworkPolicy (`networking.k8s.io/v1`)",
        "| `spec.ingress[].{from,ports}` | done |",
        "| `status` | without effect: it is written by controllers |",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
    assert!(text.contains("| `spec.egress[].toFQDNs` | refused: names need a DNS proxy"));
    // A column's text must not end the column.
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    assert!(rows.clone().count() > 40);
    rows.for_each(|row| assert_eq!(row.matches('|').count(), 3, "{row}"));
    assert!(text.ends_with("|\n") && !text.ends_with("\n\n"));
}
