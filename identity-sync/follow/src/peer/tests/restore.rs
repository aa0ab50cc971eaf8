//! An etcd that is restored from a backup: canaries, create revisions and the history's name are all there, and what
//! came after the backup is not. Only what its writer puts about itself keeps a reader from removing that.

use super::*;

const OLD: u32 = 30;
const NEW: u32 = 50;

fn put_node(etcd: &mut FakeEtcd, n: u32) {
    etcd.put(&format!("cilium/state/nodes/v1/alpha/n{n}"), &node(&format!("n{n}")));
}

fn known(local: &Local) -> BTreeSet<RecordKey> {
    local.records.keys().cloned().collect()
}

fn nodes(range: std::ops::Range<u32>) -> BTreeSet<RecordKey> {
    range.map(|n| RecordKey::Node(format!("n{n}"))).collect()
}

/// Nodes that came before the backup, and after it. `positions`: its writer puts its position.
fn with_backup(positions: bool) -> (FakeEtcd, PeerFollower, Local, Instant, i64) {
    let mut etcd = FakeEtcd::new(1);
    etcd.put(HISTORY, "first");
    etcd.put(CONFIG_KEY, &config(7, ""));
    (0..OLD).for_each(|n| put_node(&mut etcd, n));
    put_canaries(&mut etcd);
    if positions {
        etcd.put(POSITION, &position(7));
    }
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    let backup = etcd.revision;
    (OLD..NEW).for_each(|n| put_node(&mut etcd, n));
    if positions {
        etcd.put(POSITION, &position(8));
    }
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(known(&local), nodes(0..NEW));
    (etcd, follower, local, now, backup)
}

/// The etcd goes back, and is at once as busy as before, until it is ahead of its reader if `load`.
fn restore(
    etcd: &mut FakeEtcd,
    follower: &mut PeerFollower,
    now: Instant,
    backup: i64,
    load: bool,
) {
    let revision = etcd.revision;
    etcd.cut(follower, now);
    etcd.restore(backup);
    etcd.put(HISTORY, "second");
    while load && etcd.revision < revision + 100 {
        put_node(etcd, 0);
        put_canaries(etcd);
    }
}

#[test]
fn what_was_added_since_the_backup_stays_until_its_writer_is_as_far() {
    for load in [false, true] {
        let (mut etcd, mut follower, mut local, mut now, backup) = with_backup(true);
        restore(&mut etcd, &mut follower, now, backup, load);
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!(known(&local), nodes(0..NEW), "load: {load}");
        assert!(!follower.status().is_synced());
        // The writer compares, and puts what is missing; one node has gone meanwhile.
        for n in OLD..NEW - 1 {
            put_node(&mut etcd, n);
            settle(&mut etcd, &mut follower, &mut local, &mut now);
            assert_eq!(known(&local), nodes(0..NEW), "load: {load}");
        }
        put_canaries(&mut etcd);
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!(known(&local), nodes(0..NEW), "load: {load}");
        etcd.put(POSITION, &position(9));
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!(known(&local), nodes(0..NEW - 1), "load: {load}");
        assert!(follower.status().is_synced());
    }
}

#[test]
fn without_positions_its_writer_gets_time() {
    for load in [false, true] {
        let (mut etcd, mut follower, mut local, mut now, backup) = with_backup(false);
        restore(&mut etcd, &mut follower, now, backup, load);
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!(known(&local), nodes(0..NEW), "load: {load}");
        let nodes_again: Vec<(String, String)> = (OLD..NEW - 1)
            .map(|n| (format!("cilium/state/nodes/v1/alpha/n{n}"), node(&format!("n{n}"))))
            .collect();
        let again = nodes_again.iter().map(|(key, node)| (key.as_str(), Some(node.as_str())));
        etcd.change(&again.chain([(HEARTBEAT, Some("now"))]).collect::<Vec<_>>());
        settle(&mut etcd, &mut follower, &mut local, &mut now);
        assert_eq!(known(&local), nodes(0..NEW), "load: {load}");
        etcd.pass(&mut follower, &mut now, Duration::from_secs(30));
        local.take(&mut follower);
        assert_eq!(known(&local), nodes(0..NEW - 1), "load: {load}");
    }
}

#[test]
fn a_list_that_breaks_off_removes_nothing() {
    let mut etcd = FakeEtcd::new(1);
    etcd.put(CONFIG_KEY, &config(7, ""));
    // More than a page of services.
    let service_key = |n: u32| format!("cilium/state/services/v1/alpha/shop/s{n}");
    for n in 0..300 {
        let value = service(80).replace(r#""name":"web""#, &format!(r#""name":"s{n}""#));
        etcd.put(&service_key(n), &value);
    }
    put_canaries(&mut etcd);
    let (mut follower, mut local, mut now) = settled(&mut etcd);
    assert_eq!(local.records.len(), 300);
    // A lease ran out, and its writer goes on: a new list begins, and the connection breaks after its first page.
    let lost = [service_key(1), service_key(2)];
    etcd.change(&lost.iter().map(|key| (key.as_str(), None)).collect::<Vec<_>>());
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    etcd.pass(&mut follower, &mut now, Duration::from_secs(1));
    assert_eq!(follower.status().held, 2);
    for beat in 0..6 {
        assert!(follower.status().heartbeats == beat && local.records.len() == 300);
        etcd.put(HEARTBEAT, "now");
        if beat < 5 {
            settle(&mut etcd, &mut follower, &mut local, &mut now);
        }
    }
    let rounds = local.rounds.clone();
    for _ in 0..100 {
        now += Duration::from_millis(200);
        etcd.answer(&mut follower, now, 0);
        local.take(&mut follower);
        if local.rounds != rounds {
            break;
        }
    }
    assert_ne!(local.rounds, rounds, "the list has begun");
    etcd.cut(&mut follower, now);
    local.take(&mut follower);
    for _ in 0..20 {
        now += Duration::from_secs(1);
        etcd.answer(&mut follower, now, 0);
        local.take(&mut follower);
        assert_eq!(local.records.len(), 300);
    }
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 300, "a lease may have run out between the two lists");
    put_canaries(&mut etcd);
    settle(&mut etcd, &mut follower, &mut local, &mut now);
    assert_eq!(local.records.len(), 298);
    assert!(follower.status().is_synced());
}
