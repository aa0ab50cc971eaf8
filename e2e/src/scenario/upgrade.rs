//! Agents of an earlier release and of this one alternate on a node.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{
    echo_service::{
        CLIENT, ECHO, agent_status, client_ips, two_clusters_with_echo, wait_for_backends,
    },
    kernel::services,
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, wait_ready},
    release::Releases,
};

/// All agents belong to the release before groups of maps had their own layouts. Under load, the agent on the client's node
/// is replaced by ours, by the earlier one, and by ours again. No request fails, the tables stay equal, and each agent
/// removes what only the other one uses. The mesh must use the executables in `releases`, with the earlier agent.
pub fn agents_of_the_release_before_groups_take_turns(mesh: &impl Mesh, releases: &Releases) {
    let (one, other) = two_clusters_with_echo(mesh);
    let node = mesh.nodes(&one)[0].clone();
    let agent = Daemon::Agent(one.clone(), node.clone());
    let pins = mesh.pins(&one, &node);
    let before = services(&pins);
    assert_eq!(folders(&pins), ["691c730a", "links", "sockets"]);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    let mut translated = 0;
    for turn in 0..3 {
        let ours = turn % 2 == 0;
        mesh.stop(&agent);
        if ours {
            releases.use_current()
        } else {
            releases.use_earlier()
        }
        mesh.start(&agent);
        wait_ready(mesh);
        wait_for_backends(mesh, &[&one, &other]);
        assert_eq!(services(&pins), before);
        let expected: &[&str] = match ours {
            true => &["affinity", "counters", "health", "lb", "links", "sockets", "state"],
            false => &["691c730a", "links", "sockets"],
        };
        assert_eq!(folders(&pins), expected);
        let status = agent_status(mesh, &one, &node);
        assert_eq!(status["tables"][0]["name"], "cm_services", "{status:#}");
        if ours {
            // An agent that starts again continues the counters.
            translated = status["counters"]["translated"].as_u64().expect("a number");
            mesh.stop(&agent);
            mesh.start(&agent);
            wait_ready(mesh);
            let after = agent_status(mesh, &one, &node)["counters"]["translated"].clone();
            assert!(after.as_u64().expect("a number") > translated, "{after} after {translated}");
        }
    }
    assert!(translated > 0);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
    assert_eq!(report.clusters.len(), 2, "{report:#?}");
}

/// The folders below a pin root, without hashes and sizes of layouts.
fn folders(pins: &Path) -> Vec<String> {
    let entries = fs::read_dir(pins).expect("pins").flatten();
    let name = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.split('-').next().unwrap_or_default().to_owned()
    };
    // Links at interfaces are made a moment later, when the node's addresses are known.
    let names = entries.map(name).filter(|name| name != "probe");
    names.collect::<BTreeSet<_>>().into_iter().collect()
}
