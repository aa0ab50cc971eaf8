//! The size of an etcd that compacts itself is bounded, and the apiserver reports an etcd with wrong settings.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "all of this is test code"
)]

use std::{
    env,
    time::{Duration, SystemTime},
};

use mesh_e2e::{Apiserver, Etcd, EtcdVersion, mesh::within};
use mesh_etcd::{Connection, EtcdError, Op};
use mesh_wire::{Position, timestamp_value};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

const MIB: u64 = 1 << 20;
const POSITION: &str = "clustermesh/local/v1/position";
const HEARTBEAT: &str = "cilium/.heartbeat";
const UNCOMPACTED: &str = "the etcd does not compact itself";

/// How much is written. `make test-full` sets the number of revisions to 200,000 with REVISIONS.
struct Load {
    revisions: u64,
    quota: u64,
    /// Seconds.
    retention: u64,
}

fn load() -> Load {
    match env::var("REVISIONS") {
        Ok(revisions) => Load {
            revisions: revisions.parse().expect("REVISIONS is a number"),
            quota: 16 * MIB,
            retention: 10,
        },
        Err(_) => Load { revisions: 16_000, quota: 2 * MIB, retention: 1 },
    }
}

const WRITERS: u64 = 64;
/// Each writer writes at most once in this time.
const PACE: Duration = Duration::from_millis(40);

/// Writes `revisions` revisions, twice, with the keys that an idle apiserver writes. Returns the largest size of the etcd
/// in each half, in bytes.
async fn idle(connection: &Connection, revisions: u64) -> Result<[u64; 2], EtcdError> {
    let mut largest = [0; 2];
    for largest in &mut largest {
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let connection = connection.clone();
            writers.spawn(async move {
                let mut pace = interval(PACE);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut largest = 0;
                for n in 0..revisions / 2 / WRITERS {
                    pace.tick().await;
                    let source = [("Service".to_owned(), "4711".to_owned())].into();
                    let value = Position::new(source, SystemTime::now()).encode();
                    connection
                        .apply(&[Op::Put { key: POSITION.into(), value, lease: None }])
                        .await?;
                    if n % 16 == 0 {
                        largest = largest.max(connection.status().await?.size);
                    }
                }
                Ok::<u64, EtcdError>(largest)
            });
        }
        while let Some(written) = writers.join_next().await {
            *largest = (*largest).max(written.expect("a writer")?);
        }
    }
    Ok(largest)
}

