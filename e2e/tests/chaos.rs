//! Random faults. Each guarantee must hold throughout, and the mesh must recover from each fault. Needs root.

use std::process::{Command, Stdio};

use mesh_e2e::{Mesh as _, Netns, etcdctl, json, mesh, netns::binary};
use serde_json::{Value, json};

fn campaign(lab: &str, seed: &str, replicas: &str) {
    let mut chaos = Command::new(binary());
    chaos.args(["lab", "chaos", "--lab", lab, "--seed", seed, "--faults", "8"]);
    chaos.args(["--replicas", replicas]);
    let (code, found, complaint) = json::run(chaos);
    assert_eq!(code, 0, "{found:#} {complaint}");
    let survived = found.get("survived");
    assert_eq!(survived.and_then(Value::as_array).map(Vec::len), Some(8), "{found:#}");
    // Seeds are chosen so that these are among the faults: services look for backends near their clients.
    let survived = survived.map(ToString::to_string).unwrap_or_default();
    for kind in ["give ", "move "] {
        assert!(
            survived.contains(&format!("\"fault\":\"{kind}")),
            "no {kind}: choose another seed"
        );
    }
}

#[test]
fn faults_with_one_replica() {
    campaign("e2echaos1", "5", "1");
}

#[test]
fn faults_with_two_replicas() {
    campaign("e2echaos2", "13", "2");
}

/// `lab check-history --record`: the watches of both etcds keep their guarantees meanwhile, and the changes reach all
/// kernels.
#[test]
fn recorded_watches_keep_their_guarantees() {
    let mesh = Netns::sized("e2erecord", 2, 1);
    mesh.apply("a", "echo", None);
    mesh::connect(&mesh, "a", "b");
    let mut record = mesh.lab("check-history");
    record.args(["--wait", "--record", "4", "--output", "json"]).stdout(Stdio::piped());
    let mut recording = record.spawn().expect("the command starts");
    // The changes go on until the recording is over, however long each takes.
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
    let output = recording.wait_with_output().expect("the command ends");
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
