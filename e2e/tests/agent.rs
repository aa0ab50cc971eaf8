//! Agents that start, are killed or stopped, or run out of table space while there is traffic. Needs root.

#![allow(clippy::expect_used, reason = "all of this is test code")]

use std::{
    collections::BTreeMap, fs, os::unix::fs::DirEntryExt as _, path::PathBuf, process::Command,
};

use mesh_e2e::{
    Daemon, Mesh as _, Netns, Traffic, echo_service,
    mesh::{eventually, output, wait_ready},
    scenario,
};

#[test]
fn cold_start() {
    scenario::a_node_starts_from_its_snapshot(&Netns::up("e2ecold"));
}

#[test]
fn quarantine() {
    scenario::a_peer_over_its_budget_costs_nothing_more(&Netns::up("e2equar"));
}

#[test]
fn ten_kills() {
    scenario::traffic_outlives_ten_kills_of_an_agent(&Netns::up("e2edeaths"));
}

#[test]
fn stopped_agents() {
    scenario::agents_that_are_stopped_leave_everything(&Netns::up("apistop"));
}

#[test]
fn other_table_sizes() {
    scenario::tables_get_other_sizes_under_load(&Netns::up("e2esizes"));
}

#[test]
fn tables_of_another_release() {
    scenario::tables_of_another_release_are_replaced_under_load(&Netns::up("e2erelease"));
}

#[test]
fn full_table() {
    scenario::a_full_table_is_named_and_filled_when_there_is_room(&Netns::up("e2etable"));
}

#[test]
fn churn() {
    scenario::an_agent_starts_while_pods_are_removed(&Netns::up("e2echurn"));
}

/// The text of a node's `/readyz`.
fn readiness(mesh: &Netns, node: &str) -> Result<String, String> {
    let ask = "exec 3<>/dev/tcp/127.0.0.1/9981; printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3; cat <&3";
    output(mesh.on_node("a", node, &["timeout", "5", "bash", "-c", ask]))
}

/// The pins of a node's programs, with their inodes: a pin that is made again has another.
fn links(mesh: &Netns, node: &str) -> BTreeMap<PathBuf, u64> {
    let links = fs::read_dir(mesh.pins("a", node).join("links")).expect("links are pinned");
    links.flatten().map(|link| (link.path(), link.ino())).collect()
}

/// An agent in a cgroup namespace of its own, as in a container, sees its own cgroup as the root. It attaches nothing there,
/// takes nothing away that another agent attached, and says what is missing.
#[test]
fn a_nested_cgroup_namespace() {
    let mesh = Netns::up("e2ecgroupns");
    echo_service::two_clusters_with_echo(&mesh);
    let traffic = Traffic::start(&mesh, "a", echo_service::CLIENT, echo_service::ECHO);
    let agent = Daemon::Agent("a".into(), "n1".into());
    let before = links(&mesh, "n1");
    let name = mesh_e2e::netns::process(&agent);
    let processes = mesh.state().processes;
    let process = processes.iter().find(|process| process.name == name).expect("the agent's");
    mesh.stop(&agent);

    let root = tempfile::tempdir().expect("a folder");
    let log = tempfile::tempfile().expect("a file");
    let script = "echo 0 >\"$0/cgroup.procs\" && exec unshare --cgroup --mount sh -c \
                  'mount -t cgroup2 none \"$0\" && exec \"$@\"' \"$@\"";
    let mut nested = Command::new("nsenter");
    nested.arg(format!("--net=/run/netns/{}", process.netns)).args(["sh", "-c", script]);
    nested.arg(&process.cgroup).arg(root.path());
    nested.args(process.command.iter().filter(|word| !word.starts_with("--cgroup-root=")));
    nested.arg(format!("--cgroup-root={}", root.path().display()));
    let mut nested = nested.stdout(log).spawn().expect("nsenter runs");

    let why = eventually("the agent says what is missing", || {
        let text = readiness(&mesh, "n1")?;
        if text.contains("not attached") { Ok(text) } else { Err(text) }
    });
    assert!(why.contains(" 503 ") && why.contains("only the agent's own processes"), "{why}");
    assert!(why.contains("mount the node's /sys/fs/cgroup"), "{why}");
    assert_eq!(links(&mesh, "n1"), before, "what the former agent attached");
    nested.kill().and_then(|()| nested.wait()).expect("the agent ends");

    mesh.start(&agent);
    wait_ready(&mesh);
    assert_eq!(links(&mesh, "n1"), before);
    traffic.stop_unharmed();
}
