//! Requests of a peer to an etcd, and their results.

use std::{future::Future, pin::Pin};

use mesh_e2e::{
    Etcd,
    raw_etcd::{Field, Message, RawEtcd},
};
use mesh_etcd_setup::{Desired, keep};
use mesh_model::ClusterName;
use mesh_wire::users_file::UsersFile;
use tonic::Code;

/// A row of a table.
pub(crate) struct Probe {
    /// The first cell of the row.
    pub(crate) row: &'static str,
    /// The etcd's flags.
    pub(crate) flags: &'static [&'static str],
    /// Tries it and returns the text of the cell.
    pub(crate) try_it: for<'a> fn(&'a Scene) -> Pin<Box<dyn Future<Output = String> + 'a>>,
}

/// The etcd of cluster a, set up for the peer b.
pub(crate) struct Scene {
    etcd: Etcd,
    admin: RawEtcd,
    peer: RawEtcd,
}

macro_rules! probe {
    ($row:literal, $try_it:ident) => {
        probe!($row, $try_it, &[])
    };
    ($row:literal, $try_it:ident, $flags:expr) => {
        Probe { row: $row, flags: $flags, try_it: |scene| Box::pin($try_it(scene)) }
    };
}

/// The probes of the table of attacks.
pub(crate) const ATTACKS: [Probe; 7] = [
    probe!("reads `clustermesh/local/` by a transaction in a transaction", nested_read),
    probe!("writes by a transaction in a transaction", nested_write),
    probe!("reads `clustermesh/local/` by a watch from a readable key on", open_watch),
    probe!("writes, while the etcd is full", full_delete, FULL),
    probe!("makes itself `root`, while the etcd is full", full_root, FULL),
    probe!("reads what it should not, by a range", plain_read),
    probe!("writes, by a put", plain_write),
];

/// The probes of the table of differences.
pub(crate) const BEHAVIOURS: [Probe; 14] = [
    probe!("the ID in the answer that refuses a watch", refused_watch_id),
    probe!("the ID in the answer that refuses a watch with an ID of its own", refused_own_watch_id),
    probe!("Status by a peer", status_by_peer),
    probe!("Status without a certificate's user", status_by_nobody),
    probe!("Status says the quota", status_quota),
    probe!("compaction by a peer", compaction),
    probe!("a lease granted to a peer", lease_grant),
    probe!("a peer lists all leases", lease_list),
    probe!("a peer revokes a lease without keys", lease_revoke),
    probe!("a peer revokes a lease with keys it cannot write", lease_revoke_keys),
    probe!("a peer reads the keys of a lease", lease_keys),
    probe!("a watch of a user who was removed", watch_after_removal),
    probe!("a peer takes a snapshot of everything", snapshot),
    probe!("a peer defragments", defragment),
];

/// Flags for an etcd with little space.
const FULL: &[&str] = &["--quota-backend-bytes=1000000"];
/// A key that only local nodes may read.
const LOCAL: &str = "clustermesh/local/v1/secret";
const SECRET: &str = "for local nodes only";
/// A key that a peer may read.
const READABLE: &str = "cilium/cluster-config/a";
const NODE: &str = "cilium/state/nodes/v1/a/n1";

// === impl Scene ===

impl Scene {
    /// Sets the etcd up as its cluster's apiserver does.
    pub(crate) async fn new(etcd: Etcd) -> Self {
        let file = UsersFile::parse("users:\n- {name: remote-b, role: remote}\n").unwrap();
        let (desired, refused) = Desired::new(&ClusterName::new("a").unwrap(), &file);
        assert_eq!(refused, []);
        let connection = etcd.connect("admin").await;
        keep(&mut connection.users(), &desired).await.unwrap();
        etcd.certificate(&etcd.ca(), "remote-b", "b");
        etcd.certificate(&etcd.ca(), "remote-zz", "nobody");
        let connect = async |name| RawEtcd::connect(etcd.port(), &etcd.pki(), Some(name)).await;
        let (admin, peer) = (connect("admin").await.unwrap(), connect("b").await.unwrap());
        for (key, value) in [(READABLE, "{}"), (NODE, "{}"), (LOCAL, SECRET)] {
            admin.ask("KV/Put", &put(key, value)).await.unwrap();
        }
        Self { etcd, admin, peer }
    }

    /// The version that the etcd reports.
    pub(crate) async fn version(&self) -> String {
        let status = self.admin.ask("Maintenance/Status", &Message::default()).await.unwrap();
        text(&status, 2)
    }

    /// The value that the administrator reads.
    async fn value(&self, key: &str) -> Option<String> {
        let found = self.admin.ask("KV/Range", &range(key)).await.unwrap();
        let kv = bytes(&found, 2)?;
        Some(text(&Message::decode(&kv), 5))
    }

