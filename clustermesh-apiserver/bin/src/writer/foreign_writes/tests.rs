use mesh_follow::KeyValue;

use super::*;

const NODE: &str = "cilium/state/nodes/v1/a/n1";

fn local() -> ClusterName {
    ClusterName::new("a").unwrap()
}

fn put(key: &str, value: &str, mod_revision: i64) -> WatchEvent {
    let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    WatchEvent::Put(KeyValue { key, value, create_revision: 1, mod_revision })
}

fn delete(key: &str, mod_revision: i64) -> WatchEvent {
    WatchEvent::Delete { key: key.into(), mod_revision }
}

/// An etcd with an exported node and a canary.
struct Etcd {
    actual: Actual,
    marks: BTreeSet<String>,
    start: Instant,
}

impl Etcd {
    fn new() -> Self {
        Self {
            actual: [(NODE, fingerprint(b"ours"))].into_iter().collect(),
            marks: ["cilium/synced/a/cilium/state/nodes/v1".to_owned()].into(),
            start: Instant::now(),
        }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn see(
        &self,
        others: &mut ForeignWrites,
        event: &WatchEvent,
        seconds: u64,
    ) -> Option<ForeignWrite> {
        others.see(event, &local(), &self.actual, &self.marks, self.at(seconds))
    }
}

#[test]
fn keys_belong_to_this_cluster_are_misplaced_or_are_ignored() {
    for (key, found) in [
        (NODE, KeyOwner::Local),
        ("cilium/state/identities/v1/id/65536", KeyOwner::Local),
        ("cilium/state/ip/v1/default/10.1.1.2", KeyOwner::Local),
        ("cilium/state/endpointslices/v1/a/shop/web-1", KeyOwner::Local),
        ("cilium/cluster-config/a", KeyOwner::Local),
        ("cilium/synced/a/cilium/state/nodes/v1", KeyOwner::Local),
        ("clustermesh/local/v1/pods/n1/shop/web", KeyOwner::Local),
        ("cilium/.heartbeat.drain", KeyOwner::Local),
        ("cilium/state/nodes/v1/ab/n1", KeyOwner::Misplaced),
        ("cilium/state/ip/v1/other/10.1.1.2", KeyOwner::Misplaced),
        ("cilium/state/identities/v1/value/k8s:a=b;/n1", KeyOwner::Misplaced),
        // Copies of other clusters' records.
        ("cilium/cache/nodes/v1/a/n1", KeyOwner::Other),
        ("cilium/cluster-config/ab", KeyOwner::Other),
        ("cilium/synced/ab/cilium/state/nodes/v1", KeyOwner::Other),
        ("cilium/.heartbeat", KeyOwner::Other),
        ("registry/pods", KeyOwner::Other),
    ] {
        assert_eq!(owner_of(key, &local()), found, "{key}");
    }
}

#[test]
fn own_writes_are_not_foreign() {
    let (etcd, mut others) = (Etcd::new(), ForeignWrites::default());
    others.wrote(7);
    // They are recognised by their revision, even if the key has changed since.
    assert_eq!(etcd.see(&mut others, &put(NODE, "of before", 7), 0), None);
    assert_eq!(etcd.see(&mut others, &put("cilium/state/nodes/v1/a/n2", "gone again", 7), 0), None);
    assert_eq!(etcd.see(&mut others, &delete(NODE, 7), 0), None);
    // Or by their value.
    assert_eq!(etcd.see(&mut others, &put(NODE, "ours", 8), 0), None);
    // A key that is already deleted needs no repair.
    assert_eq!(etcd.see(&mut others, &delete("cilium/state/nodes/v1/a/n2", 9), 0), None);
    assert_eq!((others.next_due(), others.problems().len()), (None, 0));
}

#[test]
fn another_programs_write_is_due_at_once_and_reported() {
    let (etcd, mut others) = (Etcd::new(), ForeignWrites::default());
    let canary = "cilium/synced/a/cilium/state/nodes/v1";
    assert_eq!(etcd.see(&mut others, &put(NODE, "theirs", 7), 0), Some(ForeignWrite::Changed));
    let added = "cilium/state/services/v1/a/shop/web";
    assert_eq!(etcd.see(&mut others, &put(added, "x", 8), 0), Some(ForeignWrite::Added));
    assert_eq!(etcd.see(&mut others, &delete(canary, 9), 0), Some(ForeignWrite::Removed));
    let foreign = "cilium/state/nodes/v1/b/n1";
    assert_eq!(etcd.see(&mut others, &put(foreign, "x", 10), 0), Some(ForeignWrite::Misplaced));
    assert_eq!(others.next_due(), Some(etcd.at(0)));
    assert_eq!(
        others.take_due(etcd.at(0), 128),
        [NODE, added, canary].map(str::to_owned).into(),
        "not what is not ours"
    );
    assert_eq!(others.next_due(), None);
    let problems = others.problems().join("\n");
    for says in ["n1: another program changed it; repaired", "removed it; restored", "left alone"] {
        assert!(problems.contains(says), "{problems}");
    }
    // It is forgotten after a while, but a misplaced key is reported as long as it exists.
    others.tidy(etcd.at(601));
    assert_eq!(others.problems().len(), 1);
    assert_eq!(etcd.see(&mut others, &delete(foreign, 11), 602), None);
    assert_eq!(others.problems(), Vec::<String>::new());
}

#[test]
fn two_writers_do_not_compete_at_full_speed() {
    let (etcd, mut others) = (Etcd::new(), ForeignWrites::default());
    let mut repairs = 0;
    // The other program writes every second, for an hour.
    for second in 0..3_600_u32 {
        let event = put(NODE, "theirs", i64::from(second) + 10);
        etcd.see(&mut others, &event, second.into());
        if others.next_due().is_some_and(|due| due <= etcd.at(second.into())) {
            repairs += others.take_due(etcd.at(second.into()), 128).len();
        }
    }
    // A few repairs in the first minute, and then one a minute.
    assert!((50..=80).contains(&repairs), "{repairs}");
    let problems = others.problems();
    assert!(problems[0].contains("is there another writer?"), "{problems:?}");
    // Other keys are not delayed.
    others.note("cilium/state/nodes/v1/a/n2".into(), ForeignWrite::Added, etcd.at(4_000));
    assert!(others.next_due() <= Some(etcd.at(4_000)));
}

#[test]
fn any_number_of_keys_has_a_bounded_cost() {
    let (etcd, mut others) = (Etcd::new(), ForeignWrites::default());
    for n in 0..50_000 {
        let key = format!("cilium/state/services/v1/a/shop/web-{n}");
        assert_eq!(etcd.see(&mut others, &put(&key, "x", 10 + n), 0), Some(ForeignWrite::Added));
    }
    others.tidy(etcd.at(0));
    assert_eq!(others.sightings.len(), NAMED);
    assert_eq!(others.problems().len(), LISTED + 1);
    // Each round takes as many keys as fit into a transaction, and the next round follows at once.
    let (mut rounds, mut keys) = (0, BTreeSet::new());
    while others.next_due().is_some_and(|due| due <= etcd.at(0)) {
        let round = others.take_due(etcd.at(0), 128);
        assert!(!round.is_empty() && round.len() <= 128);
        keys.extend(round);
        rounds += 1;
    }
    assert_eq!((rounds, keys.len()), (391, 50_000), "all of them are repaired");
    others.tidy(etcd.at(0));
    assert_eq!(others.sightings.len(), 0, "there is room again");
    for n in 0..200_000 {
        others.wrote(n);
    }
    assert_eq!(others.own.len(), REMEMBERED);
    assert_eq!(
        etcd.see(&mut others, &put(NODE, "old", 5), 0),
        None,
        "older than all that is known"
    );
}
