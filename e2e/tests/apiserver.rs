//! The real apiserver and a real etcd, to which everything happens that can: what is wrong is said in readiness, status
//! and metrics, and put right without a restart. `etcdctl` is the judge.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    time::{Duration, SystemTime},
};

use mesh_certs::{Authority, ClusterPki, Profile};
use mesh_e2e::{
    Apiserver, Etcd, Relay,
    apiserver::{node, service},
    etcd::base64,
    mesh::within,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Longer than the longest pause between two tries.
const PATIENCE: Duration = Duration::from_secs(60);
const NODE: &str = "cilium/state/nodes/v1/a/n1";
const OTHER_NODE: &str = "cilium/state/nodes/v1/a/n2";
const HISTORY: &str = "cilium/.heartbeat.history";

fn admin(etcd: &Etcd, args: &[&str]) -> String {
    etcd.etcdctl("admin", args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// A key's value; `None` where there is none.
fn get(etcd: &Etcd, key: &str) -> Option<String> {
    let found = admin(etcd, &["get", "--print-value-only", "--", key]);
    (!found.is_empty()).then(|| found.trim_end().to_owned())
}

/// All keys below a prefix, each with the revision in which it was put last.
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

/// How far the etcd is.
fn revision(etcd: &Etcd) -> String {
    let status = admin(etcd, &["endpoint", "status", "--write-out=json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    status[0]["Status"]["header"]["revision"].to_string()
}

/// Waits until a key is there.
fn wait_for(etcd: &Etcd, key: &str) -> String {
    within(PATIENCE, &format!("{key} is there"), || get(etcd, key).ok_or_else(|| "no".into()))
}

/// Waits until a key is gone.
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
fn an_etcd_that_is_away_is_waited_for() {
    let mut etcd = Etcd::start();
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
    assert!(!apiserver.trouble("away").0, "it is over");
}

#[test]
fn an_etcd_that_is_slow_is_said_to_be_and_waited_for() {
    let etcd = Etcd::start();
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
    assert_eq!(apiserver.trouble("away"), (false, 0), "it was never given up");
}

#[test]
fn an_etcd_that_is_full_is_said_to_be_and_filled_when_there_is_room() {
    let etcd = Etcd::with(&["--quota-backend-bytes", "4194304"]);
    let apiserver = ready(&etcd);
    let chunk = "x".repeat(100_000);
    within(PATIENCE, "the etcd is full", || {
        let key = format!("filler/{:?}", SystemTime::now());
        let put = etcd.etcdctl("admin", &["put", &key, &chunk]).err();
        put.filter(|error| error.contains("space exceeded")).map(drop).ok_or("it took it".into())
    });
    apiserver.apply("other", &node("n2"));
    apiserver.wait_unready("etcd: full: the etcd's space is exhausted (NOSPACE)");
    assert!(matches!(apiserver.trouble("full"), (true, 1..)));
    assert!(get(&etcd, NODE).is_some(), "what is there stays");

    admin(&etcd, &["del", "--prefix", "filler/"]);
    admin(&etcd, &["compact", "--physical", &revision(&etcd)]);
    admin(&etcd, &["defrag"]);
    admin(&etcd, &["alarm", "disarm"]);
    apiserver.wait_ready();
    wait_for(&etcd, OTHER_NODE);
    assert!(!apiserver.trouble("full").0);
}

/// A predecessor's keys: more than a page of a list, and long.
fn leave_stale_keys(etcd: &Etcd, count: usize) {
    let value = "x".repeat(400);
    let put = |n: &usize| format!("put cilium/state/services/v1/a/stale/s{n:05} \"{value}\"\n");
    for batch in (0..count).collect::<Vec<_>>().chunks(100) {
        // No comparisons, what to do, and what to do otherwise.
        let text = format!("\n{}\n\n\n", batch.iter().map(put).collect::<String>());
        etcd.etcdctl_fed("admin", &["txn"], &text).unwrap();
    }
}

#[test]
fn compaction_in_the_middle_of_the_comparison_begins_it_again() {
    let etcd = Etcd::start();
    leave_stale_keys(&etcd, 3_000);
    let relay = Relay::to(etcd.port());
    // Enough for the users and roles, and for the first of the pages; not for the second.
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
    assert!(matches!(apiserver.trouble("compacted"), (false, 1..)), "{}", apiserver.said());
    assert_eq!(revisions(&etcd, "cilium/state/services/v1/a/stale/").len(), 0);
}

#[test]
fn an_etcd_that_begins_anew_is_filled_and_gets_another_history() {
    let mut etcd = Etcd::start();
    let apiserver = ready(&etcd);
    let first = wait_for(&etcd, HISTORY);
    etcd.kill();
    let backup = etcd.folder().join("backup");
    copy(&etcd, &etcd.data(), &backup);
    // From nothing.
    fs::remove_dir_all(etcd.data()).unwrap();
    etcd.start_again();
    wait_for(&etcd, NODE);
    apiserver.wait_ready();
    apiserver.wait_problem("begun anew or restored from a backup");
    assert_eq!(apiserver.trouble("data-lost"), (false, 1));
    let second = wait_for(&etcd, HISTORY);
    assert_ne!(first, second);
    assert!(etcd.etcdctl("local", &["put", "x", "y"]).unwrap_err().contains("permission denied"));

    // From a backup, which brings its history's name along and is behind.
    for n in 0..50 {
        admin(&etcd, &["put", "age", &n.to_string()]);
    }
    apiserver.apply("other", &node("n2"));
    wait_for(&etcd, OTHER_NODE);
    // The apiserver looks every second how far the etcd is.
    within(PATIENCE, "the position is put", || {
        let put = revisions(&etcd, "cilium/.heartbeat.position").into_values().next();
        put.filter(|revision| *revision > 50).map(drop).ok_or_else(|| "not yet".into())
    });
    etcd.kill();
    fs::remove_dir_all(etcd.data()).unwrap();
    fs::rename(&backup, etcd.data()).unwrap();
    etcd.start_again();
    wait_for(&etcd, OTHER_NODE);
    apiserver.wait_ready();
    assert_eq!(apiserver.trouble("data-lost"), (false, 2));
    assert!(![first, second].contains(&wait_for(&etcd, HISTORY)), "a third one");
}

fn copy(etcd: &Etcd, from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "{}", etcd.said());
}

#[test]
fn users_and_roles_that_somebody_changed_are_put_right() {
    let etcd = Etcd::start();
    fs::write(etcd.folder().join("users.yaml"), "users:\n- {name: remote-b, role: remote}\n")
        .unwrap();
    let apiserver = ready(&etcd);
    etcd.certificate(&etcd.authority(), "root", "root");
    let root = |args: &[&str]| etcd.etcdctl("root", args).unwrap();
    let wanted = root(&["role", "get", "remote"]);

    root(&["auth", "disable"]);
    root(&["role", "grant-permission", "remote", "readwrite", "--prefix=true", "cilium/"]);
    root(&["user", "delete", "local-a"]);
    apiserver.wait_problem("authentication was off: everybody could do everything");
    apiserver.wait_problem("the role remote could do more than it may");
    apiserver.wait_problem("there was no user local-a");
    assert!(matches!(apiserver.trouble("users"), (false, 3..)));
    assert_eq!(root(&["role", "get", "remote"]), wanted);
    assert!(etcd.etcdctl("local", &["put", "x", "y"]).unwrap_err().contains("permission denied"));
    apiserver.wait_ready();

    // It cannot give itself back what it lost. Who can is heard of without a restart.
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
fn a_certificate_that_ends_is_said_to_and_a_new_one_taken() {
    let etcd = Etcd::start();
    let issue = |lifetime| {
        let profile = Profile::Client { user: "admin-a".into() };
        let issued = etcd.authority().issue(&profile, SystemTime::now(), lifetime).unwrap();
        ClusterPki::new(&etcd.pki()).write("admin", &issued).unwrap();
    };
    // Connections end two seconds before their certificate.
    issue(Duration::from_secs(8));
    let apiserver = ready(&etcd);
    apiserver.wait_unready("etcd: certificate: tls: ");
    assert!(matches!(apiserver.trouble("certificate"), (true, 1..)));
    apiserver.apply("other", &node("n2"));
    issue(Authority::ISSUED_LIFETIME);
    apiserver.wait_ready();
    wait_for(&etcd, OTHER_NODE);
    assert!(!apiserver.trouble("certificate").0);
}

#[test]
fn an_object_too_large_is_named_and_blocks_nobody() {
    let etcd = Etcd::start();
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
    // etcd takes 1.5 MiB in a request.
    apiserver.apply("services", &all(1_600_000));
    wait_for(&etcd, &key("then"));
    wait_for(&etcd, &key("before"));
    apiserver.wait_problem("Service shop/large: the etcd does not take");
    assert_eq!(get(&etcd, &key("large")), None);
    assert_eq!(apiserver.metric("clustermesh_apiserver_etcd_refused_keys"), 1);
    apiserver.wait_ready();

    apiserver.apply("services", &all(1_000_000));
    wait_for(&etcd, &key("large"));
    let no_problem = || {
        let problems = apiserver.status()["problems"].to_string();
        if problems == "[]" { Ok(()) } else { Err(problems) }
    };
    within(PATIENCE, "it is taken now", no_problem);

    // Too large again: what it said before stays. Gone: so is the complaint.
    apiserver.apply("services", &all(1_600_000));
    apiserver.wait_problem("Service shop/large");
    assert!(get(&etcd, &key("large")).is_some());
    apiserver.apply("services", &service("then", "10.101.0.3", 10));
    wait_gone(&etcd, &key("large"));
    within(PATIENCE, "it is gone", no_problem);
}

#[test]
fn what_is_pending_is_written_before_it_ends() {
    let etcd = Etcd::start();
    let mut apiserver = ready(&etcd);
    // Again and again: the folder's watcher must not be what makes it so.
    for n in 2..6 {
        let before = revisions(&etcd, "cilium/");
        apiserver.apply(&format!("n{n}"), &node(&format!("n{n}")));
        apiserver.signal(Signal::SIGTERM);
        assert_eq!(apiserver.ended(), 0);
        let after = revisions(&etcd, "cilium/");
        assert!(after.contains_key(&format!("cilium/state/nodes/v1/a/n{n}")), "{after:#?}");
        let gone: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).collect();
        assert!(gone.is_empty(), "nothing is removed: {gone:?}");
        let leases = admin(&etcd, &["lease", "list"]);
        assert!(leases.contains(&format!("found {} leases", n - 1)), "they are left: {leases}");
        apiserver.start_again();
        apiserver.wait_ready();
    }
    // Nobody takes it: it does not wait for ever, and ends well all the same.
    let relay = Relay::to(etcd.port());
    apiserver.kill();
    let mut apiserver = Apiserver::at(&etcd, relay.port());
    apiserver.wait_ready();
    relay.hold_after(0);
    apiserver.apply("n9", &node("n9"));
    apiserver.signal(Signal::SIGTERM);
    assert_eq!(apiserver.ended(), 0);
    assert!(apiserver.said().contains("not everything could be written in time"));
}

#[test]
fn what_a_crashed_predecessor_left_is_removed() {
    let etcd = Etcd::start();
    leave_stale_keys(&etcd, 300);
    let kept = "cilium/cache/nodes/v1/b/n1";
    let copied = "cilium/synced/b/cilium/cache/nodes/v1";
    for key in [kept, copied, "cilium/cluster-config/b", "somebody/elses"] {
        admin(&etcd, &["put", key, "x"]);
    }
    admin(&etcd, &["put", "cilium/state/endpointslices/v1/a/shop/old", "x"]);
    admin(&etcd, &["put", "clustermesh/local/v1/pods/n1/shop/old", "x"]);
    let mut watch = etcd.watch("admin", "cilium/");
    let apiserver = ready(&etcd);
    assert_eq!(revisions(&etcd, "cilium/state/").into_keys().collect::<Vec<_>>(), [NODE]);
    assert_eq!(get(&etcd, "clustermesh/local/v1/pods/n1/shop/old"), None);
    for key in [kept, copied, "cilium/cluster-config/b", "somebody/elses"] {
        assert!(get(&etcd, key).is_some(), "{key} is not ours");
    }
    // Readers tell a decision from a lease that ran out by the heartbeat in the same revision.
    let deleted = within(PATIENCE, "all are deleted", || {
        let told = watch.revisions();
        let many = told.values().map(|keys| keys.iter().filter(|key| key.starts_with('-')).count());
        match many.sum::<usize>() {
            301 => Ok(told),
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
    assert!(several >= 3, "127 at a time: {several}");
    drop(apiserver);
}

#[test]
fn what_others_write_to_our_keys_is_named_counted_and_put_right() {
    let etcd = Etcd::start();
    let apiserver = ready(&etcd);
    let foreign = |reason: &str| {
        let name = "clustermesh_apiserver_etcd_foreign_writes_total";
        apiserver.metric(&format!("{name}{{reason=\"{reason}\"}}"))
    };
    // Its own writes are not taken for somebody else's.
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
    within(PATIENCE, "it is put right", || match get(&etcd, NODE) {
        Some(now) if now == value => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait_for(&etcd, OTHER_NODE);
    assert_eq!(wait_for(&etcd, config), before);
    wait_for(&etcd, canary);
    wait_gone(&etcd, identity);
    wait_gone(&etcd, slice);
    for (key, did) in [
        (NODE, "changed it; put right"),
        (OTHER_NODE, "removed it; put back"),
        (config, "removed it; put back"),
        (canary, "removed it; put back"),
        (identity, "wrote it; removed"),
        (slice, "wrote it; removed"),
    ] {
        apiserver.wait_problem(&format!("{key}: somebody else {did}"));
    }
    assert_eq!([foreign("added"), foreign("changed"), foreign("removed")], [2, 1, 3]);

    // Not ours to remove: named as long as it is there. A copier's: no business of ours.
    admin(&etcd, &["put", "cilium/state/nodes/v1/b/n1", "x"]);
    admin(&etcd, &["put", "cilium/cache/nodes/v1/b/n1", "x"]);
    apiserver.wait_problem("cilium/state/nodes/v1/b/n1: somebody else wrote it, in a name");
    assert!(!apiserver.status()["problems"].to_string().contains("cilium/cache"));
    assert!(get(&etcd, "cilium/state/nodes/v1/b/n1").is_some());
    admin(&etcd, &["del", "cilium/state/nodes/v1/b/n1"]);
    within(PATIENCE, "it is not told of any more", || {
        let problems = apiserver.status()["problems"].to_string();
        if problems.contains("nodes/v1/b/n1") { Err(problems) } else { Ok(()) }
    });
    apiserver.wait_ready();
}

#[test]
fn two_writers_do_not_fight_at_full_speed() {
    let etcd = Etcd::start();
    let apiserver = ready(&etcd);
    let mut writes = 0;
    // Whatever is put right is changed again at once.
    within(PATIENCE, "the fight is named", || {
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
    // Everything else goes on.
    apiserver.apply("other", &node("n2"));
    wait_for(&etcd, OTHER_NODE);
}
