//! An etcd whose quota is exhausted.

use crate::echo_service::{CLIENT, ECHO, client_ips, two_clusters_with_echo, wait_for_history};
use crate::{
    etcdctl, json,
    load::{Assert as _, Traffic},
    mesh::{Mesh, eventually, output, wait_ready},
};

/// The size of each value that fills the etcd, in bytes.
const CHUNK: usize = 512 * 1024;

/// The apiserver reports NOSPACE, readers keep their state, and changes made meanwhile arrive when there is room again. The
/// etcds of `mesh` have a quota of a few megabytes.
pub fn an_etcd_is_full(mesh: &impl Mesh) {
    let (one, other) = two_clusters_with_echo(mesh);
    let traffic = Traffic::start(mesh, &one, CLIENT, ECHO);
    // Fill it with unused keys, until the etcd raises its alarm.
    let mut key = 0;
    eventually("the etcd is full", || {
        key += 1;
        etcdctl::try_put(mesh, &other, &format!("filler/{key}"), &vec![b'x'; CHUNK])
            .err()
            .filter(|complaint| complaint.contains("database space exceeded"))
            .map(|_| ())
            .ok_or_else(|| format!("{key} keys were accepted"))
    });
    mesh.apply(&other, "echo", Some(3));
    eventually("the apiserver reports the reason", || {
        let (_, status, _) = json::run(mesh.clustermesh(&["status", "--context", &other]));
        let apiserver = status["clusters"][0]["apiserver"].to_string();
        if apiserver.contains("NOSPACE") { Ok(()) } else { Err(apiserver) }
    });
    let (code, history, _) = json::run(mesh.check_history().expect("a history"));
    assert_eq!(code, 3, "only the new pod is missing: {history:#}");
    for difference in history["history"]["differences"].as_array().expect("differences") {
        assert_eq!(difference["strange"].as_array().map(Vec::len), Some(0), "{difference:#}");
        assert_eq!(difference["missing"].as_array().map(Vec::len), Some(1), "{difference:#}");
    }

    etcdctl::run(mesh, &other, &["del", "--prefix", "filler/"]);
    etcdctl::compact(mesh, &other);
    etcdctl::run(mesh, &other, &["defrag"]);
    output(mesh.etcdctl(&other, &["alarm", "disarm"])).expect("there is room again");
    wait_ready(mesh);
    wait_for_history(mesh);
    let report = traffic.stop_unharmed();
    report.assert_clients(&client_ips(mesh, &one));
}
