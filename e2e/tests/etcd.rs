//! `mesh-etcd` and `mesh-etcd-setup` with a real etcd. `etcdctl` and the etcd's log, which share no code with ours, show
//! the results.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{collections::BTreeMap, time::Instant};

use mesh_certs::{Ca, ClusterPki};
use mesh_e2e::Etcd;
use mesh_etcd::{Channels, Connection, EtcdError, Op, Target, connect, follow};
use mesh_etcd_setup::{Desired, Kept, keep};
use mesh_follow::{
    Command, ConnectionPhase, Event, Failure, Follower, KeyRange, RangeConfig, RangeId, Status,
};
use mesh_model::ClusterName;
use mesh_wire::users_file::UsersFile;
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, timeout},
};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The prefix of the keys that the tests write.
const PREFIX: &str = "cilium/state/test/";
/// The range that a follower asks for on every connection.
const HEAD: RangeId = RangeId(0);
/// The range with the data.
const DATA: RangeId = RangeId(1);

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: format!("{PREFIX}{key}"), value: value.into(), lease: None }
}

/// Applies the operations in transactions as large as an etcd accepts.
async fn write(connection: &Connection, ops: &[Op]) {
    for batch in ops.chunks(128) {
        connection.apply(batch).await.unwrap();
    }
}

/// A running follower of all keys below [`PREFIX`], and what it reports.
struct Following {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Vec<Event>>,
    status: watch::Receiver<Status>,
}

impl Following {
    /// The channel of events holds one batch: while a test does not read it, the follower stops.
    fn start(target: Target, page: i64) -> Self {
        let (commands, commands_receiver) = mpsc::channel(1);
        let (events_sender, events) = mpsc::channel(1);
        let (status_sender, status) = watch::channel(Status::default());
        let head = RangeConfig {
            id: HEAD,
            span: KeyRange::key("cilium/cluster-config/a"),
            page: 10,
            names_history: false,
        };
        let data =
            RangeConfig { id: DATA, span: KeyRange::prefix(PREFIX), page, names_history: false };
        let mut follower = Follower::new(vec![head], 1, Instant::now());
        follower.follow(vec![data]);
        let channels = Channels {
            commands: commands_receiver,
            events: events_sender,
            status: status_sender,
            trouble: watch::channel(None).0,
            reconnect: Command::Reconnect,
        };
        tokio::spawn(async move {
            follow(&mut follower, &target, channels, |batch| batch.into_events()).await
        });
        Self { commands, events, status }
    }

    /// The next events of the data as text, up to and including the one for which `is_last` is true.
    async fn until(&mut self, is_last: impl Fn(&Event) -> bool) -> Vec<String> {
        let mut received = Vec::new();
        loop {
            let batch = timeout(PATIENCE, self.events.recv()).await;
            let batch = batch.unwrap_or_else(|_| panic!("no more events after {received:#?}"));
            for event in batch.expect("the follower runs") {
                let last = is_last(&event);
                received.extend(word(&event));
                if last {
                    return received;
                }
            }
        }
    }
}

/// An event of the data or of the connection as text; `None` for others.
fn word(event: &Event) -> Option<String> {
    let name = |key: &[u8]| {
        let key = std::str::from_utf8(key).unwrap();
        key.strip_prefix(PREFIX).expect("only keys below the prefix").to_owned()
    };
    Some(match event {
        Event::Connected => "connected".into(),
        Event::Disconnected => "disconnected".into(),
        Event::Begin(DATA) => "begin".into(),
        Event::Done(DATA, _) => "done".into(),
        Event::Put(DATA, kv) => {
            format!("{} = {}", name(&kv.key), String::from_utf8_lossy(&kv.value))
        }
        Event::Delete(DATA, key, _) => format!("{} is gone", name(key)),
        Event::TooLarge(DATA, key) => format!("{} is too large", name(key)),
        _ => return None,
    })
}

fn is_done(event: &Event) -> bool {
    matches!(event, Event::Done(DATA, _))
}

fn is_put(value: &str) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Put(DATA, kv) if kv.value == value.as_bytes())
}

