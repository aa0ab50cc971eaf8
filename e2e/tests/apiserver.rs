//! The real apiserver and a real etcd, to which everything happens that can: what is wrong is reported in readiness,
//! status and metrics, and put right without a restart. `etcdctl` is the judge.
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

/// Longer than the longest pause between two tries.
const PATIENCE: Duration = Duration::from_secs(60);
const NODE: &str = "cilium/state/nodes/v1/a/n1";
const OTHER_NODE: &str = "cilium/state/nodes/v1/a/n2";
const HISTORY: &str = "cilium/.heartbeat.history";
const LOCAL_POSITION: &str = "clustermesh/local/v1/position";
const CANARY: &str = "cilium/synced/a/cilium/state/nodes/v1";

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

/// How often a key was put since it was made.
fn version(etcd: &Etcd, key: &str) -> u64 {
    let found = admin(etcd, &["get", "--write-out=json", key]);
    let found: Value = serde_json::from_str(&found).unwrap();
    found["kvs"][0]["version"].as_u64().unwrap_or_default()
}

/// Waits until the writer has shown so often that it lives, by its heartbeat and its position.
fn wait_for_signs(etcd: &Etcd, times: u64) {
    let before = [LOCAL_POSITION, "cilium/.heartbeat"].map(|key| (key, version(etcd, key)));
    for (key, before) in before {
        within(PATIENCE, &format!("{key} is put"), || match version(etcd, key) {
            now if now >= before + times => Ok(()),
            now => Err(format!("{before}, then {now}")),
        });
    }
}

/// An apiserver whose heart beats every second.
fn lively(etcd: &Etcd, port: u16) -> Apiserver {
    Apiserver::wrapped(etcd, port, &["env", "CLUSTERMESH_HEARTBEAT_SECONDS=1"])
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
    assert!(!apiserver.trouble("away").0, "it is over");
}

#[test]
fn an_etcd_that_is_slow_is_reported_and_waited_for() {
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
    assert_eq!(apiserver.trouble("away"), (false, 0), "it was never given up");
}

#[test]
fn an_etcd_that_hangs_is_reported_also_to_an_apiserver_that_starts_then() {
    let etcd = Etcd::protected(&[]);
    let mut apiserver = ready(&etcd);
    etcd.signal(Signal::SIGSTOP);
    // Long before the connection is known to be broken.
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
fn an_etcd_that_is_full_is_reported_and_filled_when_there_is_room() {
    let etcd = Etcd::protected(&["--quota-backend-bytes", "4194304"]);
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
    let etcd = Etcd::protected(&[]);
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
    assert!(matches!(apiserver.trouble("compacted"), (false, 1..)), "{}", apiserver.log_text());
    assert_eq!(revisions(&etcd, "cilium/state/services/v1/a/stale/").len(), 0);
}

#[test]
fn an_etcd_that_begins_anew_is_filled_and_gets_another_history() {
    let mut etcd = Etcd::protected(&[]);
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
    // The apiserver looks every second how far the etcd is.
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
    assert!(![first, second].contains(&wait_for(&etcd, HISTORY)), "a third one");
    // Readers that go by what Cilium has know it too.
    assert_ne!(created(&etcd), restored);
}

fn copy(etcd: &Etcd, from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "{}", etcd.log_text());
}

