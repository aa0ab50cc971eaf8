//! `mesh-etcd` and `mesh-etcd-setup` on a real etcd, with `etcdctl` and the etcd's own log as judges that share no code
//! with us.
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

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the tests write under.
const PREFIX: &str = "cilium/state/test/";
/// The range that a follower asks for on every connection.
const HEAD: RangeId = RangeId(0);
/// The range with the data.
const DATA: RangeId = RangeId(1);

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: format!("{PREFIX}{key}"), value: value.into(), lease: None }
}

/// Writes as many at a time as an etcd takes.
async fn write(connection: &Connection, ops: &[Op]) {
    for batch in ops.chunks(128) {
        connection.apply(batch).await.unwrap();
    }
}

/// A follower of everything under [`PREFIX`] that runs, and what it reported.
struct Following {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Vec<Event>>,
    status: watch::Receiver<Status>,
}

impl Following {
    /// The channel of events holds one batch: who does not read stops the follower.
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

    /// The next events of the data, in words, up to and with the one that `is_last` knows.
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

/// An event of the data, or of the connection.
fn word(event: &Event) -> Option<String> {
    let name = |key: &[u8]| {
        let key = std::str::from_utf8(key).unwrap();
        key.strip_prefix(PREFIX).expect("only what was asked for").to_owned()
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

/// Pages of one list are of one revision, however much is written meanwhile.
#[tokio::test]
async fn a_list_over_many_pages_is_of_one_revision() {
    let etcd = Etcd::start();
    let admin = etcd.connect("admin").await;
    let wanted: BTreeMap<String, String> =
        (0..3_456).map(|n| (format!("{n:05}"), format!("value {n}"))).collect();
    let ops: Vec<Op> = wanted.iter().map(|(key, value)| put(key, value)).collect();
    write(&admin, &ops).await;
    // Beside the range, on either side: not part of it.
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

    // The first key and the last always say the same, and are on different pages.
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
        assert!(!begun || first.value == last.value, "two pages of two revisions");
        seen.push(first.value.clone());
    }
    writer.abort();
    seen.dedup();
    assert!(seen.len() > 5, "it was written meanwhile: {} values", seen.len());
}

/// Changes come in their order, also those that were made while the etcd, or the connection to it, was away.
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

    // Asked to connect anew it goes on where it was, without a list. The last revision is reported again: more of it
    // could have been on its way.
    following.commands.send(Command::Reconnect).await.unwrap();
    let received = following.until(|event| *event == Event::Disconnected).await;
    assert_eq!(received, ["disconnected"]);
    write(&admin, &[put("a", "4")]).await;
    write(&admin, &[put("a", "again")]).await;
    let received = following.until(is_put("again")).await;
    assert_eq!(received, ["connected", "b = 2", "c = end", "a = 4", "a = again"]);

    // So it does when the etcd was killed and comes back with what it had.
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

/// A list whose revision is compacted away between two pages begins again, and is whole.
#[tokio::test]
async fn compaction_during_a_list_begins_it_again() {
    let etcd = Etcd::start();
    let admin = etcd.connect("admin").await;
    let ops: Vec<Op> = (0..200).map(|n| put(&format!("{n:03}"), "old")).collect();
    write(&admin, &ops).await;

    // One key a page, and room for one batch: it stands still before the fourth page.
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

    // The error behind it.
    let page = admin.page(&KeyRange::prefix(PREFIX), 1, Some(revision - 1), false).await;
    assert!(matches!(page, Err(EtcdError::Compacted)), "{page:?}");
}

async fn write_revision(connection: &Connection) -> i64 {
    connection.page(&KeyRange::prefix(PREFIX), 1, None, true).await.unwrap().0.revision
}

/// Everyone but the cluster's own is refused at a phase that says why.
#[tokio::test]
async fn strangers_are_refused_where_it_shows() {
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
        // What etcd calls all keys.
        KeyRange { start: vec![0], end: vec![0] },
    ] {
        denied(peer.list(&refused).await.unwrap_err());
    }
    denied(peer.apply(&[put("a", "1")]).await.unwrap_err());
    denied(peer.apply(&[Op::Delete { key: format!("{PREFIX}a") }]).await.unwrap_err());
    denied(peer.users().add_user("mine").await.unwrap_err());

    // Of the right CA, but of no user.
    etcd.certificate(&ca, "remote-zz", "nobody");
    assert_eq!(failure(&etcd.target("nobody")).await.phase, ConnectionPhase::Authenticated);

    // Of another CA, with the name of a user who may do everything.
    let (foreign, foreign_files) =
        Ca::create("a", std::time::SystemTime::now(), Ca::LIFETIME).unwrap();
    etcd.certificate(&foreign, "root", "foreign");
    let found = failure(&etcd.target("foreign")).await;
    assert_eq!(found.phase, ConnectionPhase::Authenticated, "{found:?}");
    assert!(found.reason.contains("does not trust the CA of our certificate"), "{found:?}");

    // An etcd that is not the one that was meant.
    let pki = ClusterPki::new(&etcd.pki());
    pki.write("other", &foreign_files).unwrap();
    let mut target = etcd.target("b");
    target.credentials = etcd.credentials("b", &pki.certificate("other"));
    let found = failure(&target).await;
    assert_eq!(found.phase, ConnectionPhase::Tls, "{found:?}");
    assert!(found.reason.contains("by a CA that is not trusted for it"), "{found:?}");

    // No server there, and no such place.
    let mut target = etcd.target("b");
    drop(etcd);
    let found = failure(&target).await;
    assert_eq!(found.phase, ConnectionPhase::Tcp, "{found:?}");
    assert!(found.reason.contains("refused"), "{found:?}");
    target.endpoints = vec!["https://nowhere.invalid:2379".into()];
    assert_eq!(failure(&target).await.phase, ConnectionPhase::Resolve);
}

/// A value that the etcd does not accept is refused as such, and the connection is as good as before.
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
    assert_eq!(keys, [], "all or none");
    write(&admin, &[put("small", "1")]).await;
    // More operations than a transaction may have are the same trouble.
    let many: Vec<Op> = (0..129).map(|n| put(&n.to_string(), "")).collect();
    let error = admin.apply(&many).await.unwrap_err();
    assert!(matches!(error, EtcdError::RequestTooLarge(_)), "{error:?}");
    let (_, keys) = admin.list(&KeyRange::prefix(PREFIX)).await.unwrap();
    assert_eq!(keys.len(), 1);
}