/// All pages of a list are of one revision, however much is written meanwhile.
#[tokio::test]
async fn a_list_over_many_pages_is_of_one_revision() {
    let etcd = Etcd::start();
    let admin = etcd.connect("admin").await;
    let wanted: BTreeMap<String, String> =
        (0..3_456).map(|n| (format!("{n:05}"), format!("value {n}"))).collect();
    let ops: Vec<Op> = wanted.iter().map(|(key, value)| put(key, value)).collect();
    write(&admin, &ops).await;
    // Keys just before and just after the range are not part of it.
    admin
        .apply(&[Op::Put { key: "cilium/state/test0".into(), value: vec![], lease: None }])
        .await
        .unwrap();
    admin
        .apply(&[Op::Put { key: "cilium/state/test".into(), value: vec![], lease: None }])
        .await
        .unwrap();

    let (_, listed) = admin.list(&KeyRange::prefix(PREFIX)).await.unwrap();
    let found: BTreeMap<String, String> = listed
        .iter()
        .map(|kv| {
            let key = String::from_utf8(kv.key.clone()).unwrap();
            let value = String::from_utf8(kv.value.clone()).unwrap();
            (key.strip_prefix(PREFIX).unwrap().to_owned(), value)
        })
        .collect();
    assert_eq!(listed.len(), wanted.len(), "each key once");
    assert_eq!(found, wanted);

    // The first and the last key always have the same value, and are on different pages.
    let writer = tokio::spawn({
        let admin = etcd.connect("admin").await;
        async move {
            for round in 0.. {
                let round = format!("round {round}");
                admin.apply(&[put("00000", &round), put("03455", &round)]).await.unwrap();
            }
        }
    });
    let mut seen = Vec::new();
    for _ in 0..15 {
        let (revision, listed) = admin.list(&KeyRange::prefix(PREFIX)).await.unwrap();
        let [first, last] = [listed.first().unwrap(), listed.last().unwrap()];
        assert!(listed.iter().all(|kv| kv.mod_revision <= revision));
        let begun = first.value.starts_with(b"round");
        assert!(!begun || first.value == last.value, "the pages are of two revisions");
        seen.push(first.value.clone());
    }
    writer.abort();
    seen.dedup();
    assert!(seen.len() > 5, "the keys were written meanwhile: {} values", seen.len());
}

/// Changes are reported in their order, also those that were made while the etcd was down or the connection was lost.
#[tokio::test]
async fn a_watch_reports_everything_in_order() {
    let mut etcd = Etcd::start();
    let admin = etcd.connect("admin").await;
    write(&admin, &[put("a", "1"), put("b", "1")]).await;
    let mut following = Following::start(etcd.target("admin"), 100);
    let received = following.until(is_done).await;
    assert_eq!(received, ["connected", "begin", "a = 1", "b = 1", "done"]);

    write(&admin, &[put("a", "2"), put("c", "1")]).await;
    write(&admin, &[put("a", "3")]).await;
    write(&admin, &[Op::Delete { key: format!("{PREFIX}b") }]).await;
    write(&admin, &[Op::Put { key: "elsewhere".into(), value: vec![], lease: None }]).await;
    write(&admin, &[put("b", "2"), put("c", "end")]).await;
    let received = following.until(is_put("end")).await;
    assert_eq!(received, ["a = 2", "c = 1", "a = 3", "b is gone", "b = 2", "c = end"]);

    // When it is told to reconnect, it resumes without a list. It reports the last revision again, because not all of it
    // may have arrived.
    following.commands.send(Command::Reconnect).await.unwrap();
    let received = following.until(|event| *event == Event::Disconnected).await;
    assert_eq!(received, ["disconnected"]);
    write(&admin, &[put("a", "4")]).await;
    write(&admin, &[put("a", "again")]).await;
    let received = following.until(is_put("again")).await;
    assert_eq!(received, ["connected", "b = 2", "c = end", "a = 4", "a = again"]);

    // It also resumes after the etcd was killed and started again with its data.
    etcd.kill();
    let received = following.until(|event| *event == Event::Disconnected).await;
    assert_eq!(received, ["disconnected"]);
    etcd.start_again();
    let admin = etcd.connect("admin").await;
    write(&admin, &[put("a", "5"), put("d", "back")]).await;
    let received = following.until(is_put("back")).await;
    assert_eq!(received, ["connected", "a = again", "a = 5", "d = back"]);
    let status = following.status.borrow().clone();
    assert!(status.connected && status.failure.is_none(), "{status:?}");
}