#[test]
fn users_and_roles_that_another_client_changed_are_put_right() {
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
    apiserver.wait_problem("the role remote could do more than it may");
    apiserver.wait_problem("there was no user local-a");
    assert!(matches!(apiserver.trouble("users"), (false, 3..)));
    assert_eq!(root(&["role", "get", "remote"]), wanted);
    assert!(etcd.etcdctl("local", &["put", "x", "y"]).unwrap_err().contains("permission denied"));
    apiserver.wait_ready();

    // Its users are all there are that may do something.
    root(&["user", "add", "ghost:pw"]);
    root(&["user", "grant-role", "ghost", "root"]);
    apiserver.wait_unready("etcd: users: unknown user ghost with role root");
    apiserver.wait_problem("restart the etcd by `clustermesh-apiserver etcd-init`");
    assert!(!root(&["user", "list"]).contains("ghost"));
    apiserver.wait_ready();

    // It cannot give itself back what it lost. Who can is noticed without a restart.
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
fn a_certificate_that_ends_is_reported_and_a_new_one_taken() {
    let etcd = Etcd::protected(&[]);
    let issue = |lifetime| {
        let profile = Profile::Client { user: "admin-a".into() };
        let issued = etcd.ca().issue(&profile, SystemTime::now(), lifetime).unwrap();
        ClusterPki::new(&etcd.pki()).write("admin", &issued).unwrap();
    };
    // Connections end two seconds before their certificate.
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
fn an_object_too_large_is_named_and_blocks_no_other() {
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

    // Too large again: what it reported before stays. Gone: so is the complaint.
    apiserver.apply("services", &all(1_600_000));
    apiserver.wait_problem("Service shop/large");
    assert!(get(&etcd, &key("large")).is_some());
    apiserver.apply("services", &service("then", "10.101.0.3", 10));
    wait_gone(&etcd, &key("large"));
    within(PATIENCE, "it is gone", no_problem);
}

#[test]
fn what_is_pending_is_written_before_it_ends() {
    let etcd = Etcd::protected(&[]);
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
    // The etcd does not take it: it does not wait for ever, and ends well all the same.
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
fn what_a_crashed_predecessor_left_is_removed() {
    let etcd = Etcd::protected(&[]);
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
    // Readers distinguish a decision from a lease that ran out by the heartbeat in the same revision.
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
    assert!(several >= 3, "127 at a time: {several}");
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
fn what_others_write_to_our_keys_is_named_counted_and_put_right() {
    let etcd = Etcd::protected(&[]);
    let apiserver = ready(&etcd);
    let foreign = |reason: &str| {
        let name = "clustermesh_apiserver_etcd_foreign_writes_total";
        apiserver.metric(&format!("{name}{{reason=\"{reason}\"}}"))
    };
    // Its own writes are not taken for another program's.
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
        apiserver.wait_problem(&format!("{key}: another program {did}"));
    }
    assert_eq!([foreign("added"), foreign("changed"), foreign("removed")], [2, 1, 3]);

    // Not ours to remove: named as long as it is there. A copier's: no business of ours.
    admin(&etcd, &["put", "cilium/state/nodes/v1/b/n1", "x"]);
    admin(&etcd, &["put", "cilium/cache/nodes/v1/b/n1", "x"]);
    apiserver.wait_problem("cilium/state/nodes/v1/b/n1: another program wrote it, in a name");
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
fn two_writers_do_not_fight_at_full_speed() {
    let etcd = Etcd::protected(&[]);
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

/// So many services, in one list.
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
fn thousands_of_keys_that_are_deleted_come_back_and_nothing_waits_for_them() {
    const KEYS: usize = 10_000;
    const SERVICES: &str = "clustermesh/local/v1/services/";
    let etcd = Etcd::protected(&[]);
    let relay = Relay::to(etcd.port());
    let apiserver = lively(&etcd, relay.port());
    // A file may not hold more than a quarter of a million parts.
    for first in (0..KEYS).step_by(5_000) {
        apiserver.apply(&format!("services-{first}"), &services(first..first + 5_000));
    }
    apiserver.wait_ready();
    let count = || {
        let found = admin(&etcd, &["get", "--prefix", "--limit=1", "--write-out=json", SERVICES]);
        let found: Value = serde_json::from_str(&found).unwrap();
        found["count"].as_u64().unwrap_or_default()
    };
    within(PATIENCE, "all are there", || match count() {
        keys if keys == KEYS as u64 => Ok(()),
        other => Err(other.to_string()),
    });
    let canaries = version(&etcd, CANARY);
    // Of each round trip a part is the network's: all of them together take longer than anything may wait.
    relay.delay(Duration::from_millis(10));
    let deleted = admin(&etcd, &["del", "--prefix", SERVICES]);
    assert_eq!(deleted.trim(), KEYS.to_string());
    let signs_while_repairing = || {
        wait_for_signs(&etcd, 3);
        assert!(count() < KEYS as u64, "it is not done yet");
        apiserver.wait_ready();
    };
    signs_while_repairing();
    // What changes does not wait either.
    apiserver.apply("other", &node("n2"));
    wait_for(&etcd, OTHER_NODE);
    assert!(count() < KEYS as u64, "it is not done yet");
    assert_eq!(apiserver.status()["ready"], true);
    relay.delay(Duration::ZERO);
    within(PATIENCE, "all are back", || match count() {
        keys if keys == KEYS as u64 => Ok(()),
        other => Err(other.to_string()),
    });
    apiserver.wait_problem(": another program removed it; put back");
    assert_eq!(version(&etcd, CANARY), canaries, "canaries are anew after a comparison alone");
    let repairs = apiserver.metric("clustermesh_apiserver_etcd_foreign_repairs_total");
    assert_eq!(repairs, KEYS as u64);
}

#[test]
fn a_lock_that_another_has_and_a_file_that_takes_long_keep_nothing_waiting() {
    let etcd = Etcd::protected(&[]);
    let apiserver = lively(&etcd, etcd.port());
    apiserver.wait_ready();
    wait_for(&etcd, NODE);
    let goes_on = || {
        wait_for_signs(&etcd, 3);
        assert_eq!(apiserver.unready(), "");
        assert_eq!(apiserver.status()["ready"], true);
    };
    // Another replica holds the journal.
    let lock = File::open(etcd.folder().join("state/identities.lock")).unwrap();
    let held = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    apiserver.apply("pod", &pod("web", 7));
    goes_on();
    assert_eq!(get(&etcd, "cilium/state/ip/v1/default/10.1.1.7"), None, "it has no ID yet");
    drop(held);
    wait_for(&etcd, "cilium/state/ip/v1/default/10.1.1.7");

    // A file whose reading takes as long as its writer: a pipe.
    let slow = apiserver.manifest("slow");
    mkfifo(&slow, Mode::S_IRWXU).unwrap();
    // The reader is in it as soon as it can be opened for writing without waiting.
    let writer = within(PATIENCE, "it is read", || {
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK;
        open(&slow, flags, Mode::empty()).map_err(|error| error.to_string())
    });
    apiserver.apply("other", &node("n2"));
    goes_on();
    assert_eq!(get(&etcd, OTHER_NODE), None, "the thread that reads is in the pipe");
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

/// Waits until the apiserver has looked at its manifests as they are: a second's worth of signs of life.
fn looked_at(etcd: &Etcd) {
    wait_for_signs(etcd, 2);
}

#[test]
fn a_manifest_that_is_written_in_its_place_withdraws_nothing() {
    let etcd = Etcd::protected(&[]);
    let apiserver = lively(&etcd, etcd.port());
    let all = [node("n2"), node("n3"), node("n4")];
    apiserver.apply("all", &all.join("---\n"));
    apiserver.wait_ready();
    wait_for(&etcd, "cilium/state/nodes/v1/a/n4");
    let mut watch = etcd.watch("admin", "cilium/state/");
    let path = apiserver.manifest("all");

    // `(sleep 2; kubectl get … -o yaml) > all.yaml`
    let mut file = File::create(&path).unwrap();
    looked_at(&etcd);
    file.write_all(all[0].as_bytes()).unwrap();
    file.write_all(b"---\n").unwrap();
    file.write_all(all[1].as_bytes()).unwrap();
    looked_at(&etcd);
    file.write_all(format!("---\n{}---\n{}", all[2], node("n5")).as_bytes()).unwrap();
    drop(file);
    wait_for(&etcd, "cilium/state/nodes/v1/a/n5");
    // `git checkout` of a version without n5: another file in its place.
    fs::remove_file(&path).unwrap();
    fs::write(&path, all.join("---\n")).unwrap();
    wait_gone(&etcd, "cilium/state/nodes/v1/a/n5");
    let deleted: Vec<String> = within(PATIENCE, "its deletion is seen", || {
        let keys = watch.revisions().into_values().flatten();
        let deleted: Vec<String> = keys.filter(|key| key.starts_with('-')).collect();
        if deleted.is_empty() { Err("none".into()) } else { Ok(deleted) }
    });
    assert_eq!(deleted, ["-cilium/state/nodes/v1/a/n5"], "and nothing else ever");
}

#[test]
fn a_namespace_that_cannot_be_read_at_the_start_exports_nothing_new_and_removes_nothing() {
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
    apiserver.wait_unready("the manifests were never read in full");
    apiserver.wait_problem("objects are held back until all Namespaces are known");
    apiserver.wait_problem("mend or remove it: until then nothing new is exported");
    // It is connected and has compared.
    within(PATIENCE, "it is connected", || {
        let status = apiserver.status();
        if status["store"]["connected"] == true { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(shared(&etcd), [NODE], "nothing new, and what is there stays");
    assert!(get(&etcd, "clustermesh/local/v1/services/shop/web").is_some());
    apiserver.apply("ns", opted_out);
    wait_for(&etcd, OTHER_NODE);
    apiserver.wait_ready();
    assert_eq!(shared(&etcd), [NODE, OTHER_NODE]);

    // One without a Namespace, beside others that have one.
    apiserver.apply("store", &service("web", "10.101.0.2", 1).replace("shop", "store"));
    apiserver.wait_problem("namespace store: 1 objects are not exported to other clusters");
    assert_eq!(shared(&etcd), [NODE, OTHER_NODE]);
}

#[test]
fn without_inotify_files_are_looked_at_every_second_and_that_is_reported() {
    let etcd = Etcd::protected(&[]);
    // A user namespace whose limit is used up.
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    let unshare = ["unshare", "--user", "--map-root-user", "sh", "-c", script];
    let apiserver = Apiserver::wrapped(&etcd, etcd.port(), &unshare);
    apiserver.wait_ready();
    apiserver.wait_problem("sysctl -w fs.inotify.max_user_instances");
    assert_eq!(apiserver.metric("clustermesh_apiserver_file_watch_fallback"), 1);
    assert!(apiserver.log_text().contains("no file watch"));
    // Ten seconds would be ten positions.
    let before = version(&etcd, LOCAL_POSITION);
    apiserver.apply("other", &node("n2"));
    wait_for(&etcd, OTHER_NODE);
    let positions = version(&etcd, LOCAL_POSITION) - before;
    assert!(positions < 8, "{positions} positions later");
    let watched = ready(&Etcd::protected(&[]));
    assert_eq!(watched.metric("clustermesh_apiserver_file_watch_fallback"), 0);
}
