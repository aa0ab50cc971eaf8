//! The limits of a peer's cost: bounded bursts, and bounded amounts over time.

use mesh_model::{EndpointSlice, SliceEndpoint, service::SlicePort};
use mesh_wire::encode;

use super::*;
use crate::{
    budget::{BACKENDS_PER_SECOND, Budget, DECODED_PER_SECOND},
    rate_limit::RateLimited,
};

const MIB: usize = 1024 * 1024;
const STEP: Duration = Duration::from_millis(50);

/// A slice's key and value.
fn slice(n: usize, endpoints: usize, ports: i32, annotation: usize) -> (String, Vec<u8>) {
    let address = |n: usize| format!("10.7.{}.{}", n / 200, n % 200);
    let slice = EndpointSlice {
        cluster: "alpha".into(),
        cluster_id: ClusterId::new(7, ClusterLimit::Max255).unwrap(),
        namespace: "shop".into(),
        name: format!("s{n}"),
        labels: BTreeMap::new(),
        annotations: (0..annotation.div_ceil(200_000))
            .map(|n| (n.to_string(), "x".repeat(annotation.min(200_000))))
            .collect(),
        address_type: "IPv4".into(),
        endpoints: (0..endpoints)
            .map(|n| SliceEndpoint { addresses: vec![address(n)], ..SliceEndpoint::default() })
            .collect(),
        ports: (1..=ports).map(|n| SlicePort { number: Some(n), ..SlicePort::default() }).collect(),
    };
    let value = encode(&Record::EndpointSlice(Box::new(slice)));
    (format!("cilium/state/endpointslices/v1/alpha/shop/s{n}"), value)
}

/// A cluster that has its services as slices.
fn with_slices() -> FakeEtcd {
    let mut etcd = alpha();
    let mode = r#","endpointSlicesExportMode":"services-and-endpointslices""#;
    etcd.put(CONFIG_KEY, &config(7, mode));
    put_canaries(&mut etcd);
    etcd.put(&canary(RecordKind::EndpointSlice), "");
    etcd
}

/// A reader as its driver runs it, and what it saw.
struct Reader {
    follower: RateLimited,
    now: Instant,
    upserts: usize,
    refused: Vec<Refusal>,
    confirmed: BTreeSet<RecordKind>,
    /// The largest batch.
    largest: usize,
}

impl Reader {
    fn new(budget: Option<Budget>) -> Self {
        let now = Instant::now();
        let follower = RateLimited::new(follower(now), budget, now);
        let (upserts, refused, confirmed, largest) = Default::default();
        Self { follower, now, upserts, refused, confirmed, largest }
    }

    /// Lets time pass, in which all is done that is possible.
    fn run(&mut self, etcd: &mut FakeEtcd, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now += STEP;
            loop {
                etcd.take_actions(&mut self.follower, self.now);
                self.largest = self.largest.max(self.follower.batch_bytes());
                let batch = self.follower.take_events();
                let more = !batch.is_empty();
                batch.into_iter().for_each(|event| self.take(event));
                if more {
                    continue;
                }
                let wants = self.follower.wants_input();
                if !wants || !etcd.answer(&mut self.follower, self.now, 0) {
                    break;
                }
            }
        }
    }

    fn take(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Record(RecordEvent::Upsert(_)) => self.upserts += 1,
            PeerEvent::Record(RecordEvent::Confirmed(kind)) => drop(self.confirmed.insert(kind)),
            PeerEvent::Refused(refusal) => self.refused.push(refusal),
            _ => {}
        }
    }
}