/// If the revision of a list is compacted between two pages, the list begins again and is complete.
#[tokio::test]
async fn a_compaction_during_a_list_restarts_it() {
    let etcd = Etcd::start();
    let admin = etcd.connect("admin").await;
    let ops: Vec<Op> = (0..200).map(|n| put(&format!("{n:03}"), "old")).collect();
    write(&admin, &ops).await;

    // With one key a page and room for one batch, the follower waits before the fourth page.
    let mut following = Following::start(etcd.target("admin"), 1);
    let mut received = following.until(is_put("old")).await;
    write(&admin, &[put("000", "new"), Op::Delete { key: format!("{PREFIX}100") }]).await;
    let revision = write_revision(&admin).await;
    etcd.etcdctl("admin", &["compact", &revision.to_string()]).unwrap();
    received.extend(following.until(is_done).await);

    let begun = received.iter().filter(|word| *word == "begin").count();
    assert_eq!(begun, 2, "{received:?}");
    assert_eq!(
        received.iter().filter(|word| *word == "connected").count(),
        1,
        "over one connection"
    );
    let last = received.iter().rposition(|word| word == "begin").unwrap();
    let mut wanted: Vec<String> =
        (1..200).filter(|n| *n != 100).map(|n| format!("{n:03} = old")).collect();
    wanted.insert(0, "000 = new".into());
    wanted.push("done".into());
    assert_eq!(received[last + 1..], wanted);

    // The error that the follower got.
    let page = admin.page(&KeyRange::prefix(PREFIX), 1, Some(revision - 1), false).await;
    assert!(matches!(page, Err(EtcdError::Compacted)), "{page:?}");
}

async fn write_revision(connection: &Connection) -> i64 {
    connection.page(&KeyRange::prefix(PREFIX), 1, None, true).await.unwrap().0.revision
}

/// A client without valid credentials is refused at the phase that shows the reason.
#[tokio::test]
async fn clients_without_valid_credentials_are_refused_at_the_phase_that_shows_why() {
    let etcd = Etcd::start();
    set_up_as(&etcd, &["remote-b"]).await;
    let ca = etcd.ca();

    // A peer reads its ranges and nothing else, and writes nothing.
    etcd.certificate(&ca, "remote-b", "b");
    let peer = etcd.connect("b").await;
    for allowed in [
        KeyRange::prefix("cilium/state/"),
        KeyRange::prefix("cilium/synced/a/"),
        KeyRange::key("cilium/cluster-config/a"),
        KeyRange::prefix("cilium/.heartbeat"),
    ] {
        peer.list(&allowed).await.unwrap();
    }
    for refused in [
        KeyRange::prefix("clustermesh/"),
        KeyRange::prefix("cilium/cache/"),
        KeyRange::prefix("cilium/synced/"),
        KeyRange::key("cilium/cluster-config/b"),
        KeyRange::prefix("cilium/"),
        // How etcd denotes all keys.
        KeyRange { start: vec![0], end: vec![0] },
    ] {
        denied(peer.list(&refused).await.unwrap_err());
    }
    denied(peer.apply(&[put("a", "1")]).await.unwrap_err());
    denied(peer.apply(&[Op::Delete { key: format!("{PREFIX}a") }]).await.unwrap_err());
    denied(peer.users().add_user("mine").await.unwrap_err());

    // A certificate by the right CA, but for no user.
    etcd.certificate(&ca, "remote-zz", "nobody");
    assert_eq!(failure(&etcd.target("nobody")).await.phase, ConnectionPhase::Authenticated);

    // A certificate by another CA, with the name of a user with all rights.
    let (foreign, foreign_files) =
        Ca::create("a", std::time::SystemTime::now(), Ca::LIFETIME).unwrap();
    etcd.certificate(&foreign, "root", "foreign");
    let found = failure(&etcd.target("foreign")).await;
    assert_eq!(found.phase, ConnectionPhase::Authenticated, "{found:?}");
    assert!(found.reason.contains("does not trust the CA of our certificate"), "{found:?}");

    // An etcd whose certificate is not by the CA that the client trusts.
    let pki = ClusterPki::new(&etcd.pki());
    pki.write("other", &foreign_files).unwrap();
    let mut target = etcd.target("b");
    target.credentials = etcd.credentials("b", &pki.certificate("other"));
    let found = failure(&target).await;
    assert_eq!(found.phase, ConnectionPhase::Tls, "{found:?}");
    assert!(found.reason.contains("by a CA that is not trusted for it"), "{found:?}");

    // No server at the address, and a name without an address.
    let mut target = etcd.target("b");
    drop(etcd);
    let found = failure(&target).await;
    assert_eq!(found.phase, ConnectionPhase::Tcp, "{found:?}");
    assert!(found.reason.contains("refused"), "{found:?}");
    target.endpoints = vec!["https://nowhere.invalid:2379".into()];
    assert_eq!(failure(&target).await.phase, ConnectionPhase::Resolve);
}

