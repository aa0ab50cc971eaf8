//! The guarantees of etcd's watches, and of our follower, checked on recorded histories of a real etcd with random writers,
//! expiring leases, compactions, lost connections and kills of the etcd.
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
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

use mesh_chaos::{
    etcdctl,
    guarantees::{ReferenceModel, Response, Stored, Watch},
};
use mesh_e2e::{
    Etcd,
    watch_recorder::{Entry, Recording, read, watches},
};
use mesh_etcd::{Channels, Connection, EtcdError, Op, Target, connect, follow};
use mesh_follow::{Command, Event, Follower, KeyRange, RangeConfig, RangeId, Status};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Duration, sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// The prefix of the keys that the writers write.
const PREFIX: &str = "cilium/state/test/";
const HEAD: RangeId = RangeId(0);
const DATA: RangeId = RangeId(1);
/// The last value that is written.
const END: &str = "end";
const SEED: u64 = 20_261_125;

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn key(&mut self) -> String {
        let folder = ["a", "b", "c"][usize::try_from(self.below(3)).unwrap()];
        format!("{PREFIX}{folder}/{}", self.below(6))
    }

    /// One or several random puts and removals.
    fn ops(&mut self, lease: Option<i64>) -> Vec<Op> {
        let count = if self.below(3) == 0 { 4 } else { 1 };
        let mut ops = BTreeMap::new();
        for _ in 0..count {
            let key = self.key();
            let value = format!("{}", self.below(1_000_000)).into_bytes();
            let op = match self.below(4) {
                0 if lease.is_none() => Op::Delete { key: key.clone() },
                _ => Op::Put { key: key.clone(), value, lease },
            };
            ops.insert(key, op);
        }
        ops.into_values().collect()
    }
}

/// A forwarder to an etcd whose connections can be closed.
struct Gate {
    port: u16,
    open: watch::Sender<bool>,
}

