//! Commands with contexts of a kubeconfig, while a node is dead.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mesh_e2e::{
    Kind, Mesh,
    echo_service::{ECHO, two_clusters_with_echo},
    json,
    mesh::{wait_ready, within},
};
use serde_json::{Value, json};

use super::PATIENCE;

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

/// The manifest with the rights of people who use `clustermesh`.
const OPERATOR: &str = include_str!("../../../deploy/manifests/operator-rbac.yaml");

/// A kubeconfig whose user has these rights in a, and no others.
fn kubeconfig_of_operator(mesh: &Kind, folder: &Path) -> PathBuf {
    mesh.apply_manifests("a", OPERATOR);
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "operator", "namespace": "default" },
    });
    let binding = |kind: &str, metadata: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"),
            "metadata": metadata,
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "clustermesh-operator",
            },
            "subjects": [{ "kind": "ServiceAccount", "name": "operator", "namespace": "default" }],
        })
    };
    let name = "clustermesh-operator-test";
    let role = binding("Role", json!({ "name": name, "namespace": "clustermesh-system" }));
    for object in [account, role, binding("ClusterRole", json!({ "name": name }))] {
        mesh.apply_manifests("a", &object.to_string());
    }
    let token = mesh.kubectl_done("a", &["create", "token", "operator", "--namespace", "default"]);
    let text =
        mesh.kubectl_done("a", &["config", "view", "--minify", "--flatten", "--output", "json"]);
    let mut config: Value = serde_json::from_str(&text).expect("a kubeconfig");
    config["users"][0]["user"] = json!({ "token": token.trim() });
    let file = folder.join("kubeconfig");
    std::fs::write(&file, config.to_string()).expect("a file");
    file
}

/// Sets the rights: those of the manifest, without a verb on a resource.
fn grant_without(mesh: &Kind, kind: &str, resource: &str, verb: &str) {
    let namespace = ["--namespace", "clustermesh-system"];
    let get = ["get", kind, "clustermesh-operator", "--output", "json"];
    let text = mesh.kubectl_done("a", &[&get[..], &namespace].concat());
    let mut role: Value = serde_json::from_str(&text).expect("a role");
    for rule in role["rules"].as_array_mut().expect("rules") {
        if rule["resources"] == json!([resource]) {
            let verbs = rule["verbs"].as_array_mut().expect("verbs");
            verbs.retain(|found| found != verb);
            if verbs.is_empty() {
                verbs.push(json!("none"));
            }
        }
    }
    let rules = json!({ "rules": role["rules"] }).to_string();
    let patch = ["patch", kind, "clustermesh-operator", "--type", "merge", "--patch", &rules];
    mesh.kubectl_done("a", &[&patch[..], &namespace].concat());
}

/// The rights of the manifest are all that commands need. With one missing at a time, the message names it, or nothing is
/// missed.
#[test]
fn rights_that_are_missing_are_named() {
    let mesh = Kind::up(&["a", "b"]);
    two_clusters_with_echo(&mesh);
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = kubeconfig_of_operator(&mesh, folder.path());
    let archive = folder.path().join("dump.tar.gz").display().to_string();
    let run = |command: &[&str]| {
        let mut run = mesh.clustermesh(command);
        let (code, answer, complaint) = json::run({
            run.env("KUBECONFIG", &kubeconfig);
            run
        });
        (code, format!("{answer} {complaint}"))
    };
    let status: &[&str] = &["status", "--context", "a"];
    let dump: &[&str] = &["etcd", "dump", "--context", "a"];
    let drain: &[&str] = &["drain", "b", "--from", "a", "--dry-run"];
    let undrain: &[&str] = &["undrain", "b", "--from", "a"];
    let really: &[&str] = &["drain", "b", "--from", "a"];
    let sysdump: &[&str] = &["sysdump", "--context", "a", "--output-file", &archive];
    for command in [status, dump, really, undrain, sysdump] {
        within(PATIENCE, &format!("{command:?} succeeds with all rights"), || match run(command) {
            (0, _) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    for (kind, resource, verb, command, says) in [
        ("role", "pods", "list", status, "cannot list resource \\\"pods\\\""),
        ("role", "pods/exec", "get", status, "create and get of pods/exec"),
        ("role", "pods/exec", "create", dump, "create and get of pods/exec"),
        ("role", "configmaps", "get", drain, "cannot get resource \\\"configmaps\\\""),
        ("role", "configmaps", "patch", really, "cannot patch resource \\\"configmaps\\\""),
        ("role", "pods/log", "get", sysdump, "cannot get resource \\\"pods/log\\\""),
    ] {
        grant_without(&mesh, kind, resource, verb);
        within(PATIENCE, &format!("without {verb} on {resource}, {command:?} names it"), || {
            let (_, text) = run(command);
            if text.contains(says) || text.contains(&says.replace('\\', "")) {
                Ok(())
            } else {
                Err(text)
            }
        });
        mesh.apply_manifests("a", OPERATOR);
    }
    for (kind, resource, verb) in [("role", "daemonsets", "get"), ("clusterrole", "nodes", "list")]
    {
        grant_without(&mesh, kind, resource, verb);
        within(PATIENCE, &format!("{verb} on {resource} is not missed"), || match run(status) {
            (0, _) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        mesh.apply_manifests("a", OPERATOR);
    }
    let binding = ["delete", "rolebinding,clusterrolebinding", "clustermesh-operator-test"];
    mesh.kubectl_done("a", &[&binding[..], &["--namespace", "clustermesh-system"]].concat());
    mesh.kubectl_done("a", &["delete", "serviceaccount", "operator", "--namespace", "default"]);
}
