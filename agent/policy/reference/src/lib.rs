//! A second answer to what policies decide, for tests.
//!
//! It is written from Kubernetes' and Cilium's documents, shares no code with the compiler, and has no index and no
//! state: for each flow it reads all policies again, as JSON. It expects objects that are valid and supported.
//!
//! Architecture invariant: none of the mesh's crates.

mod labels;
mod peer;
mod policy;
mod port;
mod world;

use serde_json::Value;

pub use policy::{Answer, State};
use world::World;

/// What is decided of a flow of a batch's line: egress and ingress. `ranges` are pod ranges of clusters: an address in
/// one that no pod has is unknown of that cluster.
pub fn judge(line: &Value, ranges: &[(String, ipnet::IpNet)], flow: &Value) -> (Answer, Answer) {
    let world = World::new(line, ranges);
    policy::judge(&world, flow)
}

/// A text of a value, or nothing.
fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list, or none.
fn items<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The fields of an object, or none.
fn fields<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.pointer(path).and_then(Value::as_object).into_iter().flatten()
}