    /// Writes until the etcd is full.
    async fn fill(&self) {
        let large = "x".repeat(100_000);
        for n in 0..100 {
            if let Err((code, why)) =
                self.admin.ask("KV/Put", &put(&format!("fill/{n}"), &large)).await
            {
                assert_eq!(code, Code::ResourceExhausted, "{why}");
                return;
            }
        }
        panic!("the etcd is not full after 10 MB");
    }

    async fn lease(&self, id: i64) {
        let grant = Message::default().number(1, 600).number(2, id);
        self.admin.ask("Lease/LeaseGrant", &grant).await.unwrap();
    }
}

// === attacks ===

async fn nested_read(scene: &Scene) -> String {
    let read = operation(1, &range(LOCAL));
    let answer = scene.peer.ask("KV/Txn", &txn(&operation(4, &txn(&read)))).await;
    match answer {
        Ok(answer) => {
            let found = String::from_utf8_lossy(&answer.encode()).contains(SECRET);
            assert!(found, "{answer:?}");
            succeeds()
        }
        Err(refusal) => denied(refusal),
    }
}

async fn nested_write(scene: &Scene) -> String {
    let write = operation(2, &put(NODE, "a lie"));
    let answer = scene.peer.ask("KV/Txn", &txn(&operation(4, &txn(&write)))).await;
    written(scene, answer, Some("a lie")).await
}

async fn open_watch(scene: &Scene) -> String {
    let mut watch = scene.peer.watch();
    watch.send(&create_watch(READABLE, &[0]));
    loop {
        let response = watch.next().await;
        if number(&response, 4) == 1 {
            return refused();
        }
        let events = response.0.iter().any(|(field, _)| *field == 11);
        if events {
            let found = String::from_utf8_lossy(&response.encode()).contains(SECRET);
            // If the watch got only the readable key, it got what the role allows.
            if found {
                return succeeds();
            }
            assert!(watch.is_quiet().await, "no more events come");
            return "only its key".into();
        }
    }
}

async fn full_delete(scene: &Scene) -> String {
    scene.fill().await;
    let answer = scene.peer.ask("KV/DeleteRange", &range(NODE)).await;
    written(scene, answer, None).await
}

async fn full_root(scene: &Scene) -> String {
    scene.fill().await;
    let grant = Message::default().bytes(1, "remote-b").bytes(2, "root");
    match scene.peer.ask("Auth/UserGrantRole", &grant).await {
        Ok(_) => {
            scene.peer.ask("KV/Range", &range(LOCAL)).await.expect("root reads everything");
            succeeds()
        }
        Err(refusal) => denied(refusal),
    }
}

async fn plain_read(scene: &Scene) -> String {
    outcome(scene.peer.ask("KV/Range", &range(LOCAL)).await)
}

async fn plain_write(scene: &Scene) -> String {
    let answer = scene.peer.ask("KV/Put", &put(NODE, "a lie")).await;
    written(scene, answer, Some("a lie")).await
}

// === behaviours ===

async fn refused_watch_id(scene: &Scene) -> String {
    refused_watch(scene, Message::default().bytes(1, LOCAL)).await
}

async fn refused_own_watch_id(scene: &Scene) -> String {
    refused_watch(scene, Message::default().bytes(1, LOCAL).number(7, 4_711)).await
}

async fn refused_watch(scene: &Scene, create: Message) -> String {
    let mut watch = scene.peer.watch();
    watch.send(&Message::default().message(1, &create));
    let response = watch.next().await;
    assert_eq!(number(&response, 4), 1, "the watch is cancelled: {response:?}");
    assert!(text(&response, 6).contains("permission denied"), "{response:?}");
    number(&response, 2).to_string()
}

async fn status_by_peer(scene: &Scene) -> String {
    outcome(scene.peer.ask("Maintenance/Status", &Message::default()).await)
}

async fn status_by_nobody(scene: &Scene) -> String {
    let etcd = &scene.etcd;
    let nobody = RawEtcd::connect(etcd.port(), &etcd.pki(), Some("nobody")).await.unwrap();
    outcome(nobody.ask("Maintenance/Status", &Message::default()).await)
}

async fn status_quota(scene: &Scene) -> String {
    let status = scene.admin.ask("Maintenance/Status", &Message::default()).await.unwrap();
    if number(&status, 12) > 0 { "yes".into() } else { "no".into() }
}

async fn compaction(scene: &Scene) -> String {
    outcome(scene.peer.ask("KV/Compact", &Message::default().number(1, 2)).await)
}

async fn lease_grant(scene: &Scene) -> String {
    outcome(scene.peer.ask("Lease/LeaseGrant", &Message::default().number(1, 600)).await)
}