/// Set up twice is set up once: the second time the etcd changes nothing.
#[tokio::test]
async fn set_up_twice_changes_nothing() {
    let etcd = Etcd::start();
    assert!(etcd.etcdctl("local", &["put", "before", "auth"]).is_ok(), "every client may write");
    set_up_as(&etcd, &["remote-b", "remote-c"]).await;
    let first = users_and_roles(&etcd);
    let changes = auth_changes(&etcd);
    assert!(changes.len() >= 10, "its log has changes: {changes:#?}");

    // What docs/wire.md says, "Users and roles".
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
    // Authentication is on: who may not is refused.
    let refused = etcd.etcdctl("local", &["put", "before", "auth"]).unwrap_err();
    assert!(refused.contains("permission denied"), "{refused}");

    for _ in 0..3 {
        set_up_as(&etcd, &["remote-b", "remote-c"]).await;
    }
    assert_eq!(users_and_roles(&etcd), first);
    assert_eq!(auth_changes(&etcd), changes);
}

/// What is for local nodes is read by them, and by no peer.
#[tokio::test]
async fn no_peer_reads_what_is_for_local_nodes() {
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

/// A peer that is gone has no user any more; what was changed by hand is put right; users that an administrator allows
/// stay, and unknown ones go.
#[tokio::test]
async fn set_up_takes_back_what_is_not_desired() {
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
    // Its certificate is still good, and of no use.
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
    assert!(admin(&["user", "get", "backup"]).contains("theirs"), "it is allowed");
    assert!(admin(&["user", "list"]).contains("ghost"), "it may do nothing");
    admin(&["user", "grant-role", "ghost", "root"]);
    let kept = set_up_as(&etcd, &["remote-c"]).await;
    let unknown: Vec<String> = kept.unknown.iter().map(ToString::to_string).collect();
    assert_eq!(unknown, ["ghost with role root"]);
    assert!(!admin(&["user", "list"]).contains("ghost"));

    // A users file cannot make a user who writes.
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

/// Every user with its roles and every role with its permissions, as `etcdctl` shows them.
fn users_and_roles(etcd: &Etcd) -> Vec<String> {
    let mut shown = Vec::new();
    for kind in ["user", "role"] {
        for name in etcd.etcdctl("admin", &[kind, "list"]).unwrap().lines() {
            shown.push(etcd.etcdctl("admin", &[kind, "get", name]).unwrap());
        }
    }
    shown
}

/// The lines in which the etcd's store of users says that it changed something.
fn auth_changes(etcd: &Etcd) -> Vec<String> {
    let log = etcd.log_text();
    let about_users = log.lines().filter(|line| line.contains(r#""caller":"auth/store.go"#));
    let changed = about_users.filter(|line| !line.contains("ignored auth enable request"));
    changed.map(str::to_owned).collect()
}

/// Where using a target fails: when the connection is made, or at the first question.
async fn failure(target: &Target) -> Failure {
    let tried = async {
        let connection = connect(target, 0).await?;
        let listed = connection.list(&KeyRange::prefix("cilium/state/")).await;
        listed.map(|_| ()).map_err(|error| error.failure())
    };
    timeout(PATIENCE, tried).await.expect("an answer").expect_err("it is refused")
}

fn denied(error: EtcdError) {
    assert!(matches!(error, EtcdError::Denied(_)), "{error:?}");
    assert_eq!(error.failure().phase, ConnectionPhase::Authenticated);
}