/// A value that is too large for the etcd is refused with that error, and the connection works as before.
#[tokio::test]
async fn a_value_too_large_is_distinguished_from_other_failures() {
    let etcd = Etcd::start();
    let admin = etcd.connect("admin").await;
    // etcd's default is 1.5 MiB a request.
    let large = "x".repeat(1_600_000);
    let ops = [put("small", "1"), put("large", &large)];
    let error = admin.apply(&ops).await.unwrap_err();
    assert!(matches!(error, EtcdError::RequestTooLarge(_)), "{error:?}");
    let (_, keys) = admin.list(&KeyRange::prefix(PREFIX)).await.unwrap();
    assert_eq!(keys, [], "all keys or none");
    write(&admin, &[put("small", "1")]).await;
    // Too many operations for a transaction give the same error.
    let many: Vec<Op> = (0..129).map(|n| put(&n.to_string(), "")).collect();
    let error = admin.apply(&many).await.unwrap_err();
    assert!(matches!(error, EtcdError::RequestTooLarge(_)), "{error:?}");
    let (_, keys) = admin.list(&KeyRange::prefix(PREFIX)).await.unwrap();
    assert_eq!(keys.len(), 1);
}

/// The second setup of an etcd changes nothing.
#[tokio::test]
async fn the_second_setup_changes_nothing() {
    let etcd = Etcd::start();
    assert!(etcd.etcdctl("local", &["put", "before", "auth"]).is_ok(), "every client may write");
    set_up_as(&etcd, &["remote-b", "remote-c"]).await;
    let first = users_and_roles(&etcd);
    let changes = auth_changes(&etcd);
    assert!(changes.len() >= 10, "the log has changes: {changes:#?}");

    // As docs/wire.md, "Users and roles", has it.
    let users = etcd.etcdctl("admin", &["user", "list"]).unwrap();
    assert_eq!(
        users.lines().collect::<Vec<_>>(),
        ["admin-a", "local-a", "remote-b", "remote-c", "root"]
    );
    let remote = etcd.etcdctl("admin", &["role", "get", "remote"]).unwrap();
    let (read, written) = remote.split_once("KV Write:").unwrap();
    for range in
        ["[cilium/.heartbeat,", "[cilium/state/,", "[cilium/synced/a/,", "cilium/cluster-config/a"]
    {
        assert!(read.contains(range), "{range} in {remote}");
    }
    assert_eq!(written.trim(), "", "nothing may be written");
    // Authentication is on: a user without the right is refused.
    let refused = etcd.etcdctl("local", &["put", "before", "auth"]).unwrap_err();
    assert!(refused.contains("permission denied"), "{refused}");

    for _ in 0..3 {
        set_up_as(&etcd, &["remote-b", "remote-c"]).await;
    }
    assert_eq!(users_and_roles(&etcd), first);
    assert_eq!(auth_changes(&etcd), changes);
}

/// Only local nodes read the keys for local nodes; peers do not.
#[tokio::test]
async fn no_peer_reads_the_keys_for_local_nodes() {
    let etcd = Etcd::start();
    set_up_as(&etcd, &["remote-b"]).await;
    etcd.certificate(&etcd.ca(), "remote-b", "b");
    let pod = "clustermesh/local/v1/pods/n1/shop/p";
    etcd.etcdctl("admin", &["put", pod, "{}"]).unwrap();
    etcd.etcdctl("admin", &["put", "cilium/state/nodes/v1/a/n1", "{}"]).unwrap();
    for command in [
        &["get", pod][..],
        &["get", "--prefix", "clustermesh/local/v1/pods/n1/"],
        &["get", "--prefix", "clustermesh/local/v1/namespaces/"],
    ] {
        assert!(etcd.etcdctl("local", command).is_ok(), "{command:?}");
        let refused = etcd.etcdctl("b", command).unwrap_err();
        assert!(refused.contains("permission denied"), "{command:?}: {refused}");
    }
    let read = etcd.etcdctl("b", &["get", "--prefix", "cilium/state/"]).unwrap();
    assert!(read.contains("nodes/v1/a/n1"), "{read}");
    let refused = etcd.etcdctl("local", &["put", pod, "[]"]).unwrap_err();
    assert!(refused.contains("permission denied"), "{refused}");
}