async fn lease_list(scene: &Scene) -> String {
    scene.lease(77).await;
    outcome(scene.peer.ask("Lease/LeaseLeases", &Message::default()).await)
}

async fn lease_revoke(scene: &Scene) -> String {
    scene.lease(77).await;
    outcome(scene.peer.ask("Lease/LeaseRevoke", &Message::default().number(1, 77)).await)
}

async fn lease_revoke_keys(scene: &Scene) -> String {
    scene.lease(77).await;
    scene.admin.ask("KV/Put", &put(NODE, "{}").number(3, 77)).await.unwrap();
    let answer = scene.peer.ask("Lease/LeaseRevoke", &Message::default().number(1, 77)).await;
    written(scene, answer, None).await
}

async fn lease_keys(scene: &Scene) -> String {
    scene.lease(77).await;
    scene.admin.ask("KV/Put", &put(LOCAL, SECRET).number(3, 77)).await.unwrap();
    let ask = Message::default().number(1, 77).number(2, 1);
    outcome(scene.peer.ask("Lease/LeaseTimeToLive", &ask).await)
}

async fn watch_after_removal(scene: &Scene) -> String {
    let mut watch = scene.peer.watch();
    watch.send(&create_watch(NODE, &[]));
    while !watch.next().await.0.iter().any(|(field, _)| *field == 11) {}
    let user = Message::default().bytes(1, "remote-b");
    scene.admin.ask("Auth/UserDelete", &user).await.unwrap();
    scene.admin.ask("KV/Put", &put(NODE, "after")).await.unwrap();
    // The next response is an event or the end of the watch. Without either, waiting for it fails.
    let response = watch.next().await;
    if number(&response, 4) == 1 { "ends".into() } else { "goes on".into() }
}

async fn snapshot(scene: &Scene) -> String {
    // The answer is the first message of the stream.
    outcome(scene.peer.ask_first("Maintenance/Snapshot", &Message::default()).await)
}

async fn defragment(scene: &Scene) -> String {
    outcome(scene.peer.ask("Maintenance/Defragment", &Message::default()).await)
}

// === answers ===

fn succeeds() -> String {
    "**succeeds**".into()
}

fn refused() -> String {
    "refused".into()
}

/// Checks that a request was refused for lack of rights, and for no other reason.
fn denied((code, why): (Code, String)) -> String {
    let rights = matches!(code, Code::PermissionDenied | Code::Unauthenticated)
        || code == Code::InvalidArgument && why.contains("user name")
        // Some errors of etcd have no code.
        || code == Code::Unknown && why == "auth: permission denied";
    assert!(rights, "{code:?}: {why}");
    refused()
}

fn outcome(answer: Result<Message, (Code, String)>) -> String {
    answer.map_or_else(denied, |_| "done".into())
}

/// The result of a write to [`NODE`]. What it did must be what the etcd answered.
async fn written(
    scene: &Scene,
    answer: Result<Message, (Code, String)>,
    wanted: Option<&str>,
) -> String {
    let found = scene.value(NODE).await;
    match answer {
        Ok(_) => {
            assert_eq!(found.as_deref(), wanted, "the write was answered and done");
            succeeds()
        }
        Err(refusal) => {
            assert_eq!(found.as_deref(), Some("{}"), "the write was refused and not done");
            denied(refusal)
        }
    }
}

// === messages ===

fn put(key: &str, value: &str) -> Message {
    Message::default().bytes(1, key).bytes(2, value)
}

/// One key, to be read or to be deleted.
fn range(key: &str) -> Message {
    Message::default().bytes(1, key)
}

/// An operation of a transaction: 1 reads, 2 puts, 3 deletes, 4 is a transaction.
fn operation(kind: u64, request: &Message) -> Message {
    Message::default().message(kind, request)
}

fn txn(operation: &Message) -> Message {
    Message::default().message(2, operation)
}

/// A request for a watch from the first revision.
fn create_watch(key: &str, end: &[u8]) -> Message {
    let create = Message::default().bytes(1, key);
    let create = if end.is_empty() { create } else { create.bytes(2, end) };
    Message::default().message(1, &create.number(3, 1))
}

fn bytes(message: &Message, field: u64) -> Option<Vec<u8>> {
    message.0.iter().find_map(|(number, value)| match value {
        Field::Bytes(bytes) if *number == field => Some(bytes.clone()),
        _ => None,
    })
}

fn text(message: &Message, field: u64) -> String {
    String::from_utf8(bytes(message, field).unwrap_or_default()).unwrap()
}

/// A number of a message. Protobuf does not transmit 0, so a missing field is 0.
fn number(message: &Message, field: u64) -> i64 {
    let found = message.0.iter().find_map(|(number, value)| match value {
        Field::Number(value) if *number == field => Some(value.cast_signed()),
        _ => None,
    });
    found.unwrap_or_default()
}
