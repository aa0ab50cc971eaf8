//! With a clock that the test sets.

use std::time::Duration;

use mesh_layout::{Backend as Entry, FrontendKey, SocketState, mapped};
use mesh_model::{ClusterId, ClusterLimit};

use super::*;

fn target(id: u32, last: u8, cluster: u32) -> Target {
    let cluster = ClusterId::new(cluster, ClusterLimit::Max255).unwrap();
    let address = [10, 2, 0, last].into();
    Target { id, backend: Backend { address, port: 53, protocol: Protocol::Udp, cluster } }
}

fn socket(id: u32, last: u8, port: u16) -> ListedSocket {
    let service = FrontendKey::new(mapped([10, 96, 0, 1]), [0, 53], 17);
    let backend = Entry::new(id, 2, mapped([10, 2, 0, last]), port.to_be_bytes(), 17);
    ListedSocket::new(1, &SocketState::new(&service, &backend, 0))
}

fn ids(queue: &TerminationQueue) -> Vec<u32> {
    let mut ids: Vec<u32> = queue.0.keys().copied().collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_socket_is_known_by_the_id_and_the_address_that_it_keeps() {
    let now = Instant::now();
    let mut queue = TerminationQueue::default();
    queue.add(target(7, 9, 2), Reason::Removed, now);
    let reason = |id, last, port| queue.reason(&socket(id, last, port), now);
    assert_eq!(reason(7, 9, 53), Some(Reason::Removed));
    // Of a former or a later one of this address; of another that has got the id after four billion.
    assert_eq!(reason(8, 9, 53), None);
    assert_eq!(reason(7, 8, 53), None);
    assert_eq!(reason(7, 9, 54), None);
}

#[test]
fn nothing_ends_before_its_time_and_what_answers_is_spared() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut queue = TerminationQueue::default();
    // TCP and UDP of one cluster, counted from its last answer.
    queue.add(target(1, 1, 2), Reason::Unreachable, after(15));
    queue.add(target(2, 2, 2), Reason::Unreachable, after(3));
    queue.add(target(3, 3, 3), Reason::Unreachable, after(3));
    assert_eq!(queue.first_due(), Some(after(3)));
    assert_eq!(queue.reason(&socket(2, 2, 53), start + Duration::from_millis(2_999)), None);
    assert_eq!(ids(&queue.due(after(3))), [2, 3]);
    assert_eq!(ids(&queue.due(after(15))), [1, 2, 3]);
    queue.spare(|backend| backend.cluster.get() == 2);
    assert_eq!(ids(&queue.due(after(100))), [3]);
    assert_eq!(queue.reason(&socket(1, 1, 53), after(100)), None);
}

/// Three blips of two seconds within two minutes end nothing: each answer cancels, and each time is counted from the last.
#[test]
fn three_blips_end_nothing() {
    let start = Instant::now();
    let mut queue = TerminationQueue::default();
    for blip in [0, 40, 80] {
        let last_answer = start + Duration::from_secs(blip);
        for (id, seconds) in [(1, 15), (2, 3)] {
            let due = last_answer + Duration::from_secs(seconds);
            queue.add(target(id, 1, 2), Reason::Unreachable, due);
        }
        assert_eq!(ids(&queue.due(last_answer + Duration::from_secs(2))), []);
        queue.spare(|_| true);
        assert_eq!(queue.first_due(), None);
    }
    // An answer that the caller learns of late moves the time, and does not need to be reported as one.
    queue.add(target(1, 1, 2), Reason::Unreachable, start + Duration::from_secs(3));
    queue.add(target(1, 1, 2), Reason::Unreachable, start + Duration::from_secs(5));
    assert_eq!(queue.first_due(), Some(start + Duration::from_secs(5)));
}

#[test]
fn what_was_removed_is_not_spared_by_an_answer_of_its_cluster() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    for reasons in [[Reason::Removed, Reason::Unreachable], [Reason::Unreachable, Reason::Removed]]
    {
        let mut queue = TerminationQueue::default();
        for reason in reasons {
            queue.add(target(1, 1, 2), reason, if reason == Reason::Removed { later } else { now });
        }
        assert_eq!(queue.reason(&socket(1, 1, 53), now), Some(Reason::Unreachable));
        queue.spare(|_| true);
        assert_eq!(queue.first_due(), Some(later));
        assert_eq!(queue.reason(&socket(1, 1, 53), later), Some(Reason::Removed));
        // Once more, and sooner; then not so soon.
        queue.add(target(1, 1, 2), Reason::Removed, now);
        queue.add(target(1, 1, 2), Reason::Removed, later);
        assert_eq!(queue.first_due(), Some(now));
    }
}

/// A pod on a node's own network whose container was restarted has the same address and port: the backend of its
/// sockets exists.
#[test]
fn what_is_there_again_is_not_ended() {
    let now = Instant::now();
    let mut queue = TerminationQueue::default();
    queue.add(target(1, 1, 2), Reason::Removed, now);
    queue.add(target(2, 2, 2), Reason::Removed, now);
    queue.add(target(2, 2, 2), Reason::Unreachable, now);
    queue.restored(|_| true);
    assert_eq!(ids(&queue), [2], "and nothing reaches it");
    assert_eq!(queue.reason(&socket(2, 2, 53), now), Some(Reason::Unreachable));
}

#[test]
fn what_is_due_is_done_unless_it_was_asked_for_anew() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let mut queue = TerminationQueue::default();
    assert_eq!(queue.first_due(), None);
    queue.add(target(1, 1, 2), Reason::Removed, later);
    queue.add(target(2, 2, 2), Reason::Unreachable, now);
    queue.add(target(3, 3, 2), Reason::Unreachable, now);
    queue.add(target(4, 4, 2), Reason::Unreachable, now);
    let due = queue.due(now);
    assert_eq!(ids(&due), [2, 3, 4]);
    queue.add(target(3, 3, 2), Reason::Removed, later);
    queue.add(target(4, 4, 2), Reason::Unreachable, later);
    queue.done(&due);
    assert_eq!(ids(&queue), [1, 3, 4]);
    assert_eq!(queue.first_due(), Some(later));
}

#[test]
fn there_is_an_end_to_what_is_kept() {
    let now = Instant::now();
    let mut queue = TerminationQueue::default();
    for id in 0..=u32::try_from(ROOM).unwrap() {
        queue.add(target(id, 1, 2), Reason::Removed, now);
    }
    assert_eq!(queue.0.len(), ROOM);
    assert_eq!(queue.reason(&socket(0, 1, 53), now), Some(Reason::Removed));
}
