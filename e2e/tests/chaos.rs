//! Random faults, none of which makes a difference. Needs root.

use std::process::Command;

use mesh_e2e::{json, netns::binary};
use serde_json::Value;

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
}

#[test]
fn one_seed() {
    campaign("e2echaos1", "1", "1");
}

#[test]
fn another() {
    campaign("e2echaos2", "4", "2");
}
