//! Whether a history that was not followed before is as far as the one before it.
//!
//! Each replica of a cluster's apiserver fills an etcd of its own. A reader that comes to another one, or to one that
//! was filled again, must not go back in time: what the other one had may not be there yet (`docs/wire.md`,
//! "Position").

use std::time::{Duration, Instant};

use mesh_wire::Position;

/// How far the cluster's source was seen, and how far the etcd at hand is with it.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    /// The furthest position that any etcd of the cluster had.
    seen: Option<Position>,
    /// That of this one.
    current: Option<Position>,
    /// Since this one is followed, if another was before and it is not known to be as far.
    behind: Option<Behind>,
    /// When this one's writer was last seen, on this connection.
    last_seen: Option<Instant>,
    /// How often one was left in a row because of that.
    left: u32,
}

#[derive(Clone, Copy, Debug)]
struct Behind {
    since: Instant,
    /// Its writer put a heartbeat since.
    alive: bool,
}

/// How long a living writer has to catch up before its etcd is taken as it is.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for a writer without a heartbeat. The first heartbeat of a Cilium comes after 60 s.
const UNREACHABLE_WAIT: Duration = Duration::from_secs(120);

/// How long the position of a writer that puts it every 5 s may be missing before another replica is tried, and the
/// longest: where all are away, going round costs a list each time.
const UNSEEN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));

// === impl Replica ===

impl Replica {
    /// Another history is followed from now on.
    pub(crate) fn changed(&mut self, now: Instant) {
        self.current = None;
        self.behind = Some(Behind { since: now, alive: false });
    }

    /// There is a connection.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.current = None;
        self.last_seen = Some(now);
    }

    /// The connection is gone.
    pub(crate) fn disconnected(&mut self) {
        self.last_seen = None;
    }

    /// When its writer has been unseen for so long that another replica is to be tried. Only a writer that puts
    /// positions can be missed.
    pub(crate) fn unseen_at(&self) -> Option<Instant> {
        let patience = UNSEEN.0.saturating_mul(1 << self.left.min(16)).min(UNSEEN.1);
        self.seen.as_ref().and(self.last_seen).map(|since| since + patience)
    }

    /// Another one is tried, because this one's writer is away.
    pub(crate) fn leave(&mut self) {
        self.last_seen = None;
        self.left = self.left.saturating_add(1);
    }

    /// The etcd's writer put its position, or did before the connection was up.
    pub(crate) fn position(&mut self, position: Position, now: Instant) {
        if self.current.as_ref().is_some_and(|before| *before != position) {
            self.last_seen = Some(now);
            self.left = 0;
        }
        if self.seen.as_ref().is_some_and(|seen| position.has_reached(seen)) {
            self.behind = None;
        }
        if self.behind.is_none() {
            self.seen.get_or_insert_default().advance(&position);
        }
        self.current = Some(position);
    }

    /// The etcd's writer put its heartbeat.
    pub(crate) fn beat(&mut self) {
        if let Some(behind) = &mut self.behind {
            behind.alive = true;
        }
    }

    /// Whether keys that the etcd lacks are deleted, and not only missing so far.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.behind.is_none()
    }

    /// Whether its content may be older than what is known: both have a position.
    pub(crate) fn is_older(&self) -> bool {
        self.behind.is_some() && self.seen.is_some()
    }

    /// Gives up waiting when it is time. True once.
    pub(crate) fn wait_is_over(&mut self, now: Instant) -> bool {
        let over = self.deadline().is_some_and(|deadline| deadline <= now);
        if over {
            self.behind = None;
            // It is what the cluster has now, however far that is.
            self.seen = self.current.clone();
        }
        over
    }

    /// When the wait is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.behind
            .map(|Behind { since, alive }| since + if alive { PATIENCE } else { UNREACHABLE_WAIT })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn at(version: u32) -> Position {
        let source = BTreeMap::from([("Service".to_owned(), version.to_string())]);
        Position { source, unix_nano: 0 }
    }

    #[test]
    fn the_first_is_as_far_as_any() {
        let (mut replica, now) = (Replica::default(), Instant::now());
        assert!(replica.is_caught_up());
        replica.position(at(7), now);
        assert!(replica.is_caught_up() && replica.deadline().is_none());
    }

    #[test]
    fn another_is_waited_for() {
        let (mut replica, now) = (Replica::default(), Instant::now());
        replica.position(at(7), now);
        replica.changed(now);
        assert!(replica.is_older() && !replica.is_caught_up());
        replica.position(at(6), now);
        assert!(!replica.is_caught_up());
        replica.position(at(7), now);
        assert!(replica.is_caught_up() && !replica.is_older());
        // Its position while it was behind counts for nothing, the one it has now does.
        replica.changed(now);
        replica.position(at(6), now);
        assert!(!replica.is_caught_up());
    }

    #[test]
    fn but_not_for_ever() {
        let (mut replica, now) = (Replica::default(), Instant::now());
        replica.position(at(7), now);
        replica.changed(now);
        replica.position(at(6), now);
        assert!(!replica.wait_is_over(now + PATIENCE), "nothing shows that it lives");
        replica.beat();
        assert!(!replica.wait_is_over(now + PATIENCE - Duration::from_millis(1)));
        assert!(replica.wait_is_over(now + PATIENCE));
        assert!(replica.is_caught_up() && !replica.wait_is_over(now + PATIENCE));
        replica.changed(now);
        replica.position(at(6), now);
        assert!(replica.is_caught_up(), "it is what counts now");
    }

    #[test]
    fn one_without_signs_of_life_is_taken_as_it_is_after_a_while() {
        let (mut replica, now) = (Replica::default(), Instant::now());
        replica.changed(now);
        assert!(!replica.is_older() && !replica.is_caught_up());
        assert_eq!(replica.deadline(), Some(now + UNREACHABLE_WAIT));
        assert!(replica.wait_is_over(now + UNREACHABLE_WAIT));
    }

    #[test]
    fn one_whose_writer_is_away_is_left_later_and_later() {
        let (mut replica, now) = (Replica::default(), Instant::now());
        let second = Duration::from_secs(1);
        replica.connected(now);
        assert_eq!(replica.unseen_at(), None, "it may be one without positions");
        replica.position(at(7), now);
        assert_eq!(replica.unseen_at(), Some(now + UNSEEN.0), "that was there before");
        replica.position(at(8), now + second);
        assert_eq!(replica.unseen_at(), Some(now + second + UNSEEN.0));
        // All are away.
        for waits in [30, 60, 120, 240, 480, 600, 600] {
            replica.leave();
            assert_eq!(replica.unseen_at(), None, "it is left once");
            replica.disconnected();
            replica.connected(now);
            replica.position(at(8), now);
            assert_eq!(replica.unseen_at(), Some(now + second * waits));
        }
        replica.position(at(9), now);
        assert_eq!(replica.unseen_at(), Some(now + UNSEEN.0), "one is there again");
    }
}
