//! `mesh-replay` gives the same answers as a real etcd with the same content, byte for byte except for the IDs of the etcd.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use mesh_e2e::{
    Etcd,
    etcd::free_ports,
    raw_etcd::{Field, Message, RawEtcd, RawWatch, recorded},
};
use mesh_model::ClusterName;
use mesh_replay::{ClusterFile, Recording, ReplayFile, serve};
use tokio::{sync::oneshot, task::AbortHandle};
use tonic::Code;

/// A real etcd and a replay with the same content, and a client of both.
struct Both {
    etcd: Etcd,
    real: RawEtcd,
    replayed: RawEtcd,
    /// The port of the replay.
    port: u16,
    serving: AbortHandle,
}

const CLUSTER: &str = "alpha";
/// The ID of the recorded cluster, so that the replay changes no values.
const ID: u32 = 7;
const PREFIX_END: u8 = b'0';

impl Drop for Both {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Both {
    /// Starts both with keys that Cilium wrote.
    async fn start() -> Self {
        let etcd = Etcd::of(CLUSTER);
        let (entries, [port, _]) = (content(), free_ports());
        let name = ClusterName::new(CLUSTER).expect("a name");
        let recording = Recording::new(&name, entries.clone()).expect("a recording");
        let file = ReplayFile { clusters: vec![cluster(port, etcd.pki())], keep_alive: false };
        let (ready, is_ready) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let listens = || ready.send(()).expect("the test waits");
            serve(&recording, &file, listens).await.expect("the replay serves");
        });
        is_ready.await.expect("the replay listens");
        let replayed = RawEtcd::connect(port, &etcd.pki(), Some("admin")).await;
        let real = RawEtcd::connect(etcd.port(), &etcd.pki(), Some("admin")).await;
        let both = Self {
            real: real.expect("a connection"),
            replayed: replayed.expect("a connection"),
            port,
            serving: serving.abort_handle(),
            etcd,
        };
        // Canaries come last, as a writer puts them.
        let is_canary = |key: &str| key.starts_with("cilium/synced/");
        let (canaries, first): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(key, _)| is_canary(key));
        for (key, value) in first.into_iter().chain(canaries) {
            both.real.ask("KV/Put", &put(&key, &value)).await.expect("a put");
        }
        both
    }

    /// Sends the same request to both. Their answers must be equal; returns them.
    async fn ask(&self, method: &str, request: &Message) -> Result<Message, (Code, String)> {
        let (real, replayed) =
            (self.real.ask(method, request).await, self.replayed.ask(method, request).await);
        if let (Ok(real), Ok(replayed)) = (&real, &replayed) {
            let ids = [real, replayed].map(Message::cluster_id);
            assert!(ids[0] != ids[1] && !ids.contains(&0), "the two have different IDs: {ids:?}");
        }
        let [real, replayed] = [real, replayed].map(|answer| answer.map(Message::without_header));
        assert_eq!(replayed, real, "{method} {request:?}");
        real
    }
}

fn cluster(port: u16, pki: PathBuf) -> ClusterFile {
    let listen = ([127, 0, 0, 1], port).into();
    ClusterFile { name: CLUSTER.into(), id: ID, listen, pki, ranges: Vec::new() }
}

/// Services, slices, identities and addresses that Cilium wrote.
fn content() -> BTreeMap<String, Vec<u8>> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/wire/tests/fixtures/cilium-1.20.2");
    let files = ["services", "endpoints", "identities", "nodes"];
    files.iter().flat_map(|name| recorded(&folder.join(name).with_extension("json"))).collect()
}

fn put(key: &str, value: &[u8]) -> Message {
    Message::default().bytes(1, key).bytes(2, value)
}

/// All keys below a prefix that ends in a slash.
fn below(prefix: &str) -> Message {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") = PREFIX_END;
    Message::default().bytes(1, prefix).bytes(2, end)
}