impl Gate {
    async fn to(target: &Target) -> Self {
        let to: u16 = target.endpoints[0].rsplit(':').next().unwrap().parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, is_open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut is_open = is_open.clone();
                tokio::spawn(async move {
                    let passing = async {
                        let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await
                        else {
                            return;
                        };
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    };
                    tokio::select! {
                        () = passing => {}
                        _ = is_open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { port, open }
    }

    fn through(&self, mut target: Target) -> Target {
        target.endpoints = vec![format!("https://127.0.0.1:{}", self.port)];
        target
    }
}

/// A recorded follower that runs until it receives [`END`].
struct Following {
    span: KeyRange,
    gate: Gate,
    entries: Arc<Mutex<Vec<Entry>>>,
    commands: mpsc::Sender<Command>,
    done: JoinHandle<()>,
    status: watch::Receiver<Status>,
}

impl Following {
    async fn start(target: Target, span: KeyRange, seed: u64) -> Self {
        let gate = Gate::to(&target).await;
        let target = gate.through(target);
        let (commands, receiver) = mpsc::channel(1);
        let (sender, mut events) = mpsc::channel::<Vec<Event>>(1);
        let (published, status) = watch::channel(Status::default());
        let range = |id, span, page| RangeConfig { id, span, page, names_history: false };
        let head = range(HEAD, KeyRange::key("cilium/cluster-config/a"), 10);
        let mut follower = Follower::new(vec![head], seed, Instant::now());
        follower.follow(vec![range(DATA, span.clone(), 5)]);
        let (mut recording, entries) = Recording::new(follower);
        let channels = Channels {
            commands: receiver,
            events: sender,
            status: published,
            trouble: watch::channel(None).0,
            reconnect: Command::Reconnect,
        };
        tokio::spawn(async move {
            follow(&mut recording, &target, channels, |batch| batch.into_events()).await
        });
        let done = tokio::spawn(async move {
            // The last value may come in a list. Then the end of the list is awaited, too.
            let (mut listing, mut ended) = (false, false);
            while let Some(batch) = events.recv().await {
                for event in batch {
                    match event {
                        Event::Begin(DATA) => listing = true,
                        Event::Done(DATA, _) => listing = false,
                        Event::Put(DATA, kv) => ended |= kv.value == END.as_bytes(),
                        _ => {}
                    }
                }
                if ended && !listing {
                    return;
                }
            }
            panic!("the follower ended");
        });
        Self { span, gate, entries, commands, done, status }
    }

    async fn disconnected(&mut self) {
        let waited = timeout(PATIENCE, self.status.wait_for(|status| !status.connected)).await;
        waited.expect("the follower notices").unwrap();
    }
}

/// A running `etcdctl watch --prev-kv`.
struct Bare {
    span: KeyRange,
    from: i64,
    child: Child,
    output: PathBuf,
}

impl Bare {
    fn start(etcd: &Etcd, span: KeyRange, from: i64, output: PathBuf) -> Self {
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        let mut args = vec!["watch".to_owned(), text(&span.start)];
        // A range of one key is watched without an end, because its end contains a zero byte, which an argument cannot.
        args.extend((!span.end.ends_with(b"\0")).then(|| text(&span.end)));
        args.extend(["--prev-kv".into(), format!("--rev={from}"), "--write-out=json".into()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = etcd.etcdctl_command("admin", &args);
        command.stdin(Stdio::null()).stdout(File::create(&output).unwrap()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), span, from, output }
    }

    fn received(&self) -> Watch {
        let text = fs::read_to_string(&self.output).unwrap();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let responses = whole.filter_map(|line| etcdctl::response(line).unwrap()).collect();
        let KeyRange { start, end } = self.span.clone();
        let name = format!("etcdctl from revision {}", self.from);
        Watch { name, start, end, from: self.from, previous: true, responses }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Connects, and waits until the etcd runs.
async fn connected(target: &Target) -> Connection {
    loop {
        match connect(target, 0).await {
            Ok(connection) => return connection,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The acknowledged transactions: revision and operations.
type Acknowledged = Vec<(i64, Vec<Op>)>;

async fn write(target: Target, seed: u64, count: usize) -> Acknowledged {
    let mut dice = Dice(seed);
    let mut connection = connected(&target).await;
    let mut acknowledged = Vec::new();
    for _ in 0..count {
        let ops = dice.ops(None);
        match timeout(PATIENCE, connection.apply(&ops)).await.expect("an answer") {
            Ok(revision) => acknowledged.push((revision, ops)),
            // It is not known whether the transaction was applied.
            Err(_) => connection = connected(&target).await,
        }
    }
    acknowledged
}

/// Reads every revision since the last known one.
async fn go_on(reference: &mut ReferenceModel, connection: &Connection) {
    let span = KeyRange::prefix(PREFIX);
    let (header, ..) = connection.page(&span, 1, None, true).await.unwrap();
    for revision in reference.last() + 1..=header.revision {
        reference.next(at(connection, revision).await.unwrap());
    }
}

async fn at(
    connection: &Connection,
    revision: i64,
) -> Result<BTreeMap<Vec<u8>, Stored>, EtcdError> {
    let (_, keys, more) =
        connection.page(&KeyRange::prefix(PREFIX), 1_000, Some(revision), false).await?;
    assert!(!more);
    // A watch does not report the version.
    let stored = |kv: mesh_follow::KeyValue| {
        let (created, modified) = (kv.create_revision, kv.mod_revision);
        (kv.key, Stored { value: kv.value, created, modified, version: 0 })
    };
    Ok(keys.into_iter().map(stored).collect())
}

/// Puts keys with a lease of a second, and waits until they are gone.
async fn expire(connection: &Connection, dice: &mut Dice) {
    let lease = connection.grant_lease(1).await.unwrap();
    let ops: Vec<Op> = ["a", "b", "c"]
        .map(|folder| Op::Put {
            key: format!("{PREFIX}{folder}/leased"),
            value: dice.below(1_000).to_string().into(),
            lease: Some(lease),
        })
        .into();
    connection.apply(&ops).await.unwrap();
    let gone = async {
        while !connection
            .list(&KeyRange::key(&format!("{PREFIX}a/leased")))
            .await
            .unwrap()
            .1
            .is_empty()
        {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the lease expires");
}

/// The nine properties of watches hold for all responses to our client and to etcdctl. A reader of our follower has at each
/// moment the state of the etcd at one revision, gets no event twice, and ends with the etcd's last state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_followers_keep_their_guarantees() {
    let mut etcd = Etcd::with(&["--experimental-watch-progress-notify-interval=100ms"]);
    let folder = tempfile::tempdir().unwrap();
    let target = etcd.target("admin");
    let mut admin = connected(&target).await;
    let mut dice = Dice(SEED);
    let (first, ..) = admin.page(&KeyRange::prefix(PREFIX), 1, None, true).await.unwrap();
    let mut reference = ReferenceModel::new(first.revision, BTreeMap::new());

    let spans = [
        KeyRange::prefix(PREFIX),
        KeyRange::prefix(&format!("{PREFIX}b/")),
        KeyRange::key(&format!("{PREFIX}c/0")),
    ];
    let mut following = Vec::new();
    for (span, seed) in spans.iter().zip(1..) {
        following.push(Following::start(target.clone(), span.clone(), seed).await);
    }
    let mut bare = Vec::new();
    let mut acknowledged = Acknowledged::new();
    for round in 0..4 {
        let from = reference.last() + 1;
        let watch = |etcd: &Etcd, n: usize, from| {
            let output = folder.path().join(format!("{round}-{n}"));
            Bare::start(etcd, spans[n % 3].clone(), from, output)
        };
        if round % 2 == 0 {
            bare.extend([0, 1, 2].map(|n| watch(&etcd, n, from)));
        }
        let writers: Vec<_> =
            [0, 1].map(|n| tokio::spawn(write(target.clone(), SEED + 10 * round + n, 60))).into();
        // Connections are closed at random moments.
        for _ in 0..3 {
            sleep(Duration::from_millis(20 + dice.below(60))).await;
            let follower = &following[usize::try_from(dice.below(3)).unwrap()];
            follower.commands.send(Command::Reconnect).await.unwrap();
        }
        if round % 2 == 0 {
            etcd.kill();
            etcd.start_again();
            admin = connected(&target).await;
        }
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        if round % 2 == 1 {
            // Watches from past and from compacted revisions.
            bare.extend([0, 1, 2].map(|n| watch(&etcd, n, from)));
            bare.push(watch(&etcd, 3, first.revision + 1));
        }
        expire(&admin, &mut dice).await;
        go_on(&mut reference, &admin).await;

        // One follower is disconnected until its next revision is compacted.
        let away = &mut following[usize::try_from(round % 3).unwrap()];
        away.gate.open.send(false).unwrap();
        away.disconnected().await;
        for folder in ["a/1", "b/1", "c/0", "b/2", "c/0"] {
            let (key, value) = (format!("{PREFIX}{folder}"), dice.below(1_000).to_string().into());
            let ops = vec![Op::Put { key, value, lease: None }];
            acknowledged.push((admin.apply(&ops).await.unwrap(), ops));
        }
        go_on(&mut reference, &admin).await;
        etcd.etcdctl("admin", &["compact", &reference.last().to_string()]).unwrap();
        following[usize::try_from(round % 3).unwrap()].gate.open.send(true).unwrap();
    }
    let ops = ["a/0", "b/0", "c/0"].map(|name| Op::Put {
        key: format!("{PREFIX}{name}"),
        value: END.into(),
        lease: None,
    });
    let end = admin.apply(&ops).await.unwrap();
    go_on(&mut reference, &admin).await;

    // All acknowledged transactions were applied.
    for (revision, ops) in &acknowledged {
        let there = reference.at(*revision);
        for op in ops {
            match op {
                Op::Put { key, value, .. } => {
                    let stored = &there[key.as_bytes()];
                    assert_eq!((&stored.value, stored.modified), (value, *revision), "{key}");
                }
                Op::Delete { key } => assert!(!there.contains_key(key.as_bytes()), "{key}"),
            }
        }
    }
    let (mut progress, mut compacted, mut resumed) = (0, 0, 0);
    for follower in following {
        timeout(PATIENCE, follower.done).await.expect("the follower receives the end").unwrap();
        let entries = follower.entries.lock().unwrap().clone();
        let watches = watches(&entries, &follower.span);
        for watch in &watches {
            assert_eq!(watch.violations(&reference), [], "seed {SEED}");
        }
        assert_eq!(read(&entries, DATA, &follower.span, &reference), Ok(end), "seed {SEED}");
        let came = |is: fn(&Response) -> bool| {
            watches.iter().flat_map(|watch| &watch.responses).filter(|r| is(r)).count()
        };
        progress += came(|response| matches!(response, Response::Progress(_)));
        compacted += came(|response| matches!(response, Response::Compacted(_)));
        resumed += watches.len() - 1;
    }
    let mut events = 0;
    for watch in &bare {
        let received = || {
            let received = watch.received();
            let over = matches!(received.responses.last(), Some(Response::Compacted(_)));
            (over || received.reached() == Some(end)).then_some(received)
        };
        let received = async {
            loop {
                match received() {
                    Some(received) => return received,
                    None => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let received = timeout(PATIENCE, received).await.expect("etcdctl receives the end");
        assert_eq!(received.violations(&reference), [], "seed {SEED}");
        compacted +=
            received.responses.iter().filter(|r| matches!(r, Response::Compacted(_))).count();
        events += received.events().count();
    }
    println!(
        "{} revisions, {} acknowledged; etcdctl received {events} events; of our watches {resumed} went on after another; \
         {progress} notes of progress, {compacted} watches lost to compaction",
        reference.last() - first.revision,
        acknowledged.len(),
    );
    // Otherwise the test would have checked nothing.
    assert!(events > 500 && resumed > 10 && progress > 0 && compacted >= 3);
}

/// An etcd sends many revisions at once in messages that end in the middle of a revision. The follower reports all events
/// in order, and each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_revision_in_pieces_are_reported_in_order_and_once() {
    let etcd = Etcd::start();
    let target = etcd.target("admin");
    let admin = connected(&target).await;
    let put = |name: String, value: &str| Op::Put {
        key: format!("{PREFIX}{name}"),
        value: value.into(),
        lease: None,
    };
    let span = KeyRange::prefix(PREFIX);
    admin.apply(&[put("first".into(), "1")]).await.unwrap();
    let mut away = Following::start(target, span.clone(), 1).await;
    let connected = timeout(PATIENCE, away.status.wait_for(|status| status.connected)).await;
    connected.expect("the follower connects").unwrap();
    let listed = async {
        let done = |entry: &Entry| matches!(entry, Entry::Reported(events) if events.iter().any(|e| matches!(e, Event::Done(DATA, _))));
        while !away.entries.lock().unwrap().iter().any(done) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, listed).await.expect("the follower lists");
    away.gate.open.send(false).unwrap();
    away.disconnected().await;

    // A revision has 1.3 MB, and a message of an etcd at most 2 MB.
    let large = "x".repeat(450_000);
    let mut wanted = Vec::new();
    for round in 0..8 {
        let keys = ["a", "b", "c"].map(|name| format!("{round}/{name}"));
        let ops = keys.clone().map(|key| put(key, &large));
        let revision = admin.apply(&ops).await.unwrap();
        wanted.extend(keys.map(|key| (revision, format!("{PREFIX}{key}").into_bytes())));
    }
    let end = admin.apply(&[put("last".into(), END)]).await.unwrap();
    wanted.push((end, format!("{PREFIX}last").into_bytes()));
    away.gate.open.send(true).unwrap();
    timeout(PATIENCE, away.done).await.expect("the follower receives the end").unwrap();

    let entries = away.entries.lock().unwrap().clone();
    let again = entries
        .iter()
        .rposition(|entry| matches!(entry, Entry::Asked(_, asked, _) if *asked == span));
    let pieces: Vec<Vec<(i64, Vec<u8>)>> = entries[again.unwrap()..]
        .iter()
        .filter_map(|entry| match entry {
            Entry::Reported(events) => Some(events.iter()),
            _ => None,
        })
        .map(|events| {
            let put = |event: &Event| match event {
                Event::Put(DATA, kv) => Some((kv.mod_revision, kv.key.clone())),
                _ => None,
            };
            events.filter_map(put).collect()
        })
        .filter(|piece: &Vec<_>| !piece.is_empty())
        .collect();
    let received: Vec<(i64, Vec<u8>)> = pieces.concat();
    // The last known revision may be reported again.
    let received: Vec<_> =
        received.into_iter().filter(|(_, key)| !key.ends_with(b"first")).collect();
    assert_eq!(received, wanted, "all events, in order, each once");
    let torn = pieces.windows(2).filter(|two| two[0].last().unwrap().0 == two[1][0].0).count();
    assert!(torn > 0, "no revision came in pieces: {}", pieces.len());
}
