//! Uses a cluster's etcd as its administrator, by `etcdctl`.

use std::{io::Write as _, process::Stdio};

use mesh_lab::go_quoted;
use serde_json::Value;

use crate::mesh::{Mesh, output};

/// Runs a command of `etcdctl`, which must succeed. Returns its output.
pub fn run(mesh: &impl Mesh, cluster: &str, args: &[&str]) -> String {
    let printed = output(mesh.etcdctl(cluster, args));
    printed.unwrap_or_else(|complaint| panic!("etcdctl {args:?}: {complaint}"))
}

/// Writes a value of any length.
pub fn put(mesh: &impl Mesh, cluster: &str, key: &str, value: &[u8]) {
    try_put(mesh, cluster, key, value).unwrap_or_else(|complaint| panic!("{key}: {complaint}"));
}

/// The same, but the error is returned.
pub fn try_put(mesh: &impl Mesh, cluster: &str, key: &str, value: &[u8]) -> Result<(), String> {
    fed(mesh, cluster, &["put", "--", key], value)
}

/// Writes a key of any bytes.
pub fn put_bytes(mesh: &impl Mesh, cluster: &str, key: &[u8], value: &[u8]) {
    match std::str::from_utf8(key) {
        Ok(key) if !key.contains('\0') => put(mesh, cluster, key, value),
        _ => transact(mesh, cluster, &format!("put {} {}", go_quoted(key), go_quoted(value))),
    }
}

/// Writes many keys, in transactions that are as large as an etcd accepts.
pub fn put_many(mesh: &impl Mesh, cluster: &str, writes: &[(String, impl AsRef<[u8]>)]) {
    for chunk in writes.chunks(100) {
        let put = |(key, value): &(String, _)| {
            format!("put {} {}", go_quoted(key.as_bytes()), go_quoted(AsRef::as_ref(value)))
        };
        transact(mesh, cluster, &chunk.iter().map(put).collect::<Vec<_>>().join("\n"));
    }
}

/// Deletes many keys, in transactions that are as large as an etcd accepts.
pub fn delete_many<'a>(mesh: &impl Mesh, cluster: &str, keys: impl Iterator<Item = &'a str>) {
    let deletions: Vec<String> =
        keys.map(|key| format!("del {}", go_quoted(key.as_bytes()))).collect();
    for chunk in deletions.chunks(100) {
        transact(mesh, cluster, &chunk.join("\n"));
    }
}

/// Deletes a key of any bytes.
pub fn delete_bytes(mesh: &impl Mesh, cluster: &str, key: &[u8]) {
    transact(mesh, cluster, &format!("del {}", go_quoted(key)));
}

/// Runs operations, one in each line, as a transaction. This way `etcdctl` accepts bytes that cannot be in an argument.
fn transact(mesh: &impl Mesh, cluster: &str, operation: &str) {
    // No comparisons; the operations; no operations for the other case.
    let text = format!("\n{operation}\n\n\n");
    let done = fed(mesh, cluster, &["txn"], text.as_bytes());
    done.unwrap_or_else(|complaint| panic!("{operation}: {complaint}"));
}

/// The etcd's revision.
pub fn revision(mesh: &impl Mesh, cluster: &str) -> i64 {
    let status = run(mesh, cluster, &["endpoint", "status", "--write-out", "json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status[0]["Status"]["header"]["revision"].as_i64().expect("a revision")
}

/// Compacts the etcd to its current revision.
pub fn compact(mesh: &impl Mesh, cluster: &str) {
    let revision = revision(mesh, cluster).to_string();
    run(mesh, cluster, &["compact", "--physical", &revision]);
}

/// A key as `etcdctl --write-out json` prints it; `None` if it does not exist.
pub fn get(mesh: &impl Mesh, cluster: &str, key: &str) -> Option<Value> {
    let found = run(mesh, cluster, &["get", "--write-out", "json", "--", key]);
    let found: Value = serde_json::from_str(&found).expect("JSON");
    found["kvs"].get(0).cloned()
}

fn fed(mesh: &impl Mesh, cluster: &str, args: &[&str], input: &[u8]) -> Result<(), String> {
    let mut command = mesh.etcdctl(cluster, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("etcdctl starts");
    // If it ends early, its output has the reason.
    let _ = child.stdin.take().expect("its input").write_all(input);
    let output = child.wait_with_output().expect("it ends");
    let printed = || String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(printed()) }
}
