//! An agent starts while the records of a distant cluster change all the time.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_history},
    load::{Assert as _, Traffic},
    mesh::{Daemon, Mesh, wait_ready},
};

/// The number of pods at first, and the interval in which one is removed.
const PODS: usize = 600;
const PERIOD: Duration = Duration::from_millis(50);
/// The delay each way between the reader and the other cluster's etcd: a round trip takes 100 ms.
const DELAY_MILLIS: u32 = 50;

/// A pod of the other cluster is removed every 50 ms, over a link with a round trip of 100 ms, while an agent starts
/// without any state. The agent is ready before the removals end, no request fails, and every kernel ends with the
/// remaining pods.
pub fn an_agent_starts_while_pods_are_removed(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let folder = mesh.manifests(&other);
    let file = |pod: usize| folder.join(format!("churn-{pod}.json"));
    for cluster in [&one, &other] {
        fs::write(mesh.manifests(cluster).join("churn.json"), service(cluster))
            .expect("a manifest");
    }
    (0..PODS).for_each(|pod| fs::write(file(pod), self::pod(pod)).expect("a manifest"));
    wait_for_history(mesh);
    mesh.delay(&one, &format!("{other}/etcd"), DELAY_MILLIS);
    wait_ready(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);

    let node = mesh.nodes(&one)[1].clone();
    let agent = Daemon::Agent(one.clone(), node.clone());
    mesh.stop(&agent);
    // Delete its state of other clusters.
    let snapshots = mesh.state_dir(&one, &node).join("snapshots");
    fs::remove_dir_all(&snapshots).unwrap_or_else(|e| panic!("{}: {e}", snapshots.display()));
    let stop = AtomicBool::new(false);
    let (ready, removed) = thread::scope(|scope| {
        let removing = scope.spawn(|| {
            let began = Instant::now();
            for pod in 0..PODS - 1 {
                if stop.load(Ordering::Relaxed) {
                    return pod;
                }
                fs::remove_file(file(pod)).expect("the manifest is there");
                let next = PERIOD * u32::try_from(pod + 1).expect("few");
                thread::sleep(next.saturating_sub(began.elapsed()));
            }
            PODS - 1
        });
        let began = Instant::now();
        mesh.start(&agent);
        wait_ready(mesh);
        let ready = began.elapsed();
        assert!(!removing.is_finished(), "it was ready after all was removed: {ready:?}");
        stop.store(true, Ordering::Relaxed);
        (ready, removing.join().expect("it removes"))
    });
    println!("ready after {} ms, while {removed} pods were removed", ready.as_millis());
    mesh.heal();
    wait_for_history(mesh);
    traffic.stop_unharmed().assert_clients(&client_ips(mesh, &one));
}

/// A global service of the removed pods. Each cluster has its own cluster IP.
fn service(cluster: &str) -> String {
    // The lab numbers clusters from 1, and names them by letters.
    let number = cluster.as_bytes()[0] - b'a' + 1;
    let ip = format!("fd00:100:{number}::f000");
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "churn", "namespace": "default",
            "annotations": { "service.cilium.io/global": "true" },
        },
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv6"],
            "selector": { "app": "churn" }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
        },
    })
    .to_string()
}

/// The manifest of a pod of the second cluster. There is no such process.
fn pod(number: usize) -> String {
    let ip = format!("fd00:10:2:2::{:x}", 0x1000 + number);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("churn-{number}"), "namespace": "default", "labels": { "app": "churn" },
        },
        "spec": { "nodeName": "n2" },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
    .to_string()
}
