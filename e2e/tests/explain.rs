//! Explanations from files equal those of an agent, and both equal what is in the kernel. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
};

use mesh_dump::Dump;
use mesh_e2e::{
    Mesh as _, Netns, json,
    mesh::{connect, eventually, socket_address, wait_ready},
};
use serde_json::Value;

const LAB: &str = "cliexplain";

/// For each frontend (address, port and protocol number), the weight of each of its groups with the addresses in it.
type Leads = BTreeMap<(SocketAddr, u8), BTreeSet<(u32, BTreeSet<SocketAddr>)>>;

/// A service with a named target port that none of its pods has.
const PORTLESS: &str = "---
apiVersion: v1
kind: Service
metadata: { name: portless, annotations: { service.cilium.io/global: \"true\" } }
spec: { selector: { app: echo }, ports: [{ name: http, port: 80, targetPort: nothing }] }
";

const UNNAMED: &str = "---
apiVersion: v1
kind: Service
metadata: { name: unnamed, annotations: { service.cilium.io/global: \"true\" } }
spec: { selector: { app: echo }, ports: [{ NAMEport: 80, targetPort: 8080 }] }
";

/// Applies the example with another annotation and the given number of replicas, and the two services.
fn apply(mesh: &Netns, cluster: &str, annotations: &str, replicas: u32) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/echo.yaml");
    let global = "service.cilium.io/global: \"true\"";
    let text = fs::read_to_string(example).unwrap();
    assert!(text.contains(global));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("echo.yaml");
    let text = text.replace(global, &format!("{global}\n    {annotations}"));
    // The port has a name in one cluster and none in the other. They match nevertheless.
    let name = if cluster == "a" { "" } else { "name: http, " };
    fs::write(&file, text + PORTLESS + &UNNAMED.replace("NAME", name)).unwrap();
    let mut apply = mesh.lab("apply");
    apply.args(["--cluster", cluster, "--replicas", &replicas.to_string(), "--file"]).arg(file);
    json::of(apply);
}

/// The explanations of all frontends, without the differences, which only an agent knows.
fn explained(mesh: &Netns, args: &[&str]) -> Vec<Value> {
    let (code, mut value, complaints) = json::run(mesh.clustermesh(args));
    assert_eq!(code, 0, "{args:?}: {complaints}");
    let mut frontends = value["frontends"].take().as_array().unwrap().clone();
    for frontend in &mut frontends {
        frontend.as_object_mut().unwrap().remove("differences");
    }
    frontends
}

fn from_files(mesh: &Netns, cluster: &str) -> Vec<Value> {
    let state = format!("/run/clustermesh-lab/{LAB}/clusters");
    explained(mesh, &["service", "explain", "--state", &state, "--from", cluster])
}

fn leads_to(frontends: &[Value]) -> Leads {
    let of = |frontend: &Value| {
        let ip = frontend["frontend"].as_str().unwrap().parse().unwrap();
        let port = frontend["port"].as_u64().unwrap().try_into().unwrap();
        let protocol = if frontend["protocol"] == "UDP" { 17 } else { 6 };
        let used = frontend["inUse"].as_array().unwrap();
        let groups = frontend["choice"]["groups"].as_array().unwrap().iter();
        let groups = groups.map(|group| {
            let share = group["share"].as_f64().unwrap() / group["backends"].as_f64().unwrap();
            // The group of a backend follows from its tier and share.
            let is_in = |backend: &&Value| {
                backend["tier"] == group["tier"]
                    && (backend["share"].as_f64().unwrap() - share).abs() < 1e-6
            };
            let weight = group["kernelWeight"].as_u64().unwrap().try_into().unwrap();
            (weight, used.iter().filter(is_in).map(socket_address).collect())
        });
        ((SocketAddr::new(ip, port), protocol), groups.collect())
    };
    frontends.iter().map(of).collect()
}

fn kernel(mesh: &Netns, cluster: &str, node: &str) -> Leads {
    let entries = Dump::open(&mesh.pins(cluster, node)).unwrap().entries().unwrap();
    let groups = |entry: mesh_dump::Entry| {
        let groups = entry.groups.into_values().filter(|group| !group.destinations.is_empty());
        let addresses = |group: mesh_dump::Group| {
            (group.weight, group.destinations.into_iter().map(|to| to.address).collect())
        };
        groups.map(addresses).collect()
    };
    entries.into_iter().map(|(frontend, entry)| (frontend, groups(entry))).collect()
}

fn agree(mesh: &Netns, what: &str) {
    for cluster in ["a", "b"] {
        for node in mesh.nodes(cluster) {
            eventually(
                &format!("{what}: files, agent and kernel of {cluster}/{node} agree"),
                || {
                    let files = from_files(mesh, cluster);
                    let args = ["service", "explain", "--context", cluster, "--node", &node];
                    let agent = explained(mesh, &args);
                    if files != agent {
                        return Err(format!("files {files:#?}\nagent {agent:#?}"));
                    }
                    let (expected, kernel) = (leads_to(&files), kernel(mesh, cluster, &node));
                    assert!(!expected.is_empty());
                    if expected == kernel {
                        Ok(())
                    } else {
                        Err(format!("{expected:#?}\nkernel {kernel:#?}"))
                    }
                },
            );
        }
    }
}

#[test]
fn files_agents_and_kernels_agree() {
    let mesh = Netns::up(LAB);
    apply(&mesh, "a", "clustermesh.dev/weights: \"a=3,b=1\"", 2);
    apply(&mesh, "b", "service.cilium.io/affinity: local", 1);
    connect(&mesh, "a", "b");
    agree(&mesh, "weights and affinity");
    // Both list the service without a port, of both clusters. A port with a name matches one without.
    let frontends = from_files(&mesh, "a");
    let of = |service: &str, list: &str, field: &str| -> BTreeSet<(String, String)> {
        let found = frontends.iter().find(|one| one["service"] == service).unwrap();
        let word = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
        let all = found[list].as_array().unwrap().iter();
        all.map(|one| (word(one, "cluster"), word(one, field))).collect()
    };
    let each = |a: &str, b: &str| {
        BTreeSet::from([("a".to_owned(), a.to_owned()), ("b".to_owned(), b.to_owned())])
    };
    assert_eq!(of("default/portless", "leftOut", "why"), each("no-port", "no-port"));
    assert_eq!(of("default/unnamed", "inUse", "portName"), each("", "http"));
    apply(&mesh, "b", "service.cilium.io/affinity: local", 0);
    agree(&mesh, "no backend at b");
    apply(&mesh, "a", "clustermesh.dev/tiers: \"b;a\"", 3);
    apply(&mesh, "b", "service.cilium.io/shared: \"false\"", 2);
    // No agent of a knows why b does not export a service; the files show it.
    eventually("files show why b is not used", || {
        let frontends = from_files(&mesh, "a");
        let left_out = frontends[0]["leftOut"].as_array().unwrap();
        let shy = left_out.iter().filter(|entry| entry["why"] == "not-shared").count();
        if shy == 2 { Ok(()) } else { Err(format!("{frontends:#?}")) }
    });
    apply(&mesh, "b", "service.cilium.io/shared: \"true\"", 2);
    agree(&mesh, "tiers");
    wait_ready(&mesh);

    for cluster in ["a", "b"] {
        let manifests = format!("/run/clustermesh-lab/{LAB}/clusters/{cluster}/manifests");
        eventually(
            &format!("the etcd of {cluster} has the keys and values that follow from its objects"),
            || {
                let (code, dump, _) =
                    json::run(mesh.clustermesh(&["etcd", "dump", "--context", cluster]));
                assert!(dump["entries"].as_array().unwrap().len() > 20, "{dump:#}");
                let diff = ["etcd", "diff", "--context", cluster, "--objects", &manifests];
                let (same, diff, _) = json::run(mesh.clustermesh(&diff));
                if (code, same) == (0, 0) {
                    Ok(())
                } else {
                    Err(format!("{:#}\n{:#}", dump["deviations"], diff["differences"]))
                }
            },
        );
    }
    let nodes = json::of(mesh.clustermesh(&["node", "list", "--context", "a"]));
    let names = |value: &Value| -> Vec<(String, String)> {
        let all = value["nodes"].as_array().unwrap().iter();
        all.map(|n| (n["cluster"].as_str().unwrap().into(), n["name"].as_str().unwrap().into()))
            .collect()
    };
    let expected = [("a", "n1"), ("a", "n2"), ("b", "n1"), ("b", "n2")];
    assert_eq!(names(&nodes), expected.map(|(cluster, node)| (cluster.into(), node.into())));
    let shown = json::of(mesh.clustermesh(&["identity", "show", "app=echo", "--context", "a"]));
    let clusters: BTreeSet<&str> = shown["identities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["cluster"].as_str().unwrap())
        .collect();
    assert_eq!(clusters, BTreeSet::from(["a", "b"]));
    let number = shown["identities"][0]["number"].to_string();
    let by_id = json::of(mesh.clustermesh(&["identity", "show", &number, "--context", "a"]));
    assert_eq!(by_id["identities"][0], shown["identities"][0]);
    let (code, _, complaint) =
        json::run(mesh.clustermesh(&["identity", "show", "1", "--context", "a"]));
    assert!(
        code == 1 && complaint.contains("no agent that answers knows an identity 1"),
        "{complaint}"
    );
}
