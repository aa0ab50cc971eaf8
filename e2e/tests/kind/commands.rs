//! Commands with contexts of a kubeconfig, while a node is dead.

use std::time::{Duration, Instant};

use mesh_e2e::{
    Kind, Mesh,
    echo_service::{ECHO, two_clusters_with_echo},
    json,
    mesh::wait_ready,
};

/// More than the 15 s that a dead node may cost, and less than twice.
const LIMIT: Duration = Duration::from_secs(29);

/// Each command ends in bounded time. The dead node has a row with its reason, and the others are shown.
#[test]
fn a_dead_node_costs_its_row() {
    let mesh = Kind::up(&["a", "b"]);
    two_clusters_with_echo(&mesh);
    mesh.kill_node("a-worker");
    let commands: [&[&str]; 7] = [
        &["status"],
        &["service", "list"],
        &["service", "show", ECHO],
        &["node", "list"],
        &["identity", "list"],
        &["pod", "list"],
        &["etcd", "dump"],
    ];
    for command in commands {
        let began = Instant::now();
        let run = mesh.clustermesh(&[command, &["--context", "a"]].concat());
        let (code, answer, complaint) = json::run(run);
        let took = began.elapsed();
        println!("{command:?}: exit code {code} after {took:?}: {complaint}");
        assert!(took < LIMIT, "{command:?} took {took:?}");
        assert!(!answer.is_null(), "{command:?} says nothing: {complaint}");
        let text = format!("{answer} {complaint}");
        if command == ["status"] {
            assert!(text.contains("a-worker") && text.contains("a-control-plane"), "{text}");
            assert_ne!(code, 0, "a node that cannot be asked is not ready");
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump.tar.gz").display().to_string();
    let began = Instant::now();
    json::run(mesh.clustermesh(&["sysdump", "--context", "a", "--output-file", &file]));
    assert!(began.elapsed() < 2 * LIMIT, "{:?}", began.elapsed());
    assert!(std::fs::metadata(&file).expect("an archive").len() > 10_000);
    mesh.start_node("a-worker");
    wait_ready(&mesh);
}

/// `connectivity test` between the clusters makes pods of its own, and removes them.
#[test]
fn connectivity_is_tested() {
    let mesh = Kind::up(&["a", "b"]);
    two_clusters_with_echo(&mesh);
    let test = ["connectivity", "test", "--context", "a", "--destination-context", "b"];
    json::of(mesh.clustermesh(&test));
    for cluster in ["a", "b"] {
        let namespaces = mesh.objects(cluster, "namespaces", "default");
        let left = namespaces.iter().find(|found| {
            found["metadata"]["name"] == "clustermesh-test"
                && found["metadata"]["deletionTimestamp"].is_null()
        });
        assert!(left.is_none(), "{left:#?}");
    }
}

/// Certificates in the pods are replaced by the command, and nothing is started anew.
#[test]
fn certificates_are_rotated() {
    let mesh = Kind::up(&["a", "b"]);
    two_clusters_with_echo(&mesh);
    let restarts = mesh.restarts("a");
    let rotated = json::of(mesh.clustermesh(&[
        "certs",
        "rotate",
        "--context",
        "a",
        "--server",
        "--clients",
        "--min-age",
        "0s",
    ]));
    assert!(
        rotated["changes"].as_array().is_some_and(|changes| !changes.is_empty()),
        "{rotated:#}"
    );
    wait_ready(&mesh);
    assert_eq!(mesh.restarts("a"), restarts);
}