#[tokio::test]
async fn reads_are_those_of_a_real_etcd() {
    let both = Both::start().await;
    let everything = || Message::default().bytes(1, "a").bytes(2, [0]);
    let all = both.ask("KV/Range", &everything()).await.expect("all keys");
    let revision = i64::try_from(content().len() + 1).expect("few keys");
    assert!(all.0.len() > 20, "every key is a field: {}", all.0.len());
    let state = || below("cilium/state/");
    let slices = || below("cilium/state/endpointslices/");
    let one = || Message::default().bytes(1, "cilium/cluster-config/alpha");
    let none = || Message::default().bytes(1, "cilium/cluster-config/beta");
    for request in [
        state(),
        slices(),
        one(),
        none(),
        // Limits below and above the number of keys.
        state().number(3, 1),
        state().number(3, 7),
        state().number(3, 10_000),
        // At revisions, serializable, keys only, counts only.
        state().number(3, 5).number(4, revision),
        state().number(4, 12).number(7, 1),
        state().number(3, 3).number(4, 20).number(8, 1),
        state().number(9, 1),
        // A range that ends before it begins, an empty one, and one from a key on without an end.
        Message::default().bytes(1, "b").bytes(2, "a"),
        Message::default().bytes(1, "x").bytes(2, "y"),
        Message::default().bytes(1, "cilium/synced/").bytes(2, [0]),
        // A revision in the future.
        state().number(4, revision + 1),
    ] {
        let _ = both.ask("KV/Range", &request).await;
    }
    // Page by page, as followers read.
    let (mut start, mut pages) = (b"cilium/state/".to_vec(), 0);
    loop {
        let request = Message::default()
            .bytes(1, &start)
            .bytes(2, "cilium/state0")
            .number(3, 4)
            .number(4, revision);
        let page = both.ask("KV/Range", &request).await.expect("a page");
        pages += 1;
        let mut keys = page.0.iter().filter(|(field, _)| *field == 2);
        let Some((_, Field::Bytes(last))) = keys.next_back() else { break };
        let Message(last) = Message::decode(last);
        let Field::Bytes(key) = &last[0].1 else { panic!("a key") };
        start = [key.as_slice(), &[0]].concat();
    }
    assert!(pages > 5, "{pages} pages");
}

#[tokio::test]
async fn writes_compactions_and_refusals_are_those_of_a_real_etcd() {
    let both = Both::start().await;
    let revision = i64::try_from(content().len() + 1).expect("few keys");
    let operation = |put: &Message| Message::default().message(2, put);
    let remove = |range: &Message| Message::default().message(3, range);
    let txn = |operations: &[Message]| {
        operations.iter().fold(Message::default(), |txn, one| txn.message(2, one))
    };
    let many: Vec<Message> = (0..129).map(|n| operation(&put(&format!("many/{n}"), b""))).collect();
    both.ask("KV/Put", &put("x/a", b"1")).await.expect("a put");
    both.ask("KV/Put", &put("x/a", b"1")).await.expect("the same again");
    both.ask("KV/Txn", &txn(&[operation(&put("x/b", b"2")), operation(&put("x/c", b"3"))]))
        .await
        .expect("two puts in one revision");
    both.ask("KV/Txn", &txn(&[operation(&put("x/d", b"")), remove(&below("x/"))]))
        .await
        .expect_err("a key that is put and removed");
    both.ask(
        "KV/Txn",
        &txn(&[operation(&put("x/d", b"")), remove(&Message::default().bytes(1, "x/a"))]),
    )
    .await
    .expect("a put and a removal in one revision");
    for (method, request) in [
        ("KV/Txn", txn(&[operation(&put("x/e", b"")), operation(&put("x/e", b""))])),
        ("KV/Txn", txn(&many)),
        ("KV/Put", put("", b"")),
        ("KV/Put", put("x/l", b"").number(3, 4_711)),
    ] {
        both.ask(method, &request).await.expect_err("both refuse");
    }
    both.ask("KV/DeleteRange", &Message::default().bytes(1, "x/nothing")).await.expect("0 keys");
    both.ask("KV/DeleteRange", &below("x/")).await.expect("3 keys");
    let left = both.ask("KV/Range", &below("x/").number(9, 1)).await.expect("a count");
    assert_eq!(left.0.len(), 1, "only the header is left: {left:?}");
    both.ask("KV/Range", &below("x/").number(4, revision + 3)).await.expect("the past revision");

    let compact = |revision| Message::default().number(1, revision);
    both.ask("KV/Compact", &compact(revision + 3)).await.expect("a compaction");
    both.ask("KV/Compact", &compact(revision + 3))
        .await
        .expect_err("the revision is already compacted");
    both.ask("KV/Compact", &compact(revision + 1_000))
        .await
        .expect_err("the revision is in the future");
    both.ask("KV/Range", &below("x/").number(4, revision + 3))
        .await
        .expect("the revision of the compaction is still readable");
    let gone = both.ask("KV/Range", &below("x/").number(4, revision + 2)).await;
    assert!(gone.expect_err("the revision is compacted").1.contains("has been compacted"));
}

/// A watch stream of each.
struct Watches {
    real: RawWatch,
    replayed: RawWatch,
}

impl Watches {
    fn open(both: &Both) -> Self {
        Self { real: both.real.watch(), replayed: both.replayed.watch() }
    }

    fn send(&self, request: &Message) {
        self.real.send(request);
        self.replayed.send(request);
    }

    /// The next response, which must be equal from both.
    async fn next(&mut self) -> Message {
        let (real, replayed) = (self.real.next().await, self.replayed.next().await);
        let [real, replayed] = [real, replayed].map(Message::without_header);
        assert_eq!(replayed, real);
        real
    }