/// The setup removes the users of removed peers and unknown users with rights, repairs what was changed by hand, and keeps
/// users that the administrator allows.
#[tokio::test]
async fn setup_removes_unwanted_users_and_repairs_rights() {
    let etcd = Etcd::start();
    set_up_as(&etcd, &["remote-b", "remote-c"]).await;
    let admin = |args: &[&str]| etcd.etcdctl("admin", args).unwrap();
    let wanted = {
        set_up_as(&etcd, &["remote-c"]).await;
        users_and_roles(&etcd)
    };
    assert_eq!(
        admin(&["user", "list"]).lines().collect::<Vec<_>>(),
        ["admin-a", "local-a", "remote-c", "root"]
    );
    // The certificate of remote-b is still valid, but gives no access.
    etcd.certificate(&etcd.ca(), "remote-b", "b");
    assert_eq!(failure(&etcd.target("b")).await.phase, ConnectionPhase::Authenticated);

    admin(&["role", "grant-permission", "remote", "readwrite", "--prefix=true", "cilium/"]);
    admin(&["role", "revoke-permission", "local", "--prefix=true", "clustermesh/"]);
    admin(&["user", "grant-role", "remote-c", "root"]);
    admin(&["user", "add", "--no-password", "remote-d"]);
    admin(&["user", "delete", "local-a"]);
    assert_ne!(users_and_roles(&etcd), wanted);
    set_up_as(&etcd, &["remote-c"]).await;
    assert_eq!(users_and_roles(&etcd), wanted);

    admin(&["role", "add", "theirs"]);
    admin(&["user", "add", "--no-password", "backup"]);
    admin(&["user", "grant-role", "backup", "theirs"]);
    admin(&["user", "add", "ghost:pw"]);
    set_up_as(&etcd, &["remote-c"]).await;
    assert!(admin(&["user", "get", "backup"]).contains("theirs"), "the administrator allows it");
    assert!(admin(&["user", "list"]).contains("ghost"), "it has no role");
    admin(&["user", "grant-role", "ghost", "root"]);
    let kept = set_up_as(&etcd, &["remote-c"]).await;
    let unknown: Vec<String> = kept.unknown.iter().map(ToString::to_string).collect();
    assert_eq!(unknown, ["ghost with role root"]);
    assert!(!admin(&["user", "list"]).contains("ghost"));

    // A users file cannot create a user that may write.
    let file = "users:\n- {name: remote-e, role: root}\n- {name: admin-b, role: root}\n";
    let (_, refused) =
        Desired::new(&ClusterName::new("a").unwrap(), &UsersFile::parse(file).unwrap());
    assert_eq!(refused.len(), 2);
}

/// Sets the etcd up for peers, as its cluster's apiserver does.
async fn set_up_as(etcd: &Etcd, peers: &[&str]) -> Kept {
    let users: String =
        peers.iter().map(|peer| format!("- {{name: {peer}, role: remote}}\n")).collect();
    let file = UsersFile::parse(&format!("users:\n{users}")).unwrap();
    let (mut desired, refused) = Desired::new(&ClusterName::new("a").unwrap(), &file);
    desired.extra.insert("backup".into());
    assert_eq!(refused, []);
    let connection = etcd.connect("admin").await;
    keep(&mut connection.users(), &desired).await.unwrap()
}

/// All users with their roles and all roles with their permissions, as `etcdctl` shows them.
fn users_and_roles(etcd: &Etcd) -> Vec<String> {
    let mut shown = Vec::new();
    for kind in ["user", "role"] {
        for name in etcd.etcdctl("admin", &[kind, "list"]).unwrap().lines() {
            shown.push(etcd.etcdctl("admin", &[kind, "get", name]).unwrap());
        }
    }
    shown
}

/// The lines of the etcd's log that report changes of users and roles.
fn auth_changes(etcd: &Etcd) -> Vec<String> {
    let log = etcd.log_text();
    let about_users = log.lines().filter(|line| line.contains(r#""caller":"auth/store.go"#));
    let changed = about_users.filter(|line| !line.contains("ignored auth enable request"));
    changed.map(str::to_owned).collect()
}

/// The failure of a target: of its connection, or of the first request.
async fn failure(target: &Target) -> Failure {
    let tried = async {
        let connection = connect(target, 0).await?;
        let listed = connection.list(&KeyRange::prefix("cilium/state/")).await;
        listed.map(|_| ()).map_err(|error| error.failure())
    };
    timeout(PATIENCE, tried).await.expect("an answer").expect_err("the target is refused")
}

fn denied(error: EtcdError) {
    assert!(matches!(error, EtcdError::Denied(_)), "{error:?}");
    assert_eq!(error.failure().phase, ConnectionPhase::Authenticated);
}
