//! Changes of a world, as `--steps` has them.

use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};

use super::{endpoints, policy};

/// A change. [`apply`] makes a step of it.
pub fn change() -> impl Strategy<Value = Value> {
    let place = || (0..2usize, 0..3usize, 1..4usize);
    prop_oneof![
        4 => policy().prop_map(|one| json!({ "cluster": one["cluster"], "apply": one["object"] })),
        2 => any::<Index>().prop_map(|index| json!({ "deletePolicy": index.index(1_000) })),
        3 => place()
            .prop_flat_map(|(cluster, namespace, number)| endpoints::pod(cluster, namespace, number))
            .prop_map(|pod| json!({ "apply": pod })),
        1 => place().prop_map(|(cluster, namespace, number)| {
            json!({ "delete": endpoints::name(cluster, namespace, number) })
        }),
        1 => place()
            .prop_flat_map(|(cluster, number, _)| endpoints::namespace(cluster, number))
            .prop_map(|namespace| json!({ "apply": namespace })),
    ]
}

/// Makes a change in a line. The answer is the step that says the same; `None` if there is nothing to remove.
pub fn apply(line: &mut Value, change: &Value) -> Option<Value> {
    if let Some(index) = change.get("deletePolicy").and_then(Value::as_u64) {
        let policies = line["policies"].as_array_mut()?;
        let index = usize::try_from(index).ok()?.checked_rem(policies.len())?;
        let gone = policies.remove(index);
        return Some(json!({ "cluster": gone["cluster"], "delete": gone["object"] }));
    }
    if let Some(name) = change.get("delete") {
        let endpoints = line["endpoints"].as_array_mut()?;
        let at = endpoints.iter().position(|one| one["name"] == *name)?;
        endpoints.remove(at);
        return Some(change.clone());
    }
    let applied = change.get("apply")?;
    let (list, one) = match applied.get("apiVersion") {
        Some(_) => ("policies", json!({ "cluster": change["cluster"], "object": applied })),
        None => ("endpoints", applied.clone()),
    };
    let list = line[list].as_array_mut()?;
    list.retain(|other| name_of(other) != name_of(&one));
    list.push(one);
    Some(change.clone())
}

/// What of a policy or endpoint another one may not have.
fn name_of(one: &Value) -> [Value; 5] {
    let paths = [
        "/cluster",
        "/kind",
        "/object/kind",
        "/object/metadata/namespace",
        "/object/metadata/name",
    ];
    let mut name = paths.map(|path| one.pointer(path).cloned().unwrap_or_default());
    if let (Some(last), Some(own)) = (name.last_mut(), one.get("name")) {
        *last = own.clone();
    }
    name
}
