//! A reader of a busy cluster over a slow link, with a real etcd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use mesh_e2e::{Etcd, Relay};
use mesh_etcd::{Channels, Connection, Op, follow};
use mesh_follow::{
    Action, Input, Machine, PeerCommand, PeerConfig, PeerEvent, PeerFollower, Role, Status,
};
use mesh_model::{ClusterId, ClusterLimit, ClusterName, RecordEvent, RecordKey, RecordKind};
use mesh_wire::{Key, Layout, Prefix, key::HEARTBEAT};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, interval, timeout},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// The number of addresses, the delay in each direction, and the time between removals of pods.
const KEYS: usize = 20_000;
const WAY: Duration = Duration::from_millis(50);
const REMOVAL: Duration = Duration::from_millis(50);

fn cluster() -> ClusterName {
    ClusterName::new("a").unwrap()
}

fn ip(n: usize) -> String {
    format!("10.1.{}.{}", n / 256, n % 256)
}

fn key(n: usize) -> String {
    format!("cilium/state/ip/v1/default/{}", ip(n))
}

fn put(key: String, value: &str) -> Op {
    Op::Put { key, value: value.into(), lease: None }
}

fn canaries() -> Vec<Op> {
    let canary = |prefix| Key::canary(&cluster(), Layout::State, prefix).to_string();
    Prefix::ALL.map(|prefix| put(canary(prefix), "2027-02-03T04:05:06Z")).into()
}

