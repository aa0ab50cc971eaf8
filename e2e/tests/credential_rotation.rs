//! Open connections to a real etcd, while their certificates expire or are replaced.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is test code"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use mesh_certs::{Ca, Clock, ClusterPki, CredentialFiles, Store};
use mesh_e2e::Etcd;
use mesh_etcd::{Channels, CredentialRotation, Op, Target, connect, follow, succession};
use mesh_follow::{
    Command, ConnectionPhase, Event, Failure, Follower, KeyRange, RangeConfig, RangeId, Status,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, timeout},
};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(30);
const DAY: u64 = 24 * 3600;

/// An etcd, credentials for it that can be replaced, and a clock that can jump.
struct Scene {
    etcd: Etcd,
    store: Store,
    target: Target,
    /// By how many days the clock is ahead.
    ahead: Arc<AtomicU64>,
}

impl Scene {
    fn new() -> Self {
        mesh_certs::install_crypto();
        let etcd = Etcd::start();
        let pki = ClusterPki::new(&etcd.pki());
        let (certificate, key) = (pki.certificate("admin"), pki.key("admin"));
        let files = CredentialFiles { ca: pki.certificate("ca"), certificate, key };
        let (store, credentials) = Store::open(files, SystemTime::now()).unwrap();
        let ahead = Arc::new(AtomicU64::new(0));
        let clock = Clock::new({
            let ahead = Arc::clone(&ahead);
            move || SystemTime::now() + Duration::from_secs(DAY * ahead.load(Ordering::Relaxed))
        });
        let target = Target { credentials, clock, ..etcd.target("admin") };
        Self { etcd, store, target, ahead }
    }

    /// Replaces the credentials by new ones for the same user, issued by this CA.
    fn replace(&self, ca: &Ca) {
        self.etcd.certificate(ca, "admin-a", "admin");
        assert!(self.store.reload(SystemTime::now()).unwrap(), "they have changed");
    }

    fn step_clock(&self, days: u64) {
        self.ahead.store(days, Ordering::Relaxed);
    }
}

fn foreign() -> Ca {
    Ca::create("a", SystemTime::now(), Ca::LIFETIME).unwrap().0
}

/// Waits until the last value of `receiver` fulfils a condition, and returns it.
async fn until<T: Clone>(receiver: &mut watch::Receiver<T>, so: impl FnMut(&T) -> bool) -> T {
    let found = timeout(PATIENCE, receiver.wait_for(so)).await;
    found.expect("in time").expect("the sender lives").clone()
}

