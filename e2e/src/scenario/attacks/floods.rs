//! Ten times what a budget allows, of keys and of changes a second.

use mesh_wire::peer_file::Budget;

use super::{Victims, followed};
use crate::{
    etcdctl, json,
    mesh::Mesh,
    scenario::quarantine::{lift, set_budget, wait_for_quarantine},
};

/// How many records the flood has, each one a key and a change; and the budgets, a tenth of it.
const FLOOD: u64 = 400;
/// The first of its identities, all of which the hostile cluster may have.
const FIRST: u64 = 200_000;

/// Each flood ends in quarantine, is shown as that, and lifted.
pub(super) fn are_stopped(mesh: &impl Mesh, victims: &Victims, unharmed: &dyn Fn(&str)) {
    let hostile = &victims.hostile;
    // Changes are counted over ten seconds.
    let keys = Budget { keys: Some(FLOOD / 10), ..Budget::default() };
    let changes = Budget { changes_per_second: Some(FLOOD / 100), ..Budget::default() };
    for (budget, word) in [(keys, "records"), (changes, "changes")] {
        println!("ten times its budget of {word}");
        followed(mesh, victims);
        for cluster in &victims.honest {
            set_budget(mesh, cluster, hostile, budget.clone());
        }
        let key = |n: u64| format!("cilium/state/identities/v1/id/{}", FIRST + n);
        let labels = format!("k8s:io.cilium.k8s.policy.cluster={hostile};");
        let writes: Vec<(String, &str)> = (0..FLOOD).map(|n| (key(n), labels.as_str())).collect();
        etcdctl::put_many(mesh, hostile, &writes);
        for cluster in &victims.honest {
            wait_for_quarantine(mesh, cluster, hostile, word);
        }
        unharmed(word);
        etcdctl::run(mesh, hostile, &["del", &key(0), &key(FLOOD)]);
        for cluster in &victims.honest {
            lift(mesh, cluster, hostile);
        }
        followed(mesh, victims);
        for cluster in &victims.honest {
            set_budget(mesh, cluster, hostile, Budget::default());
        }
        let (_, status, _) = json::run(mesh.clustermesh(&["status"]));
        assert!(!status.to_string().contains("over its budget"), "{status:#}");
    }
}