/// Fills the etcd of a cluster with `count` addresses and the canaries.
async fn fill(admin: &Connection, count: usize) {
    let config = r#"{"id":1,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}"#;
    admin.apply(&[put("cilium/cluster-config/a".into(), config)]).await.unwrap();
    let all: Vec<Op> = (0..count)
        .map(|n| put(key(n), &format!(r#"{{"IP":"{}","HostIP":"172.31.1.1","ID":0}}"#, ip(n))))
        .collect();
    for part in all.chunks(128) {
        admin.apply(part).await.unwrap();
    }
    admin.apply(&canaries()).await.unwrap();
}

/// A follower that counts the lists of the range with the addresses.
struct Counting {
    follower: PeerFollower,
    lists: Arc<AtomicU64>,
}

impl Machine for Counting {
    type Event = PeerEvent;
    type Command = PeerCommand;

    fn handle(&mut self, now: Instant, input: Input) {
        self.follower.handle(now, input);
    }

    fn command(&mut self, now: Instant, command: PeerCommand) {
        self.follower.command(now, command);
    }

    fn poll(&mut self, now: Instant) -> Option<Action> {
        let action = self.follower.poll(now);
        if let Some(Action::List { span, revision: None, .. }) = &action
            && span.contains(key(0).as_bytes())
        {
            self.lists.fetch_add(1, Ordering::SeqCst);
        }
        action
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.follower.next_timeout()
    }

    fn take_events(&mut self) -> Vec<PeerEvent> {
        self.follower.take_events()
    }

    fn batch_bytes(&self) -> usize {
        self.follower.batch_bytes()
    }

    fn has_more(&self) -> bool {
        self.follower.has_more()
    }

    fn wants_input(&self) -> bool {
        self.follower.wants_input()
    }

    fn status(&self) -> &Status {
        self.follower.status()
    }
}

/// A running reader of the cluster.
struct Reader {
    lists: Arc<AtomicU64>,
    events: mpsc::Receiver<Vec<PeerEvent>>,
    status: watch::Receiver<Status>,
    _commands: mpsc::Sender<PeerCommand>,
}

impl Reader {
    fn start(etcd: &Etcd, relay: &Relay) -> Self {
        let limit = ClusterLimit::Max255;
        let config = PeerConfig {
            name: cluster(),
            role: Role::Remote,
            local_id: ClusterId::new(2, limit).unwrap(),
            node: None,
            endpoints: 1,
            limit,
            uuid: None,
            id: None,
        };
        let lists = Arc::new(AtomicU64::new(0));
        let follower = PeerFollower::new(config, 1, Instant::now());
        let mut machine = Counting { follower, lists: Arc::clone(&lists) };
        let (commands, commands_receiver) = mpsc::channel(1);
        let (events_sender, events) = mpsc::channel(64);
        let (status_sender, status) = watch::channel(Status::default());
        let channels = Channels {
            commands: commands_receiver,
            events: events_sender,
            status: status_sender,
            trouble: watch::channel(None).0,
            reconnect: PeerCommand::Reconnect,
        };
        let mut target = etcd.target("admin");
        target.endpoints = vec![format!("https://127.0.0.1:{}", relay.port())];
        tokio::spawn(async move {
            follow(&mut machine, &target, channels, |batch| batch.into_events()).await
        });
        Self { lists, events, status, _commands: commands }
    }

    /// Waits until its status is like this.
    async fn wait(&mut self, is_so: impl FnMut(&Status) -> bool) {
        let found = timeout(PATIENCE, self.status.wait_for(is_so)).await.expect("in time");
        found.expect("the reader runs");
    }

    /// Takes events until `is_last` is true for one. Returns how many records were removed.
    async fn until(&mut self, is_last: impl Fn(&RecordEvent) -> bool) -> usize {
        let mut removed = 0;
        loop {
            let batch = timeout(PATIENCE, self.events.recv()).await.expect("more events");
            let mut last = false;
            for event in batch.expect("the reader runs") {
                if let PeerEvent::Record(event) = event {
                    removed += usize::from(matches!(event, RecordEvent::Remove(_)));
                    last |= is_last(&event);
                }
            }
            if last {
                return removed;
            }
        }
    }
}

/// How a writer removes a pod with two addresses.
#[derive(Clone, Copy, Debug)]
enum Writer {
    /// In one revision with its heartbeat. Then it puts the canaries.
    Ours,
    /// Key by key, as Cilium does.
    KeyByKey,
}

async fn a_busy_cluster(writer: Writer) {
    let etcd = Etcd::start();
    let admin = etcd.connect("admin").await;
    fill(&admin, KEYS).await;
    // Pods are removed from before the reader starts until its end.
    let churn = tokio::spawn({
        let admin = etcd.connect("admin").await;
        async move {
            let mut pace = interval(REMOVAL);
            for pod in 0.. {
                pace.tick().await;
                let gone = [2 * pod, 2 * pod + 1].map(|n| Op::Delete { key: key(n) });
                match writer {
                    Writer::Ours => {
                        let beat = put(HEARTBEAT.into(), "2027-02-03T04:05:06Z");
                        admin.apply(&[gone.as_slice(), &[beat]].concat()).await.unwrap();
                        admin.apply(&canaries()).await.unwrap();
                    }
                    Writer::KeyByKey => {
                        for key in gone {
                            admin.apply(&[key]).await.unwrap();
                        }
                    }
                }
            }
        }
    });
    let relay = Relay::far(etcd.port(), WAY);
    let mut reader = Reader::start(&etcd, &relay);
    reader.until(|event| *event == RecordEvent::Confirmed(RecordKind::Address)).await;
    assert_eq!(reader.lists.load(Ordering::SeqCst), 1, "{writer:?}");
    // From then on, the watch reports each removal, without another list.
    let mut removed = 0;
    while removed < 200 {
        removed += reader.until(|event| matches!(event, RecordEvent::Remove(_))).await;
    }
    churn.abort();
    let _ = churn.await;
    let last = KEYS - 1;
    admin.apply(&[Op::Delete { key: key(last) }]).await.unwrap();
    let last = RecordKey::Address(ip(last).parse::<std::net::IpAddr>().unwrap().into());
    reader.until(|event| *event == RecordEvent::Remove(last.clone())).await;
    assert_eq!(reader.lists.load(Ordering::SeqCst), 1, "{writer:?}");
    let status = reader.status.borrow().clone();
    assert!(status.is_synced() && status.held == 0 && status.reconnects == 0, "{status:?}");
}

#[tokio::test]
async fn a_reader_over_a_slow_link_is_complete_after_one_list() {
    a_busy_cluster(Writer::Ours).await;
}

#[tokio::test]
async fn a_reader_of_a_cluster_that_removes_key_by_key_is_complete_after_one_list() {
    a_busy_cluster(Writer::KeyByKey).await;
}

#[tokio::test]
async fn a_connection_that_hangs_ends_by_its_pings() {
    let etcd = Etcd::start();
    fill(&etcd.connect("admin").await, 1).await;
    let relay = Relay::to(etcd.port());
    let mut reader = Reader::start(&etcd, &relay);
    reader.wait(Status::is_synced).await;
    // Nothing comes back any more, and nothing closes the connection. A Cilium needs two minutes without a heartbeat.
    relay.hold_after(0);
    reader.wait(|status| !status.connected && status.reconnects == 1).await;
    relay.release();
    reader.wait(Status::is_synced).await;
}