/// Shortly before the certificate expires, the connection ends, and no other can be made. When the clock is right again,
/// connecting works again.
#[tokio::test]
async fn no_connection_outlives_its_certificate() {
    let scene = Scene::new();
    let connection = connect(&scene.target, 0).await.unwrap();
    let (trouble, _) = watch::channel(None);
    let over = |failure: &Failure| {
        assert_eq!(failure.phase, ConnectionPhase::Tls, "{failure}");
        assert!(failure.reason.contains("admin.crt"), "{failure}");
        assert!(failure.reason.contains(r#""CN=admin-a" is valid from"#), "{failure}");
    };

    let waiting = succession(&scene.target, &connection, &trouble);
    assert!(
        timeout(Duration::from_millis(1_500), waiting).await.is_err(),
        "the certificate is valid"
    );
    // One second before the end of its 365 days.
    let until_end = scene.target.credentials.current().not_after();
    let left = until_end.duration_since(SystemTime::now()).unwrap() - Duration::from_secs(1);
    let nearly =
        Target { clock: Clock::new(move || SystemTime::now() + left), ..scene.target.clone() };
    let CredentialRotation::Over(failure) = succession(&nearly, &connection, &trouble).await else {
        panic!("there is no newer certificate to use");
    };
    over(&failure);

    scene.step_clock(400);
    let CredentialRotation::Over(failure) = succession(&scene.target, &connection, &trouble).await
    else {
        panic!("there is no newer certificate to use");
    };
    over(&failure);
    over(&connect(&scene.target, 0).await.err().expect("the expired certificate is refused"));
    scene.step_clock(0);
    connect(&scene.target, 0).await.unwrap();
}

/// New credentials that the etcd refuses are reported and leave the connection as it is. With those that it accepts, a new
/// connection is made.
#[tokio::test]
async fn new_credentials_are_used_once_the_etcd_accepts_them() {
    let scene = Scene::new();
    let connection = connect(&scene.target, 0).await.unwrap();
    let (sender, mut trouble) = watch::channel(None);
    let waiting = tokio::spawn({
        let (target, connection) = (scene.target.clone(), connection.clone());
        async move { succession(&target, &connection, &sender).await }
    });

    scene.replace(&foreign());
    let refused = until(&mut trouble, Option::is_some).await.unwrap();
    assert_eq!(refused.phase, ConnectionPhase::Authenticated, "{refused}");
    assert!(refused.reason.contains("CN=admin-a"), "{refused}");
    connection.list(&KeyRange::prefix("cilium/")).await.expect("the old connection works");

    scene.replace(&scene.etcd.ca());
    let successor = timeout(PATIENCE, waiting).await.expect("in time").unwrap();
    let CredentialRotation::Successor(successor) = successor else {
        panic!("the credentials have not expired")
    };
    assert!(Arc::ptr_eq(successor.credentials(), &scene.target.credentials.current()));
    successor.list(&KeyRange::prefix("cilium/")).await.expect("the new connection works");
    connection
        .list(&KeyRange::prefix("cilium/"))
        .await
        .expect("the old connection works until it is dropped");
    assert_eq!(*trouble.borrow(), None);
}

/// A follower resumes at its revision on the new connection: it lists nothing again and misses nothing.
#[tokio::test]
async fn a_follower_changes_connections_without_a_new_list() {
    const DATA: RangeId = RangeId(1);
    let mut scene = Scene::new();
    let admin = scene.etcd.connect("local").await;
    let put = |value: String| Op::Put { key: "test/key".into(), value: value.into(), lease: None };
    admin.apply(&[put("0".into())]).await.unwrap();

    let (_commands, commands) = mpsc::channel(1);
    let (events_sender, mut events) = mpsc::channel(64);
    let (status_sender, mut status) = watch::channel(Status::default());
    let (trouble_sender, mut trouble) = watch::channel(None);
    let head = RangeConfig {
        id: RangeId(0),
        span: KeyRange::key("test/head"),
        page: 10,
        names_history: false,
    };
    let mut follower = Follower::new(vec![head], 1, Instant::now());
    follower.follow(vec![RangeConfig {
        id: DATA,
        span: KeyRange::prefix("test/"),
        page: 10,
        names_history: false,
    }]);
    let channels = Channels {
        commands,
        events: events_sender,
        status: status_sender,
        trouble: trouble_sender,
        reconnect: Command::Reconnect,
    };
    let target = scene.target.clone();
    tokio::spawn(async move {
        follow(&mut follower, &target, channels, |batch| batch.into_events()).await
    });

    until(&mut status, |status| status.connected).await;
    for round in 1..=3 {
        scene.replace(&scene.etcd.ca());
        until(&mut status, |status| status.connected && status.reconnects == round).await;
        admin.apply(&[put(round.to_string())]).await.unwrap();
    }
    // Credentials that the etcd refuses are not used, even when the connection with the old ones is lost.
    scene.replace(&foreign());
    until(&mut trouble, Option::is_some).await;
    scene.etcd.kill();
    until(&mut status, |status| !status.connected).await;
    scene.etcd.start_again();
    until(&mut status, |status| status.connected).await;
    until(&mut trouble, Option::is_some).await;
    let admin = scene.etcd.connect("local").await;
    admin.apply(&[put("restarted".into())]).await.unwrap();
    // The certificate expires, and is valid again.
    scene.replace(&scene.etcd.ca());
    until(&mut trouble, Option::is_none).await;
    until(&mut status, |status| status.connected).await;
    scene.step_clock(400);
    let expired = until(&mut status, |status| status.failure.is_some()).await;
    assert_eq!(
        expired.failure.as_ref().map(|failure| failure.phase),
        Some(ConnectionPhase::Tls),
        "{expired:?}"
    );
    admin.apply(&[put("meanwhile".into())]).await.unwrap();
    scene.step_clock(0);
    until(&mut status, |status| status.connected && status.failure.is_none()).await;
    admin.apply(&[put("end".into())]).await.unwrap();

    let (mut begun, mut values) = (0, Vec::new());
    while values.last().is_none_or(|last| last != "end") {
        let batch =
            timeout(PATIENCE, events.recv()).await.expect("events").expect("the follower runs");
        for event in batch {
            match event {
                Event::Begin(DATA) => begun += 1,
                Event::Put(DATA, kv) => values.push(String::from_utf8(kv.value).unwrap()),
                _ => {}
            }
        }
    }
    assert_eq!(begun, 1, "listed once");
    // A new connection reports the last revision again.
    values.dedup();
    assert_eq!(values, ["0", "1", "2", "3", "restarted", "meanwhile", "end"]);
}