/// With the flags of the documents, but shorter periods, the etcd does not grow in the second half.
async fn keeps_its_size(version: EtcdVersion) {
    let Load { revisions, quota, retention } = load();
    let quota_flag = format!("--quota-backend-bytes={quota}");
    let retention_flag = format!("--auto-compaction-retention={retention}s");
    let program = version.program();
    let flags = [&quota_flag, "--auto-compaction-mode=periodic", retention_flag.as_str()];
    let etcd = Etcd::running(&program, &flags);
    let connection = etcd.connect("admin").await;
    let [first, second] = idle(&connection, revisions).await.expect("the etcd is never full");
    // A compaction may be late by the revisions of one more retention. Their size is estimated: all revisions together need
    // more than the quota.
    let retained = retention * WRITERS * 1_000 / u64::try_from(PACE.as_millis()).expect("small");
    let late = quota * retained / revisions;
    println!("{version:?}: at most {first} bytes in the first half, {second} in the second");
    assert!(second <= first + late, "{first} bytes, then {second}, where {late} more are allowed");

    // Without the compaction flags, the same writes fill the etcd.
    let etcd = Etcd::running(&program, &[&quota_flag]);
    let connection = etcd.connect("admin").await;
    let full = idle(&connection, revisions).await.expect_err("the etcd does not compact itself");
    assert!(matches!(full, EtcdError::NoSpace), "{full:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_etcd_3_4_that_compacts_itself_does_not_grow() {
    keeps_its_size(EtcdVersion::Debian).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_etcd_3_5_that_compacts_itself_does_not_grow() {
    keeps_its_size(EtcdVersion::V3_5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_etcd_3_6_that_compacts_itself_does_not_grow() {
    keeps_its_size(EtcdVersion::V3_6).await;
}

fn problems(apiserver: &Apiserver) -> String {
    apiserver.status()["problems"].to_string()
}

/// Waits until the apiserver has examined its etcd.
fn examined(apiserver: &Apiserver) {
    within(Duration::from_secs(60), "the apiserver has examined its etcd", || {
        match apiserver.metric("clustermesh_apiserver_etcd_size_bytes") {
            0 => Err("not yet".into()),
            _ => Ok(()),
        }
    });
}

#[test]
fn an_unsafe_version_is_reported_unless_all_peers_are_trusted() {
    for (version, unfit) in [
        (EtcdVersion::Debian, Some("version 3.4.23 is not safe")),
        (EtcdVersion::V3_5, Some("version 3.5.35 is not safe")),
        (EtcdVersion::V3_6, None),
    ] {
        let etcd = Etcd::running(&version.program(), &[]);
        let port = etcd.port();
        let strict = Apiserver::wrapped(&etcd, port, &["env", "CLUSTERMESH_TRUSTED_PEERS=false"]);
        strict.wait_ready();
        examined(&strict);
        match unfit {
            Some(unfit) => strict.wait_problem(unfit),
            None => assert!(!problems(&strict).contains("is not safe"), "{}", problems(&strict)),
        }
        drop(strict);
        let trusting = Apiserver::start(&etcd);
        trusting.wait_ready();
        examined(&trusting);
        assert!(
            !problems(&trusting).contains("is not safe"),
            "{version:?}: {}",
            problems(&trusting)
        );
    }
}

/// First with an etcd that has all revisions of the last three hours, then with the same one, compacted.
#[test]
fn an_etcd_that_does_not_compact_itself_is_reported_with_the_flag_to_set() {
    let etcd = Etcd::start();
    let admin = |args: &[&str]| etcd.etcdctl("admin", args).unwrap();
    let long_ago = timestamp_value(SystemTime::now() - Duration::from_secs(3 * 3600));
    admin(&["put", HEARTBEAT, &long_ago]);
    let mut apiserver = Apiserver::start(&etcd);
    apiserver.wait_ready();
    apiserver.wait_problem(UNCOMPACTED);
    apiserver.wait_problem("--auto-compaction-mode=periodic --auto-compaction-retention=1h");

    within(Duration::from_secs(60), "a new heartbeat", || {
        let value = admin(&["get", "--print-value-only", HEARTBEAT]);
        if value.trim() == long_ago { Err(value) } else { Ok(()) }
    });
    let status: serde_json::Value =
        serde_json::from_str(&admin(&["endpoint", "status", "--write-out=json"])).unwrap();
    admin(&["compact", &status[0]["Status"]["header"]["revision"].to_string()]);
    apiserver.kill();
    apiserver.start_again();
    apiserver.wait_ready();
    examined(&apiserver);
    assert!(!problems(&apiserver).contains(UNCOMPACTED), "{}", problems(&apiserver));
}

/// From 3.6 on, the etcd reports its quota. Before, the apiserver's flag gives it.
#[test]
fn an_etcd_near_its_quota_is_reported() {
    let quota = 16 * MIB;
    let flag = format!("--quota-backend-bytes={quota}");
    let same = format!("CLUSTERMESH_ETCD_QUOTA_BYTES={quota}");
    for (version, wrapper) in
        [(EtcdVersion::Debian, vec!["env", same.as_str()]), (EtcdVersion::V3_6, Vec::new())]
    {
        let etcd = Etcd::running(&version.program(), &[&flag]);
        let value = "x".repeat(100_000);
        let size = || {
            let status = etcd.etcdctl("admin", &["endpoint", "status", "--write-out=json"]);
            let status: serde_json::Value = serde_json::from_str(&status.unwrap()).unwrap();
            status[0]["Status"]["dbSize"].as_u64().unwrap()
        };
        for n in 0.. {
            if size() * 100 >= quota * 80 {
                break;
            }
            etcd.etcdctl("admin", &["put", &format!("elsewhere/{n}"), &value]).unwrap();
        }
        let apiserver = Apiserver::wrapped(&etcd, etcd.port(), &wrapper);
        apiserver.wait_ready();
        apiserver.wait_problem("of its quota of 16 MiB");
        assert_eq!(apiserver.metric("clustermesh_apiserver_etcd_quota_bytes"), quota);
    }
}
