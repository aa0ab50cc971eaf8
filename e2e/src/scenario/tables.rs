//! Tables with other sizes and layouts, and full tables.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::echo_service::{
    CLIENT, ECHO, agent_status, client_ips, two_clusters_with_echo, wait_for_backends,
    wait_for_backends_in,
};
use crate::{
    json,
    kernel::services,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, eventually, wait_ready},
};

/// The agent on the client's node restarts with larger tables, with smaller ones, and with tables that are too small for
/// the current entries: with these it refuses to start. No request fails.
pub fn tables_get_other_sizes_under_load(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.nodes(&one)[0].clone();
    let agent = Daemon::Agent(one.clone(), node.clone());
    let pins = mesh.pins(&one, &node);
    let before = services(&pins);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    for (flag, size) in [
        ("CLUSTERMESH_MAX_SLOTS", 2_097_152),
        ("CLUSTERMESH_MAX_BACKENDS", 1_024),
        ("CLUSTERMESH_MAX_SERVICES", 200_000),
    ] {
        mesh.stop(&agent);
        mesh.start_with(&agent, (flag, &size.to_string()));
        wait_ready(mesh);
        wait_for_backends(mesh, &[&one, &other]);
        assert_eq!(services(&pins), before, "{flag}={size}");
        assert_eq!(tables(&pins).len(), 1, "the former tables are gone");
        let status = agent_status(mesh, &one, &node);
        let sizes = status["tables"].as_array().expect("tables").iter();
        assert!(sizes.clone().any(|table| table["size"] == size), "{status:#}");
    }
    mesh.stop(&agent);
    mesh.start_with(&agent, ("CLUSTERMESH_MAX_BACKENDS", "2"));
    eventually("it does not start", || {
        let status = agent_status(mesh, &one, &node);
        if status["error"].is_string() { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(services(&pins), before, "the previous tables stay in use");
    mesh.stop(&agent);
    mesh.start(&agent);
    wait_ready(mesh);
    wait_for_backends(mesh, &[&one, &other]);
    assert_eq!(services(&pins), before);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.len(), 2, "{report:#?}");
}

/// The agent on the client's node finds tables of another release, which it cannot read. Programs continue to use these
/// until the agent has filled its own. It waits with that while the local cluster's etcd does not run and there is no
/// snapshot.
pub fn tables_of_another_release_are_replaced_under_load(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.nodes(&one)[0].clone();
    let agent = Daemon::Agent(one.clone(), node.clone());
    let pins = mesh.pins(&one, &node);
    let before = services(&pins);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let leave_another_layout = || {
        mesh.stop(&agent);
        let [folder] = <[PathBuf; 1]>::try_from(tables(&pins)).expect("one folder with tables");
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
        let (_, sizes) = name.split_once('-').expect("a layout and sizes");
        let strange = folder.with_file_name(format!("deadbeef-{sizes}"));
        fs::rename(&folder, &strange).expect("the tables get another layout's name");
        strange
    };
    let strange = leave_another_layout();
    mesh.start(&agent);
    wait_ready(mesh);
    wait_for_backends(mesh, &[&one, &other]);
    assert_eq!((services(&pins), strange.exists()), (before.clone(), false));

    let strange = leave_another_layout();
    mesh.stop(&Daemon::Etcd(one.clone()));
    fs::remove_dir_all(mesh.state_dir(&one, &node).join("snapshots")).expect("snapshots");
    mesh.start(&agent);
    eventually("the agent reports what it waits for", || {
        let status = agent_status(mesh, &one, &node);
        let waits = "the programs and tables of another release are still in place";
        if says(&status, &[waits, "the local cluster"]) { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!((services(&pins), strange.exists()), (before.clone(), true));
    mesh.start(&Daemon::Etcd(one.clone()));
    wait_ready(mesh);
    wait_for_backends(mesh, &[&one, &other]);
    assert_eq!((services(&pins), strange.exists()), (before, false));
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.len(), 2, "{report:#?}");
}

/// A table is full. The status names the table and the service, existing backends work, and the others are added when there
/// is room, without a restart.
pub fn a_full_table_is_named_and_filled_when_there_is_room(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.nodes(&one)[0].clone();
    let agent = Daemon::Agent(one.clone(), node.clone());
    let backends = |status: &Value| {
        let tables = status["tables"].as_array().expect("tables").clone();
        let table = tables.into_iter().find(|table| table["name"] == "cm_backends");
        table.expect("backends").clone()
    };
    let used = backends(&agent_status(mesh, &one, &node))["used"].as_u64().expect("a number");
    let size = used.next_power_of_two();
    mesh.stop(&agent);
    mesh.start_with(&agent, ("CLUSTERMESH_MAX_BACKENDS", &size.to_string()));
    wait_ready(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);

    // A pod of echo has four backends: TCP and UDP, in both families.
    let more = u32::try_from((size - used) / 4 + 1).expect("a few");
    // Add pods of the local cluster, which may use the room that peers leave.
    mesh.apply(&one, "echo", Some(2 + more));
    let at_least = format!("set --max-backends to at least {}", 2 * size);
    let status = eventually("the table and the service are named", || {
        let status = agent_status(mesh, &one, &node);
        let names = ["default/echo", "cannot be added", "cm_backends is full", &at_least];
        match says(&status, &names) && says(&status, &["cm_backends", "full"]) {
            true => Ok(status),
            false => Err(status.to_string()),
        }
    });
    assert_eq!(backends(&status)["flag"], "--max-backends", "{status:#}");
    assert_eq!(backends(&status)["size"], size, "{status:#}");
    let explained = explained(mesh, &one);
    let left_out = explained.iter().filter(|backend| backend["why"] == "not-programmed");
    let said: Vec<&Value> = left_out.map(|backend| &backend["reason"]).collect();
    let is_named = |said: &&Value| said.to_string().contains("--max-backends");
    assert!(!said.is_empty() && said.iter().all(is_named), "{explained:#?}");

    mesh.apply(&other, "echo", Some(1));
    wait_for_backends_in(mesh, &one, &[&one, &other]);
    eventually("nothing is missing any more", || {
        let status = agent_status(mesh, &one, &node);
        if says(&status, &["cannot be added"]) { Err(status.to_string()) } else { Ok(()) }
    });
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}

/// All backends of the echo service in `service explain` of the first node's agent.
fn explained(mesh: &impl Mesh, cluster: &str) -> Vec<Value> {
    let node = &mesh.nodes(cluster)[0];
    let args = ["service", "explain", ECHO, "--context", cluster, "--node", node];
    let (_, explained, _) = json::run(mesh.clustermesh(&args));
    let frontends = explained["frontends"].as_array().cloned().unwrap_or_default();
    let lists = ["inUse", "fallback", "leftOut"];
    let backends = |frontend: &Value| {
        lists.map(|list| frontend[list].as_array().cloned().unwrap_or_default()).concat()
    };
    frontends.iter().flat_map(backends).collect()
}

/// The folders with tables below a pin root.
fn tables(pins: &std::path::Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(pins).expect("pins").flatten().map(|entry| entry.path());
    folders.filter(|folder| folder.join("cm_services").exists()).collect()
}

/// Whether one of an agent's problems contains all these texts.
fn says(status: &Value, words: &[&str]) -> bool {
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let problems = problems.iter().filter_map(Value::as_str);
    problems.into_iter().any(|problem| words.iter().all(|word| problem.contains(word)))
}
