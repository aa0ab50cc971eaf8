//! A reader gets ahead however busy the cluster is: one list, whatever is removed meanwhile.

use super::*;

/// So many addresses, and so long for an answer.
const KEYS: u32 = 20_000;
const ROUND_TRIP: Duration = Duration::from_millis(100);
/// A pod is removed so often.
const REMOVAL: Duration = Duration::from_millis(50);
const STEP: Duration = Duration::from_millis(10);

fn ip(n: u32) -> String {
    format!("10.7.{}.{}", n / 256, n % 256)
}

fn address(n: u32) -> (String, String) {
    let value = format!(r#"{{"IP":"{}","HostIP":"172.31.7.1","ID":458752}}"#, ip(n));
    (format!("cilium/state/ip/v1/default/{}", ip(n)), value)
}

/// How a writer removes a pod.
#[derive(Clone, Copy, Debug)]
enum Writer {
    /// Its address and its slice together, with the heartbeat, and the canaries after that.
    Ours,
    /// Key by key.
    KeyByKey,
}

struct Simulation {
    etcd: FakeEtcd,
    follower: PeerFollower,
    local: Local,
    now: Instant,
    writer: Writer,
    /// How long the consumer of the events is busy with other peers between two batches.
    queue: Duration,
    free_at: Instant,
    removed: u32,
    next_removal: Instant,
}

impl Simulation {
    fn new(writer: Writer, queue: Duration) -> Self {
        let mut etcd = alpha();
        for n in 0..KEYS {
            let (key, value) = address(n);
            etcd.put(&key, &value);
        }
        put_canaries(&mut etcd);
        etcd.round_trip = ROUND_TRIP;
        etcd.counted.0 = b"cilium/state/identities/v1/".to_vec();
        let now = Instant::now();
        Self {
            etcd,
            follower: follower(now),
            local: Local::default(),
            now,
            writer,
            queue,
            free_at: now,
            removed: 0,
            next_removal: now,
        }
    }

    fn remove_a_pod(&mut self) {
        let (key, _) = address(self.removed);
        self.removed += 1;
        match self.writer {
            Writer::Ours => {
                let other = address(self.removed).0;
                self.removed += 1;
                self.etcd.change(&[(&key, None), (&other, None), (HEARTBEAT, Some("now"))]);
                put_canaries(&mut self.etcd);
            }
            Writer::KeyByKey => self.etcd.delete(&key),
        }
    }

    /// Lets a step of time pass.
    fn step(&mut self) {
        self.now += STEP;
        while self.next_removal <= self.now {
            self.next_removal += REMOVAL;
            self.remove_a_pod();
        }
        // As the driver does it: while what is there is not handed on, nothing is taken from the etcd; after that all that
        // has come, up to a batch.
        while self.free_at <= self.now {
            self.etcd.take_actions(&mut self.follower, self.now);
            while !self.follower.has_more() || self.follower.batch_bytes() < BATCH_BYTES / 8 {
                if !self.etcd.answer(&mut self.follower, self.now, 0) {
                    break;
                }
            }
            if !self.follower.has_more() {
                break;
            }
            let batch = self.follower.take_events();
            batch.into_iter().for_each(|event| self.local.event(event));
            self.free_at = self.now + self.queue;
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.step();
        }
    }
}

#[test]
fn a_reader_of_a_busy_cluster_is_complete_after_one_list() {
    // Alone, and as one of 250 whose batches take two milliseconds each.
    for queue in [Duration::ZERO, Duration::from_millis(500)] {
        for writer in [Writer::Ours, Writer::KeyByKey] {
            let mut simulation = Simulation::new(writer, queue);
            let began = simulation.now;
            while !simulation.follower.status().is_synced() {
                simulation.step();
                assert!(simulation.now < began + Duration::from_secs(60), "{writer:?}, {queue:?}");
            }
            assert_eq!(simulation.etcd.counted.1, 1, "lists: {writer:?}, {queue:?}");
            // Nor does a removal cost one afterwards, and each is seen.
            simulation.run(Duration::from_secs(60));
            assert_eq!(simulation.etcd.counted.1, 1, "lists: {writer:?}, {queue:?}");
            assert!(simulation.follower.status().is_synced());
            simulation.next_removal += Duration::from_secs(3_600);
            simulation.run(Duration::from_secs(5));
            let left = simulation.local.records.keys();
            let left = left.filter(|key| matches!(key, RecordKey::Address(_))).count();
            let expected = simulation
                .etcd
                .all(&KeyRange::prefix("cilium/state/ip/v1/default/"), simulation.etcd.revision);
            assert!(simulation.removed >= 1_000);
            assert_eq!(left, expected.len(), "{writer:?}, {queue:?}");
        }
    }
}

#[test]
fn single_removals_cost_two_small_looks_a_second_at_most() {
    let mut simulation = Simulation::new(Writer::KeyByKey, Duration::ZERO);
    simulation.run(Duration::from_secs(10));
    let before = (simulation.etcd.lists, simulation.etcd.counted.1);
    simulation.run(Duration::from_secs(30));
    assert_eq!(simulation.etcd.counted.1, before.1);
    let looks = simulation.etcd.lists - before.0;
    assert!((20..=61).contains(&looks), "{looks} looks");
}

#[test]
fn a_deletion_beside_a_canary_that_is_put_is_judged_by_its_creation() {
    let mut etcd = alpha();
    put_canaries(&mut etcd);
    etcd.counted.0 = b"cilium/state/identities/v1/".to_vec();
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    // The canaries are put before it, with it and after it: they were there all the time.
    put_canaries(&mut etcd);
    etcd.change(&[(NODE, None), (&canary(RecordKind::Service), Some("later"))]);
    put_canaries(&mut etcd);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert!(!local.records.contains_key(&RecordKey::Node("n1".into())));
    assert_eq!((etcd.counted.1, follower.status().held), (1, 0));
    // One that was created after it may have gone with it.
    etcd.delete(&canary(RecordKind::Address));
    etcd.delete(ADDRESS);
    put_canaries(&mut etcd);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(1));
    local.take(&mut follower);
    assert_eq!(etcd.counted.1, 2, "the canary that came back vouches for a list");
    assert_eq!(local.records.len(), 2);
    assert!(follower.status().is_synced());
}
