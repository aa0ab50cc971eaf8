//! Random faults, none of which makes a difference. Needs root.

use std::process::{Command, Stdio};

use mesh_e2e::{Mesh as _, Netns, etcdctl, json, mesh, netns::binary};
use serde_json::{Value, json};

fn campaign(lab: &str, seed: &str, replicas: &str) {
    let mut chaos = Command::new(binary());
    chaos.args(["lab", "chaos", "--lab", lab, "--seed", seed, "--faults", "8"]);
    chaos.args(["--replicas", replicas]);
    let (code, found, complaint) = json::run(chaos);
    assert_eq!(code, 0, "{found:#} {complaint}");
    assert_eq!(
        found.pointer("/survived").and_then(Value::as_array).map(Vec::len),
        Some(8),
        "{found:#}"
    );
    // Seeds are chosen so that these are among the faults: services look for backends near their clients.
    let survived = found["survived"].to_string();
    for kind in ["give ", "move "] {
        assert!(
            survived.contains(&format!("\"fault\":\"{kind}")),
            "no {kind}: choose another seed"
        );
    }
}

#[test]
fn one_seed() {
    campaign("e2echaos1", "5", "1");
}

#[test]
fn another() {
    campaign("e2echaos2", "13", "2");
}

/// `lab check-history --record`: what happens meanwhile is reported as etcds promise, and comes down to the kernels.
#[test]
fn a_lab_is_recorded() {
    let mesh = Netns::sized("e2erecord", 2, 1);
    mesh.apply("a", "echo", None);
    mesh::connect(&mesh, "a", "b");
    let mut record = mesh.lab("check-history");
    record.args(["--wait", "--record", "4", "--output", "json"]).stdout(Stdio::piped());
    let mut recording = record.spawn().expect("it starts");
    // However long pods and commands take here: it goes on until the recording is over.
    for replicas in [1, 3, 2].into_iter().cycle() {
        for n in 0..5 {
            etcdctl::put(&mesh, "a", &format!("cilium/elsewhere/{n}"), b"x");
            etcdctl::run(&mesh, "a", &["del", "--prefix", "cilium/elsewhere/"]);
        }
        mesh.apply("a", "echo", Some(replicas));
        if recording.try_wait().expect("its state").is_some() {
            break;
        }
    }
    let output = recording.wait_with_output().expect("it ends");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success(), "{found:#}");
    let recorded = found["recorded"].as_array().expect("what was recorded");
    assert_eq!(recorded.len(), 2, "{found:#}");
    assert_eq!(found["equal"], true);
    for etcd in recorded {
        assert_eq!((&etcd["violations"], &etcd["watches"]), (&json!([]), &json!(3)), "{found:#}");
    }
    assert!(recorded[0]["events"].as_u64() > Some(10), "{found:#}");
}