    async fn are_quiet(&mut self) {
        assert!(self.real.is_quiet().await && self.replayed.is_quiet().await);
    }
}

/// A request for a watch of a range from a revision on, with an ID.
fn watch(range: Message, from: i64, id: i64) -> Message {
    let numbered = |message: Message, field, value| match value {
        0 => message,
        value => message.number(field, value),
    };
    let create = numbered(numbered(range, 3, from).number(4, 1), 7, id).number(8, 1);
    Message::default().message(1, &create)
}

fn events(response: &Message) -> usize {
    response.0.iter().filter(|(field, _)| *field == 11).count()
}

#[tokio::test]
async fn watches_are_those_of_a_real_etcd() {
    let both = Both::start().await;
    let keys = content();
    let first = 2;
    let mut watches = Watches::open(&both);
    // Past revisions come in one response, later ones in a response each.
    watches.send(&watch(below("cilium/state/"), first, 5));
    watches.next().await;
    let behind = watches.next().await;
    let state = keys.keys().filter(|key| key.starts_with("cilium/state/")).count();
    assert_eq!(events(&behind), state);
    both.ask("KV/Put", &put("cilium/state/ip/v1/default/10.9.9.9", b"{}")).await.expect("a put");
    assert_eq!(events(&watches.next().await), 1);
    both.ask("KV/Put", &put("elsewhere", b"")).await.expect("a put that no watch is about");
    both.ask("KV/DeleteRange", &below("cilium/state/ip/")).await.expect("a removal of several");
    assert!(events(&watches.next().await) > 1, "one revision is one response");

    // Another watch on the same stream, without an ID, and without a revision: from now on.
    watches.send(&watch(Message::default().bytes(1, "elsewhere"), 0, 0));
    watches.next().await;
    both.ask("KV/Put", &put("elsewhere", b"again")).await.expect("a put");
    assert_eq!(events(&watches.next().await), 1);
    // A request for the progress of the stream.
    watches.send(&Message::default().message(3, &Message::default()));
    assert_eq!(events(&watches.next().await), 0);
    // A used ID, the end of a watch, and the end of an unknown watch.
    watches.send(&watch(below("cilium/"), 0, 5));
    watches.next().await;
    let cancel = |id| Message::default().message(2, &Message::default().number(1, id));
    watches.send(&cancel(5));
    watches.next().await;
    watches.send(&cancel(99));
    both.ask("KV/Put", &put("cilium/state/ip/v1/default/10.9.9.9", b"{}")).await.expect("a put");
    watches.are_quiet().await;

    // From a future revision, and from a compacted one.
    let now = both.ask("KV/Range", &Message::default().bytes(1, "x")).await.expect("a revision");
    let Field::Number(now) = now.0[0].1 else { panic!("a revision") };
    let now = i64::try_from(now).expect("a small number");
    let mut later = Watches::open(&both);
    later.send(&watch(below("late/"), now + 2, 1));
    later.next().await;
    both.ask("KV/Put", &put("late/one", b"")).await.expect("the revision before");
    both.ask("KV/Put", &put("late/two", b"")).await.expect("the revision itself");
    assert_eq!(events(&later.next().await), 1);
    both.ask("KV/Compact", &Message::default().number(1, now)).await.expect("a compaction");
    later.send(&watch(below("cilium/"), first, 2));
    later.next().await;
    let gone = later.next().await;
    assert!(
        gone.0.iter().any(|(field, _)| *field == 5),
        "the response has the compacted revision: {gone:?}"
    );
    // The first revision that was not compacted.
    later.send(&watch(below("late/"), now, 3));
    later.next().await;
    assert_eq!(events(&later.next().await), 2);
}

#[tokio::test]
async fn only_the_cluster_s_certificates_give_access_and_only_its_administrator_writes() {
    let both = Both::start().await;
    let pki = both.etcd.pki();
    let name = both.etcd.certificate(&both.etcd.ca(), "remote-beta", "beta");
    let reader = RawEtcd::connect(both.port, &pki, Some(&name)).await.expect("a connection");
    reader.ask("KV/Range", &below("cilium/")).await.expect("a reader may read");
    for (method, request) in [
        ("KV/Put", put("x", b"")),
        ("KV/DeleteRange", below("cilium/")),
        ("KV/Txn", Message::default()),
        ("KV/Compact", Message::default().number(1, 2)),
    ] {
        let refused = reader.ask(method, &request).await.expect_err("a reader may not write");
        assert_eq!(refused, (Code::PermissionDenied, "etcdserver: permission denied".into()));
    }
    let nobody = async {
        let stranger = RawEtcd::connect(both.port, &pki, None).await?;
        stranger.ask("KV/Range", &below("cilium/")).await.map_err(|(_, reason)| reason)
    };
    nobody.await.expect_err("without a certificate no client is let in");
}