#[test]
fn small_frames_that_unpack_to_much_are_counted_as_what_they_are() {
    let budget = Budget { bytes: 16 * 1024 * 1024, ..Budget::default() };
    let (key, value) = slice(1, 0, 0, 3_000_000);
    assert!(value.len() < 10_000, "{}", value.len());
    let mut etcd = with_slices();
    let mut reader = Reader::new(Some(budget));
    reader.run(&mut etcd, Duration::from_secs(1));
    assert!(reader.refused.is_empty() && reader.confirmed.contains(&RecordKind::EndpointSlice));
    let before = reader.upserts;
    for _ in 0..1_000 {
        etcd.put_bytes(&key, &value);
        reader.run(&mut etcd, STEP);
    }
    let [Refusal::OverBudget(reason)] = reader.refused.as_slice() else {
        panic!("{:?}", reader.refused)
    };
    assert!(reason.contains("bytes a second"), "{reason}");
    // Five in a burst, and two or three a second: of a hundred a second in all, in half a second.
    assert!((5..=8).contains(&(reader.upserts - before)), "{}", reader.upserts - before);
    // A record of that size, and no more of them in a batch.
    assert!(reader.largest < BATCH_BYTES + 4 * MIB, "{}", reader.largest);
    // Let in again it is read again.
    etcd.put_bytes(&key, &slice(1, 1, 1, 0).1);
    reader.follower.command(reader.now, PeerCommand::Release);
    reader.run(&mut etcd, Duration::from_secs(1));
    assert!(reader.follower.status().is_synced() && reader.refused.len() == 1);
}

#[test]
fn few_bytes_with_many_backends_are_counted_as_these() {
    let budget = Budget { keys: 300_000, ..Budget::default() };
    let (key, value) = slice(1, 1_000, 100, 0);
    let mut etcd = with_slices();
    let mut reader = Reader::new(Some(budget));
    reader.run(&mut etcd, Duration::from_secs(1));
    let before = reader.upserts;
    for _ in 0..100 {
        etcd.put_bytes(&key, &value);
        reader.run(&mut etcd, STEP);
    }
    let [Refusal::OverBudget(reason)] = reader.refused.as_slice() else {
        panic!("{:?}", reader.refused)
    };
    assert!(reason.contains("backends a second"), "{reason}");
    assert!((3..=5).contains(&(reader.upserts - before)), "{}", reader.upserts - before);
}

#[test]
fn a_peer_within_its_budget_is_never_refused() {
    // The same slices, as often as they may come.
    let budget = Budget { bytes: 16 * 1024 * 1024, keys: 300_000, ..Budget::default() };
    let (large, many) = (slice(1, 0, 0, 3_000_000), slice(2, 1_000, 100, 0));
    let mut etcd = with_slices();
    let mut reader = Reader::new(Some(budget));
    reader.run(&mut etcd, Duration::from_secs(1));
    for turn in 0..30 {
        let (key, value) = if turn % 2 == 0 { &large } else { &many };
        etcd.put_bytes(key, value);
        let bytes = 3_100_000 * 1_000 / DECODED_PER_SECOND;
        let backends = 100_000 * 1_000 / BACKENDS_PER_SECOND;
        reader.run(&mut etcd, Duration::from_millis(bytes.max(backends)));
    }
    assert_eq!(reader.refused, []);
}

#[test]
fn a_list_that_is_too_much_goes_on_slowly() {
    // 50 slices of 3 MB each in a few kilobytes: a page has 150 MB.
    let budget = Budget { bytes: 32 * 1024 * 1024, ..Budget::default() };
    let mut etcd = with_slices();
    for n in 0..50 {
        let (key, value) = slice(n, 0, 0, 3_000_000);
        etcd.put_bytes(&key, &value);
    }
    let mut reader = Reader::new(Some(budget));
    let mut seconds = 0;
    while !reader.confirmed.contains(&RecordKind::EndpointSlice) {
        let before = reader.upserts;
        reader.run(&mut etcd, Duration::from_secs(1));
        // Eleven at first, and not three a second after that.
        let most = if seconds == 0 { 18 } else { 4 };
        assert!(reader.upserts - before <= most, "{} in second {seconds}", reader.upserts - before);
        seconds += 1;
        assert!(seconds < 100);
    }
    assert!(seconds > 10, "{seconds}");
    assert_eq!(reader.refused, []);
    assert!(reader.largest < BATCH_BYTES + 4 * MIB, "{}", reader.largest);
    // The local cluster may do as it likes.
    let mut reader = Reader::new(None);
    reader.run(&mut etcd, Duration::from_secs(1));
    assert!(reader.confirmed.contains(&RecordKind::EndpointSlice));
}
