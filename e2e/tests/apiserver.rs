//! The real apiserver with a real etcd, under the failures that they can have. The apiserver reports each in its readiness,
//! status and metrics, and recovers without a restart. `etcdctl` reads the results.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    process::Command,
    time::{Duration, SystemTime},
};

use mesh_certs::{Ca, ClusterPki, Profile};
use mesh_e2e::{
    Apiserver, Etcd, Relay,
    apiserver::{node, service},
    etcd::base64,
    mesh::within,
};
use nix::{
    fcntl::{Flock, FlockArg, OFlag, open},
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::Value;

/// Longer than the apiserver's longest pause between two attempts.
const PATIENCE: Duration = Duration::from_secs(60);
const NODE: &str = "cilium/state/nodes/v1/a/n1";
const OTHER_NODE: &str = "cilium/state/nodes/v1/a/n2";
const HISTORY: &str = "cilium/.heartbeat.history";
const LOCAL_POSITION: &str = "clustermesh/local/v1/position";
const CANARY: &str = "cilium/synced/a/cilium/state/nodes/v1";

fn admin(etcd: &Etcd, args: &[&str]) -> String {
    etcd.etcdctl("admin", args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// A key's value; `None` if the key does not exist.
fn get(etcd: &Etcd, key: &str) -> Option<String> {
    let found = admin(etcd, &["get", "--print-value-only", "--", key]);
    (!found.is_empty()).then(|| found.trim_end().to_owned())
}

/// All keys below a prefix, each with the revision of its last put.
fn revisions(etcd: &Etcd, prefix: &str) -> BTreeMap<String, i64> {
    let found = admin(etcd, &["get", "--prefix", "--write-out=json", prefix]);
    let found: Value = serde_json::from_str(&found).unwrap();
    let keys = found["kvs"].as_array().cloned().unwrap_or_default();
    let key = |kv: &Value| {
        let key = base64(kv["key"].as_str().unwrap());
        (key, kv["mod_revision"].as_i64().unwrap())
    };
    keys.iter().map(key).collect()
}

/// How often a key was put since it was created; 0 if it does not exist.
fn version(etcd: &Etcd, key: &str) -> u64 {
    let found = admin(etcd, &["get", "--write-out=json", key]);
    let found: Value = serde_json::from_str(&found).unwrap();
    found["kvs"][0]["version"].as_u64().unwrap_or_default()
}

/// Waits until the apiserver has put its heartbeat and its position `times` times more.
fn wait_for_heartbeats(etcd: &Etcd, times: u64) {
    let before = [LOCAL_POSITION, "cilium/.heartbeat"].map(|key| (key, version(etcd, key)));
    for (key, before) in before {
        within(PATIENCE, &format!("{key} is put"), || match version(etcd, key) {
            now if now >= before + times => Ok(()),
            now => Err(format!("{before}, then {now}")),
        });
    }
}

/// An apiserver with a heartbeat every second.
fn with_fast_heartbeat(etcd: &Etcd, port: u16) -> Apiserver {
    Apiserver::wrapped(etcd, port, &["env", "CLUSTERMESH_HEARTBEAT_SECONDS=1"])
}

/// The etcd's current revision.
fn revision(etcd: &Etcd) -> String {
    let status = admin(etcd, &["endpoint", "status", "--write-out=json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    status[0]["Status"]["header"]["revision"].to_string()
}

/// Waits until a key exists, and returns its value.
fn wait_for(etcd: &Etcd, key: &str) -> String {
    within(PATIENCE, &format!("{key} is there"), || get(etcd, key).ok_or_else(|| "no".into()))
}

/// Waits until a key does not exist.
fn wait_gone(etcd: &Etcd, key: &str) {
    within(PATIENCE, &format!("{key} is gone"), || get(etcd, key).map_or(Ok(()), Err));
}

fn ready(etcd: &Etcd) -> Apiserver {
    let apiserver = Apiserver::start(etcd);
    apiserver.wait_ready();
    wait_for(etcd, NODE);
    apiserver
}

#[test]
fn the_apiserver_waits_for_an_etcd_that_is_down() {
    let mut etcd = Etcd::protected(&[]);
    let apiserver = ready(&etcd);
    assert_eq!(apiserver.trouble("away"), (false, 0));
    etcd.kill();
    apiserver.wait_unready("etcd: away: tcp: 127.0.0.1 port");
    assert!(matches!(apiserver.trouble("away"), (true, 1..)));
    let failure = apiserver.status()["store"]["failure"].to_string();
    assert!(failure.contains("refused"), "{failure}");
    apiserver.apply("other", &node("n2"));
    etcd.start_again();
    apiserver.wait_ready();
    wait_for(&etcd, OTHER_NODE);
    assert!(!apiserver.trouble("away").0, "the failure is over");
}

#[test]
fn a_slow_etcd_is_reported_and_the_apiserver_waits_for_it() {
    let etcd = Etcd::protected(&[]);
    let relay = Relay::to(etcd.port());
    let apiserver = Apiserver::at(&etcd, relay.port());
    apiserver.wait_ready();
    relay.hold_after(0);
    apiserver.apply("other", &node("n2"));
    apiserver.wait_unready("etcd: slow: no answer to ");
    assert!(matches!(apiserver.trouble("slow"), (true, 1..)));
    relay.release();
    apiserver.wait_ready();
    wait_for(&etcd, OTHER_NODE);
    assert!(!apiserver.trouble("slow").0);
    assert_eq!(apiserver.trouble("away"), (false, 0), "the connection was never given up");
}

#[test]
fn a_hanging_etcd_is_reported_also_by_an_apiserver_that_starts_then() {
    let etcd = Etcd::protected(&[]);
    let mut apiserver = ready(&etcd);
    etcd.signal(Signal::SIGSTOP);
    // The apiserver reports it long before it finds the connection broken.
    apiserver.wait_unready("etcd: slow: no answer to ");
    let status = apiserver.status();
    assert!(status["ready"] == false && status["state"] == "notReady", "{status:#}");
    apiserver.kill();
    apiserver.start_again();
    apiserver.wait_unready("takes the connection and sends nothing for 5s: the etcd hangs");
    etcd.signal(Signal::SIGCONT);
    apiserver.wait_ready();
    assert_eq!(apiserver.status()["state"], "ready");
}

#[test]
fn a_full_etcd_is_reported_and_gets_the_pending_writes_once_it_has_space() {
    let etcd = Etcd::protected(&["--quota-backend-bytes", "4194304"]);
    let apiserver = ready(&etcd);
    let chunk = "x".repeat(100_000);
    within(PATIENCE, "the etcd is full", || {
        let key = format!("filler/{:?}", SystemTime::now());
        let put = etcd.etcdctl("admin", &["put", &key, &chunk]).err();
        put.filter(|error| error.contains("space exceeded"))
            .map(drop)
            .ok_or("the etcd accepted the value".into())
    });
    apiserver.apply("other", &node("n2"));
    apiserver.wait_unready("etcd: full: the etcd's space is exhausted (NOSPACE)");
    assert!(matches!(apiserver.trouble("full"), (true, 1..)));
    assert!(get(&etcd, NODE).is_some(), "existing keys stay");

    admin(&etcd, &["del", "--prefix", "filler/"]);
    admin(&etcd, &["compact", "--physical", &revision(&etcd)]);
    admin(&etcd, &["defrag"]);
    admin(&etcd, &["alarm", "disarm"]);
    apiserver.wait_ready();
    wait_for(&etcd, OTHER_NODE);
    assert!(!apiserver.trouble("full").0);
}

/// Puts `count` keys with long values, as a predecessor could have left them: more than a page of a list.
fn leave_stale_keys(etcd: &Etcd, count: usize) {
    let value = "x".repeat(400);
    let put = |n: &usize| format!("put cilium/state/services/v1/a/stale/s{n:05} \"{value}\"\n");
    for batch in (0..count).collect::<Vec<_>>().chunks(100) {
        // The three parts that `etcdctl txn` reads: no comparisons, the operations on success, no operations on failure.
        let text = format!("\n{}\n\n\n", batch.iter().map(put).collect::<String>());
        etcd.etcdctl_fed("admin", &["txn"], &text).unwrap();
    }
}

#[test]
fn a_compaction_during_the_comparison_restarts_it() {
    let etcd = Etcd::protected(&[]);
    leave_stale_keys(&etcd, 3_000);
    let relay = Relay::to(etcd.port());
    // In bytes: enough for the users and roles and for the first page of the list, but not for the second.
    relay.hold_after(200_000);
    let apiserver = Apiserver::at(&etcd, relay.port());
    within(PATIENCE, "the list is under way", || match relay.is_held() {
        true => Ok(()),
        false => Err(apiserver.unready()),
    });
    admin(&etcd, &["put", "something", "else"]);
    admin(&etcd, &["compact", &revision(&etcd)]);
    relay.release();
    apiserver.wait_ready();
    wait_for(&etcd, NODE);
    assert!(matches!(apiserver.trouble("compacted"), (false, 1..)), "{}", apiserver.log_text());
    assert_eq!(revisions(&etcd, "cilium/state/services/v1/a/stale/").len(), 0);
}

#[test]
fn an_etcd_that_lost_its_data_is_filled_and_gets_another_history() {
    let mut etcd = Etcd::protected(&[]);
    let apiserver = ready(&etcd);
    let first = wait_for(&etcd, HISTORY);
    etcd.kill();
    let backup = etcd.folder().join("backup");
    copy(&etcd, &etcd.data(), &backup);
    // The etcd starts with no data.
    fs::remove_dir_all(etcd.data()).unwrap();
    etcd.start_again();
    wait_for(&etcd, NODE);
    apiserver.wait_ready();
    apiserver.wait_problem("its data was lost or restored from a backup");
    assert_eq!(apiserver.trouble("data-lost"), (false, 1));
    let second = wait_for(&etcd, HISTORY);
    assert_ne!(first, second);
    assert!(etcd.etcdctl("local", &["put", "x", "y"]).unwrap_err().contains("permission denied"));

    // The etcd starts with a backup: it has the name of its history, and an earlier revision.
    let created = |etcd: &Etcd| {
        let found = admin(etcd, &["get", "--write-out=json", CANARY]);
        let found: Value = serde_json::from_str(&found).unwrap();
        found["kvs"][0]["create_revision"].as_u64().unwrap()
    };
    for n in 0..50 {
        admin(&etcd, &["put", "age", &n.to_string()]);
    }
    apiserver.apply("other", &node("n2"));
    wait_for(&etcd, OTHER_NODE);
    // The apiserver records the etcd's revision every second.
    within(PATIENCE, "the position is put", || {
        let put = revisions(&etcd, "cilium/.heartbeat.position").into_values().next();
        put.filter(|revision| *revision > 50).map(drop).ok_or_else(|| "not yet".into())
    });
    etcd.kill();
    fs::remove_dir_all(etcd.data()).unwrap();
    fs::rename(&backup, etcd.data()).unwrap();
    apiserver.signal(Signal::SIGSTOP);
    etcd.start_again();
    let restored = created(&etcd);
    apiserver.signal(Signal::SIGCONT);
    wait_for(&etcd, OTHER_NODE);
    apiserver.wait_ready();
    assert_eq!(apiserver.trouble("data-lost"), (false, 2));
    assert!(![first, second].contains(&wait_for(&etcd, HISTORY)), "a third history");
    // Readers that know only Cilium's keys notice it by the new canary.
    assert_ne!(created(&etcd), restored);
}

fn copy(etcd: &Etcd, from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "{}", etcd.log_text());
}

#[test]
fn users_and_roles_that_another_client_changed_are_repaired() {
    let etcd = Etcd::protected(&[]);
    fs::write(etcd.folder().join("users.yaml"), "users:\n- {name: remote-b, role: remote}\n")
        .unwrap();
    let apiserver = ready(&etcd);
    etcd.certificate(&etcd.ca(), "root", "root");
    let root = |args: &[&str]| etcd.etcdctl("root", args).unwrap();
    let wanted = root(&["role", "get", "remote"]);

    root(&["auth", "disable"]);
    root(&["role", "grant-permission", "remote", "readwrite", "--prefix=true", "cilium/"]);
    root(&["user", "delete", "local-a"]);
    apiserver.wait_problem("authentication was off: every client could do everything");
    apiserver.wait_problem("the role remote had a permission too many");
    apiserver.wait_problem("there was no user local-a");
    assert!(matches!(apiserver.trouble("users"), (false, 3..)));
    assert_eq!(root(&["role", "get", "remote"]), wanted);
    assert!(etcd.etcdctl("local", &["put", "x", "y"]).unwrap_err().contains("permission denied"));
    apiserver.wait_ready();

    // No user other than those of the apiserver may have rights.
    root(&["user", "add", "ghost:pw"]);
    root(&["user", "grant-role", "ghost", "root"]);
    apiserver.wait_unready("etcd: users: unknown user ghost with role root");
    apiserver.wait_problem("restart the etcd with `clustermesh-apiserver etcd-init`");
    assert!(!root(&["user", "list"]).contains("ghost"));
    apiserver.wait_ready();

    // The apiserver cannot restore its lost rights. When root restores them, the apiserver goes on without a restart.
    root(&["user", "revoke-role", "admin-a", "root"]);
    apiserver.apply("other", &node("n2"));
    apiserver.wait_unready("etcd: denied: ");
    assert!(matches!(apiserver.trouble("denied"), (true, 1..)));
    root(&["user", "grant-role", "admin-a", "root"]);
    apiserver.wait_ready();
    wait_for(&etcd, OTHER_NODE);
    root(&["user", "delete", "admin-a"]);
    apiserver.apply("third", &node("n3"));
    apiserver.wait_unready("etcd: denied: ");
    root(&["user", "add", "--no-password", "admin-a"]);
    root(&["user", "grant-role", "admin-a", "root"]);
    apiserver.wait_ready();
    wait_for(&etcd, "cilium/state/nodes/v1/a/n3");
    assert!(!apiserver.trouble("denied").0);
}

#[test]
fn an_expired_certificate_is_reported_and_a_new_one_used() {
    let etcd = Etcd::protected(&[]);
    let issue = |lifetime| {
        let profile = Profile::Client { user: "admin-a".into() };
        let issued = etcd.ca().issue(&profile, SystemTime::now(), lifetime).unwrap();
        ClusterPki::new(&etcd.pki()).write("admin", &issued).unwrap();
    };
    // A connection ends two seconds before its certificate expires.
    issue(Duration::from_secs(8));
    let apiserver = ready(&etcd);
    apiserver.wait_unready("etcd: certificate: tls: ");
    assert!(matches!(apiserver.trouble("certificate"), (true, 1..)));
    apiserver.apply("other", &node("n2"));
    issue(Ca::ISSUED_LIFETIME);
    apiserver.wait_ready();
    wait_for(&etcd, OTHER_NODE);
    assert!(!apiserver.trouble("certificate").0);
}

#[test]
fn an_object_that_is_too_large_is_reported_and_blocks_no_other() {
    let etcd = Etcd::protected(&[]);
    let apiserver = ready(&etcd);
    let key = |name: &str| format!("cilium/state/services/v1/a/shop/{name}");
    let all = |large: usize| {
        let services = [("before", 10), ("large", large), ("then", 10)];
        let services = services
            .iter()
            .zip(1..)
            .map(|((name, length), n)| service(name, &format!("10.101.0.{n}"), *length));
        services.collect::<Vec<_>>().join("---\n")
    };
    // etcd accepts at most 1.5 MiB in a request.
    apiserver.apply("services", &all(1_600_000));
    wait_for(&etcd, &key("then"));
    wait_for(&etcd, &key("before"));
    apiserver.wait_problem("Service shop/large: the etcd does not accept");
    assert_eq!(get(&etcd, &key("large")), None);
    assert_eq!(apiserver.metric("clustermesh_apiserver_etcd_refused_keys"), 1);
    apiserver.wait_ready();

    apiserver.apply("services", &all(1_000_000));
    wait_for(&etcd, &key("large"));
    let no_problem = || {
        let problems = apiserver.status()["problems"].to_string();
        if problems == "[]" { Ok(()) } else { Err(problems) }
    };
    within(PATIENCE, "the object is exported", no_problem);

    // Too large again: the value that was exported before stays. Once the object is removed, so is the problem.
    apiserver.apply("services", &all(1_600_000));
    apiserver.wait_problem("Service shop/large");
    assert!(get(&etcd, &key("large")).is_some());
    apiserver.apply("services", &service("then", "10.101.0.3", 10));
    wait_gone(&etcd, &key("large"));
    within(PATIENCE, "the problem is gone", no_problem);
}

#[test]
fn pending_changes_are_written_before_the_apiserver_ends() {
    let etcd = Etcd::protected(&[]);
    let mut apiserver = ready(&etcd);
    // Repeated, because the notice from the folder's watcher may come by chance before the signal.
    for n in 2..6 {
        let before = revisions(&etcd, "cilium/");
        apiserver.apply(&format!("n{n}"), &node(&format!("n{n}")));
        apiserver.signal(Signal::SIGTERM);
        assert_eq!(apiserver.ended(), 0);
        let after = revisions(&etcd, "cilium/");
        assert!(after.contains_key(&format!("cilium/state/nodes/v1/a/n{n}")), "{after:#?}");
        let gone: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).collect();
        assert!(gone.is_empty(), "no key is removed: {gone:?}");
        let leases = admin(&etcd, &["lease", "list"]);
        assert!(
            leases.contains(&format!("found {} leases", n - 1)),
            "the leases are left: {leases}"
        );
        apiserver.start_again();
        apiserver.wait_ready();
    }
    // The etcd does not answer: the apiserver stops waiting after a while, and ends with exit code 0.
    let relay = Relay::to(etcd.port());
    apiserver.kill();
    let mut apiserver = Apiserver::at(&etcd, relay.port());
    apiserver.wait_ready();
    relay.hold_after(0);
    apiserver.apply("n9", &node("n9"));
    apiserver.signal(Signal::SIGTERM);
    assert_eq!(apiserver.ended(), 0);
    assert!(apiserver.log_text().contains("not everything could be written in time"));
}

#[test]
fn keys_that_a_crashed_predecessor_left_are_removed() {
    let etcd = Etcd::protected(&[]);
    leave_stale_keys(&etcd, 300);
    let kept = "cilium/cache/nodes/v1/b/n1";
    let copied = "cilium/synced/b/cilium/cache/nodes/v1";
    for key in [kept, copied, "cilium/cluster-config/b", "another/program"] {
        admin(&etcd, &["put", key, "x"]);
    }
    admin(&etcd, &["put", "cilium/state/endpointslices/v1/a/shop/old", "x"]);
    admin(&etcd, &["put", "clustermesh/local/v1/pods/n1/shop/old", "x"]);
    let mut watch = etcd.watch("admin", "cilium/");
    let apiserver = ready(&etcd);
    assert_eq!(revisions(&etcd, "cilium/state/").into_keys().collect::<Vec<_>>(), [NODE]);
    assert_eq!(get(&etcd, "clustermesh/local/v1/pods/n1/shop/old"), None);
    for key in [kept, copied, "cilium/cluster-config/b", "another/program"] {
        assert!(get(&etcd, key).is_some(), "the apiserver leaves {key} alone");
    }
    // A deletion by the apiserver is in one revision with its heartbeat; a deletion by an expired lease is not. Readers
    // distinguish them by that.
    let deleted = within(PATIENCE, "all are deleted", || {
        let found = watch.revisions();
        let many =
            found.values().map(|keys| keys.iter().filter(|key| key.starts_with('-')).count());
        match many.sum::<usize>() {
            301 => Ok(found),
            other => Err(format!("{other} deletions")),
        }
    });
    let mut several = 0;
    for (revision, keys) in deleted {
        let deletions = keys.iter().filter(|key| key.starts_with('-')).count();
        if deletions > 1 {
            several += 1;
            assert!(keys.contains(&"+cilium/.heartbeat".to_owned()), "{revision}: {keys:?}");
        }
    }
    assert!(several >= 3, "127 deletions in a revision: {several} revisions");
    drop(apiserver);
}

#[test]
fn only_the_heartbeat_has_a_lease_and_it_comes_at_once() {
    let etcd = Etcd::protected(&[]);
    let _apiserver = ready(&etcd);
    within(Duration::from_secs(10), "there is a heartbeat; Cilium's comes after 60 s", || {
        get(&etcd, "cilium/.heartbeat").map(drop).ok_or_else(|| "not yet".into())
    });
    let found = admin(&etcd, &["get", "--prefix", "--write-out=json", ""]);
    let found: Value = serde_json::from_str(&found).unwrap();
    let all = found["kvs"].as_array().unwrap();
    let leased = all.iter().filter(|kv| kv["lease"].as_i64().is_some_and(|lease| lease != 0));
    let leased: Vec<String> = leased.map(|kv| base64(kv["key"].as_str().unwrap())).collect();
    assert_eq!(leased, ["cilium/.heartbeat"]);
    assert!(all.len() > 5, "{found}");
}

#[test]
fn writes_by_others_to_our_keys_are_reported_counted_and_repaired() {
    let etcd = Etcd::protected(&[]);
    let apiserver = ready(&etcd);
    let foreign = |reason: &str| {
        let name = "clustermesh_apiserver_etcd_foreign_writes_total";
        apiserver.metric(&format!("{name}{{reason=\"{reason}\"}}"))
    };
    // The apiserver does not report its own writes as another program's.
    for n in 0..20 {
        apiserver.apply("services", &service("web", "10.101.0.1", n));
        apiserver.apply("other", &node(&format!("m{n}")));
    }
    wait_for(&etcd, "cilium/state/nodes/v1/a/m19");
    wait_gone(&etcd, "cilium/state/nodes/v1/a/m18");
    apiserver.apply("other", &node("n2"));
    wait_for(&etcd, OTHER_NODE);
    assert_eq!(apiserver.status()["problems"].to_string(), "[]");

    let value = get(&etcd, NODE).unwrap();
    let identity = "cilium/state/identities/v1/id/70000";
    let (config, slice) = ("cilium/cluster-config/a", "cilium/state/endpointslices/v1/a/shop/x");
    let canary = "cilium/synced/a/cilium/state/nodes/v1";
    let before = get(&etcd, config).unwrap();
    admin(&etcd, &["put", NODE, "theirs"]);
    admin(&etcd, &["del", OTHER_NODE]);
    admin(&etcd, &["del", config]);
    admin(&etcd, &["del", canary]);
    admin(&etcd, &["put", identity, "k8s:app=theirs;"]);
    admin(&etcd, &["put", slice, "theirs"]);
    within(PATIENCE, "the key is repaired", || match get(&etcd, NODE) {
        Some(now) if now == value => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait_for(&etcd, OTHER_NODE);
    assert_eq!(wait_for(&etcd, config), before);
    wait_for(&etcd, canary);
    wait_gone(&etcd, identity);
    wait_gone(&etcd, slice);
    for (key, did) in [
        (NODE, "changed it; repaired"),
        (OTHER_NODE, "removed it; restored"),
        (config, "removed it; restored"),
        (canary, "removed it; restored"),
        (identity, "wrote it; removed"),
        (slice, "wrote it; removed"),
    ] {
        apiserver.wait_problem(&format!("{key}: another program {did}"));
    }
    assert_eq!([foreign("added"), foreign("changed"), foreign("removed")], [2, 1, 3]);

    // The apiserver does not remove keys in the name of another cluster: it reports them while they exist. It does not
    // report the keys that a copier (KVStoreMesh) writes.
    admin(&etcd, &["put", "cilium/state/nodes/v1/b/n1", "x"]);
    admin(&etcd, &["put", "cilium/cache/nodes/v1/b/n1", "x"]);
    apiserver.wait_problem("cilium/state/nodes/v1/b/n1: another program wrote it, with a name");
    assert!(!apiserver.status()["problems"].to_string().contains("cilium/cache"));
    assert!(get(&etcd, "cilium/state/nodes/v1/b/n1").is_some());
    admin(&etcd, &["del", "cilium/state/nodes/v1/b/n1"]);
    within(PATIENCE, "it is not reported any more", || {
        let problems = apiserver.status()["problems"].to_string();
        if problems.contains("nodes/v1/b/n1") { Err(problems) } else { Ok(()) }
    });
    apiserver.wait_ready();
}

#[test]
fn repairs_against_a_second_writer_are_slowed_down() {
    let etcd = Etcd::protected(&[]);
    let apiserver = ready(&etcd);
    let mut writes = 0;
    // The other writer changes the key again as soon as it is repaired.
    within(PATIENCE, "the other writer is reported", || {
        admin(&etcd, &["put", NODE, &format!("theirs {writes}")]);
        writes += 1;
        let problems = apiserver.status()["problems"].to_string();
        if problems.contains("is there another writer?") { Ok(()) } else { Err(problems) }
    });
    for _ in 0..40 {
        admin(&etcd, &["put", NODE, &format!("theirs {writes}")]);
        writes += 1;
    }
    let repairs = apiserver.metric("clustermesh_apiserver_etcd_foreign_repairs_total");
    assert!(repairs * 4 < writes, "{repairs} repairs of {writes} writes");
    // Other changes are still exported.
    apiserver.apply("other", &node("n2"));
    wait_for(&etcd, OTHER_NODE);
}

/// One List manifest with a headless Service for each of the numbers.
fn services(numbers: std::ops::Range<usize>) -> String {
    let item = |n| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{n:05}","namespace":"shop"}},"spec":{{"clusterIP":"None"}}}}"#
        )
    };
    let items: Vec<String> = numbers.map(item).collect();
    format!(r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#, items.join(","))
}

#[test]
fn thousands_of_deleted_keys_are_restored_without_delaying_other_changes() {
    const KEYS: usize = 10_000;
    const SERVICES: &str = "clustermesh/local/v1/services/";
    let etcd = Etcd::protected(&[]);
    let relay = Relay::to(etcd.port());
    let apiserver = with_fast_heartbeat(&etcd, relay.port());
    for first in (0..KEYS).step_by(5_000) {
        apiserver.apply(&format!("services-{first}"), &services(first..first + 5_000));
    }
    apiserver.wait_ready();
    let count = || {
        let found = admin(&etcd, &["get", "--prefix", "--limit=1", "--write-out=json", SERVICES]);
        let found: Value = serde_json::from_str(&found).unwrap();
        found["count"].as_u64().unwrap_or_default()
    };
    within(PATIENCE, "all keys exist", || match count() {
        keys if keys == KEYS as u64 => Ok(()),
        other => Err(other.to_string()),
    });
    let canaries = version(&etcd, CANARY);
    // With this delay of each round trip, all repairs together take longer than any other change may wait.
    relay.delay(Duration::from_millis(10));
    let deleted = admin(&etcd, &["del", "--prefix", SERVICES]);
    assert_eq!(deleted.trim(), KEYS.to_string());
    let heartbeats_while_repairing = || {
        wait_for_heartbeats(&etcd, 3);
        assert!(count() < KEYS as u64, "not all keys are restored yet");
        apiserver.wait_ready();
    };
    heartbeats_while_repairing();
    // Other changes do not wait either.
    apiserver.apply("other", &node("n2"));
    wait_for(&etcd, OTHER_NODE);
    assert!(count() < KEYS as u64, "not all keys are restored yet");
    assert_eq!(apiserver.status()["ready"], true);
    relay.delay(Duration::ZERO);
    within(PATIENCE, "all keys are restored", || match count() {
        keys if keys == KEYS as u64 => Ok(()),
        other => Err(other.to_string()),
    });
    apiserver.wait_problem(": another program removed it; restored");
    assert_eq!(version(&etcd, CANARY), canaries, "canaries are put again only after a comparison");
    let repairs = apiserver.metric("clustermesh_apiserver_etcd_foreign_repairs_total");
    assert_eq!(repairs, KEYS as u64);
}

#[test]
fn a_held_lock_and_a_slow_file_do_not_stop_heartbeats() {
    let etcd = Etcd::protected(&[]);
    let apiserver = with_fast_heartbeat(&etcd, etcd.port());
    apiserver.wait_ready();
    wait_for(&etcd, NODE);
    let goes_on = || {
        wait_for_heartbeats(&etcd, 3);
        assert_eq!(apiserver.unready(), "");
        assert_eq!(apiserver.status()["ready"], true);
    };
    // Another replica holds the journal.
    let lock = File::open(etcd.folder().join("state/identities.lock")).unwrap();
    let held = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    apiserver.apply("pod", &pod("web", 7));
    goes_on();
    assert_eq!(get(&etcd, "cilium/state/ip/v1/default/10.1.1.7"), None, "the pod has no ID yet");
    drop(held);
    wait_for(&etcd, "cilium/state/ip/v1/default/10.1.1.7");

    // A pipe as a manifest: reading it lasts until its writer closes it.
    let slow = apiserver.manifest("slow");
    mkfifo(&slow, Mode::S_IRWXU).unwrap();
    // Opening it for writing without waiting succeeds only when the reader has opened it.
    let writer = within(PATIENCE, "the apiserver reads the pipe", || {
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK;
        open(&slow, flags, Mode::empty()).map_err(|error| error.to_string())
    });
    apiserver.apply("other", &node("n2"));
    goes_on();
    assert_eq!(
        get(&etcd, OTHER_NODE),
        None,
        "the thread that reads manifests still reads the pipe"
    );
    apiserver.apply("slow", &node("n3"));
    drop(writer);
    wait_for(&etcd, OTHER_NODE);
    wait_for(&etcd, "cilium/state/nodes/v1/a/n3");
}

/// A pod of the namespace `shop`.
fn pod(name: &str, last: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\nspec: {{nodeName: n1}}\nstatus: {{podIP: 10.1.1.{last}}}\n"
    )
}

/// Waits until the apiserver has read its manifests: with a heartbeat each second, two of them are enough.
fn wait_until_read(etcd: &Etcd) {
    wait_for_heartbeats(etcd, 2);
}

#[test]
fn a_manifest_rewritten_in_place_withdraws_nothing() {
    let etcd = Etcd::protected(&[]);
    let apiserver = with_fast_heartbeat(&etcd, etcd.port());
    let all = [node("n2"), node("n3"), node("n4")];
    apiserver.apply("all", &all.join("---\n"));
    apiserver.wait_ready();
    wait_for(&etcd, "cilium/state/nodes/v1/a/n4");
    let mut watch = etcd.watch("admin", "cilium/state/");
    let path = apiserver.manifest("all");

    // `(sleep 2; kubectl get … -o yaml) > all.yaml`
    let mut file = File::create(&path).unwrap();
    wait_until_read(&etcd);
    file.write_all(all[0].as_bytes()).unwrap();
    file.write_all(b"---\n").unwrap();
    file.write_all(all[1].as_bytes()).unwrap();
    wait_until_read(&etcd);
    file.write_all(format!("---\n{}---\n{}", all[2], node("n5")).as_bytes()).unwrap();
    drop(file);
    wait_for(&etcd, "cilium/state/nodes/v1/a/n5");
    // `git checkout` of a version without n5 replaces the file.
    fs::remove_file(&path).unwrap();
    fs::write(&path, all.join("---\n")).unwrap();
    wait_gone(&etcd, "cilium/state/nodes/v1/a/n5");
    let deleted: Vec<String> = within(PATIENCE, "its deletion is seen", || {
        let keys = watch.revisions().into_values().flatten();
        let deleted: Vec<String> = keys.filter(|key| key.starts_with('-')).collect();
        if deleted.is_empty() { Err("none".into()) } else { Ok(deleted) }
    });
    assert_eq!(deleted, ["-cilium/state/nodes/v1/a/n5"], "no other key was ever deleted");
}

#[test]
fn while_a_namespace_is_unreadable_at_the_start_nothing_new_is_exported_or_removed() {
    let etcd = Etcd::protected(&[]);
    let mut apiserver = ready(&etcd);
    let opted_out = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {clustermesh.cilium.io/global: 'false'}}\n";
    apiserver.apply("ns", opted_out);
    wait_for(&etcd, "clustermesh/local/v1/namespaces/shop");
    apiserver.apply("pod", &pod("web", 7));
    apiserver.apply("web", &service("web", "10.101.0.1", 1));
    wait_for(&etcd, "clustermesh/local/v1/services/shop/web");
    let shared = |etcd: &Etcd| revisions(etcd, "cilium/state/").into_keys().collect::<Vec<_>>();
    assert_eq!(shared(&etcd), [NODE]);

    apiserver.kill();
    apiserver.apply("ns", &format!("{opted_out}metadata: ["));
    apiserver.apply("new", &node("n2"));
    apiserver.start_again();
    apiserver.wait_unready("the manifests were never read completely");
    apiserver.wait_problem("objects are not exported until all Namespaces are known");
    apiserver.wait_problem("correct or remove it: until then, nothing new is exported");
    // By then the apiserver is connected.
    within(PATIENCE, "it is connected", || {
        let status = apiserver.status();
        if status["store"]["connected"] == true { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(shared(&etcd), [NODE], "nothing new is exported, and existing keys stay");
    assert!(get(&etcd, "clustermesh/local/v1/services/shop/web").is_some());
    apiserver.apply("ns", opted_out);
    wait_for(&etcd, OTHER_NODE);
    apiserver.wait_ready();
    assert_eq!(shared(&etcd), [NODE, OTHER_NODE]);

    // A namespace without a Namespace object, while other namespaces have one.
    apiserver.apply("store", &service("web", "10.101.0.2", 1).replace("shop", "store"));
    apiserver.wait_problem("namespace store: 1 objects are not exported to other clusters");
    assert_eq!(shared(&etcd), [NODE, OTHER_NODE]);
}

#[test]
fn without_inotify_files_are_read_every_second_and_the_fallback_is_reported() {
    let etcd = Etcd::protected(&[]);
    // A user namespace in which no inotify instance is allowed.
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    let unshare = ["unshare", "--user", "--map-root-user", "sh", "-c", script];
    let apiserver = Apiserver::wrapped(&etcd, etcd.port(), &unshare);
    apiserver.wait_ready();
    apiserver.wait_problem("sysctl -w fs.inotify.max_user_instances");
    assert_eq!(apiserver.metric("clustermesh_apiserver_file_watch_fallback"), 1);
    assert!(apiserver.log_text().contains("no file watch"));
    // A watched folder is also polled every ten seconds, which would be ten positions.
    let before = version(&etcd, LOCAL_POSITION);
    apiserver.apply("other", &node("n2"));
    wait_for(&etcd, OTHER_NODE);
    let positions = version(&etcd, LOCAL_POSITION) - before;
    assert!(positions < 8, "{positions} positions later");
    let watched = ready(&Etcd::protected(&[]));
    assert_eq!(watched.metric("clustermesh_apiserver_file_watch_fallback"), 0);
}
