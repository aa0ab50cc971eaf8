//! The writer of the load balancer's tables: takes changes as they are wanted, makes them in turns of bounded length,
//! and retries those that found no room.
//!
//! A change whose frontend has nothing pending is made immediately, in the order in which changes come; one that does
//! not fit into the turn, or whose frontend waits, becomes pending by its key ([`Reconciler`]): of two changes of one
//! key the later is made. Within a frontend, backends are added before others are removed.
//!
//! When all changes are made, or refused, the batch is over ([`Tables::commit`]): a frontend that is to refuse
//! connections while it has no backend does so from then on.

use std::{
    fmt,
    time::{Duration, Instant},
};

use mesh_model::{
    ClusterId,
    lb::{Backend, Change, Frontend, Group, Settings, Weights},
};
use mesh_reconcile::{Action, Apply, Failure, Left, Order, Reconciler, Status, Verb};

use crate::{
    kernel::Kernel,
    room::flag_of,
    tables::{Inherited, Occupancy, Tables, TablesError},
};

mod problems;

/// The tables, and what of them is pending or failing.
#[derive(Debug)]
pub struct LbWriter<K> {
    tables: Tables<K>,
    reconciler: Reconciler<LbKey, LbValue, ByFrontend>,
    changes: u64,
}

/// The subject of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LbKey {
    /// The frontend itself.
    Frontend(Frontend),
    /// One of its backends.
    Backend(Frontend, Backend),
    /// The weights of its groups.
    Weights(Frontend),
}

/// The wanted value of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LbValue {
    /// A frontend's settings.
    Settings(Settings),
    /// A backend's group.
    Group(Group),
    /// A frontend's weights.
    Weights(Weights),
}

/// Frontend by frontend: first itself, then what is added to it, then what is removed from it.
#[derive(Debug)]
enum ByFrontend {}

/// The tables as [`Reconciler::run_for`] writes them.
struct Target<'a, K> {
    tables: &'a mut Tables<K>,
    changes: &'a mut u64,
}

/// The pools for which peers wait that have as much of a table as they may: the table, and the pool.
const SHARES: [(&str, &str); 2] =
    [("cm_backends", "share of cm_backends"), ("cm_slots", "share of cm_slots")];
/// How many changes are made between two readings of the clock.
const STEP: usize = 32;

// === impl LbKey ===

impl LbKey {
    /// The frontend.
    pub fn frontend(&self) -> Frontend {
        match self {
            Self::Frontend(frontend) | Self::Backend(frontend, _) | Self::Weights(frontend) => {
                *frontend
            }
        }
    }

    fn of(change: &Change) -> Self {
        match change {
            Change::SetFrontend(frontend, _) | Change::RemoveFrontend(frontend) => {
                Self::Frontend(*frontend)
            }
            Change::AddBackend(frontend, backend, _) | Change::RemoveBackend(frontend, backend) => {
                Self::Backend(*frontend, *backend)
            }
            Change::SetWeights(frontend, _) => Self::Weights(*frontend),
        }
    }
}

impl fmt::Display for LbKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend(frontend) => write!(f, "{frontend}"),
            Self::Backend(frontend, backend) => {
                let address = std::net::SocketAddr::from((backend.address, backend.port));
                write!(f, "backend {address} of {frontend}")
            }
            Self::Weights(frontend) => write!(f, "weights of {frontend}"),
        }
    }
}

impl Order<LbKey> for ByFrontend {
    type Group = Frontend;

    fn group(key: &LbKey) -> Frontend {
        key.frontend()
    }

    fn rank(key: &LbKey, verb: Verb) -> u8 {
        match (key, verb) {
            (LbKey::Frontend(_), Verb::Set) => 0,
            (LbKey::Backend(..), Verb::Set) => 1,
            (LbKey::Weights(_), _) => 2,
            (LbKey::Backend(..), Verb::Remove) => 3,
            (LbKey::Frontend(_), Verb::Remove) => 4,
        }
    }

    fn is_head(key: &LbKey) -> bool {
        matches!(key, LbKey::Frontend(_))
    }
}

// === impl LbWriter ===

impl<K: Kernel> LbWriter<K> {
    /// The writer of these tables. Two with different seeds try again at different times.
    pub fn new(tables: Tables<K>, seed: u64) -> Self {
        let settings = mesh_reconcile::Settings { seed, ..Default::default() };
        let reconciler = Reconciler::new(settings);
        Self { tables, reconciler, changes: 0 }
    }

    /// Takes changes, in their order, and makes them until `budget` is spent by the clock. The rest is made by
    /// [`LbWriter::turn`].
    pub fn want(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        budget: Duration,
        mut clock: impl FnMut() -> Instant,
    ) {
        let mut now = clock();
        let end = now + budget;
        let before = self.tables.occupancy();
        let mut spent = false;
        for (number, change) in changes.into_iter().enumerate() {
            if number % STEP == STEP - 1 {
                now = clock();
                spent = now >= end;
            }
            let key = LbKey::of(&change);
            let waits = !self.reconciler.is_idle() && !self.reconciler.is_group_settled(&key);
            if waits || spent || self.make(change, now).is_err() {
                self.queue(change);
            }
        }
        if self.reconciler.due_at(now).is_none_or(|at| at > now) {
            self.tables.commit(now);
        }
        self.freed(before);
    }

    /// Makes what is pending, until nothing is due or `budget` is spent by the clock, and clears what has rested.
    pub fn turn(&mut self, budget: Duration, mut clock: impl FnMut() -> Instant) -> Left {
        let left = match self.reconciler.is_idle() {
            true => Left::Nothing,
            false => self.make_pending(budget, &mut clock),
        };
        if self.tables.next_rested().is_none() {
            return left;
        }
        self.tables.clear_rested(clock());
        match (left, self.tables.next_rested()) {
            (Left::Nothing, Some(at)) => Left::Later(at),
            (Left::Later(retry), Some(at)) => Left::Later(retry.min(at)),
            (left, _) => left,
        }
    }

    fn make_pending(&mut self, budget: Duration, mut clock: impl FnMut() -> Instant) -> Left {
        let before = self.tables.occupancy();
        let Self { tables, reconciler, changes } = self;
        let turn = reconciler.run_for(budget, &mut clock, &mut Target { tables, changes });
        if turn.left != Left::Due {
            self.tables.commit(clock());
        }
        self.freed(before);
        turn.left
    }

    fn make(&mut self, change: Change, now: Instant) -> Result<(), TablesError> {
        self.tables.apply(change, now)?;
        self.changes += 1;
        Ok(())
    }

    fn queue(&mut self, change: Change) {
        let key = LbKey::of(&change);
        match change {
            Change::SetFrontend(_, settings) => {
                self.reconciler.want(key, Some(LbValue::Settings(settings)));
            }
            Change::RemoveFrontend(_) => self.reconciler.remove_group(key),
            Change::AddBackend(frontend, _, group) => {
                self.tables.expect_backend(&frontend);
                self.reconciler.want(key, Some(LbValue::Group(group)));
            }
            Change::RemoveBackend(..) => self.reconciler.want(key, None),
            Change::SetWeights(_, weights) => {
                self.reconciler.want(key, Some(LbValue::Weights(weights)));
            }
        }
    }

    /// Entries that are free again are for changes that found no room.
    fn freed(&mut self, before: Occupancy) {
        let given_back = usize::try_from(self.tables.take_freed()).unwrap_or(usize::MAX);
        if self.reconciler.is_idle() || given_back == 0 && before == self.tables.occupancy() {
            return;
        }
        for (_, pool) in SHARES {
            self.reconciler.freed(pool, given_back);
        }
        let now = self.tables.occupancy();
        for (pool, before, now) in [
            ("cm_services", before.services, now.services),
            ("cm_backends", before.backends, now.backends),
            ("cm_slots", before.slots, now.slots),
            ("cm_groups", before.groups, now.groups),
        ] {
            let freed = usize::try_from(before.saturating_sub(now)).unwrap_or(usize::MAX);
            if freed > 0 {
                self.reconciler.freed(pool, freed);
            }
        }
    }

    /// Removes what the previous run left: backends of clusters for which `backends` returns true, and, with
    /// `frontends`, those that the local cluster does not have. Returns whether anything was removed.
    ///
    /// # Errors
    /// When frontends cannot be removed; backends are then.
    pub fn prune(
        &mut self,
        backends: impl Fn(ClusterId) -> bool,
        frontends: bool,
        now: Instant,
    ) -> Result<bool, TablesError> {
        let before = self.tables.inherited();
        if before == Inherited::default() {
            return Ok(false);
        }
        let room = self.tables.occupancy();
        self.tables.prune_backends(backends, now);
        let pruned = if frontends { self.tables.prune_frontends(now) } else { Ok(()) };
        self.freed(room);
        pruned.map(|()| self.tables.inherited() != before)
    }

    /// A frontend, or one of its parts, is not as it was written: an audit found that. Whether that was not known already.
    pub fn repair(&mut self, change: Change, now: Instant) -> bool {
        let key = LbKey::of(&change);
        if !self.reconciler.is_group_settled(&key) {
            return false;
        }
        if self.tables.apply(change, now).is_err() {
            self.queue(change);
        }
        true
    }

    /// The tables as they are.
    pub fn tables(&self) -> &Tables<K> {
        &self.tables
    }

    /// The tables, for what is no change of a frontend.
    pub fn tables_mut(&mut self) -> &mut Tables<K> {
        &mut self.tables
    }

    /// How many changes were made.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Its state.
    pub fn status(&self) -> Status {
        self.reconciler.status(LbKey::to_string)
    }

    /// The changes that cannot be made, with the reasons.
    pub fn failures(&self) -> impl Iterator<Item = (&LbKey, &Failure)> {
        self.reconciler.failures()
    }
}

// === impl Target ===

impl<K: Kernel> Apply<LbKey, LbValue> for Target<'_, K> {
    fn apply(
        &mut self,
        key: &LbKey,
        action: Action<&LbValue>,
        now: Instant,
    ) -> Result<(), Failure> {
        if let (LbKey::Frontend(frontend), Action::Remove | Action::Recreate(_)) = (key, &action) {
            self.tables.apply(Change::RemoveFrontend(*frontend), now).map_err(failure)?;
        }
        let change = match (*key, action.value().map(|value| **value)) {
            (LbKey::Frontend(frontend), Some(LbValue::Settings(settings))) => {
                Change::SetFrontend(frontend, settings)
            }
            (LbKey::Backend(frontend, backend), Some(LbValue::Group(group))) => {
                Change::AddBackend(frontend, backend, group)
            }
            (LbKey::Backend(frontend, backend), None) => Change::RemoveBackend(frontend, backend),
            (LbKey::Weights(frontend), Some(LbValue::Weights(weights))) => {
                Change::SetWeights(frontend, weights)
            }
            // A frontend that is removed; and keys have values of their kind alone.
            _ => return Ok(()),
        };
        self.tables.apply(change, now).map_err(failure)?;
        *self.changes += 1;
        Ok(())
    }
}

/// The pool of the entries of a table that peers may have.
fn share_of(map: &str) -> &'static str {
    let share = SHARES.into_iter().find(|(table, _)| *table == map);
    share.map_or("shares", |(_, pool)| pool)
}

/// What can be expected of the next attempt.
fn failure(error: TablesError) -> Failure {
    match &error {
        TablesError::Full { map, .. } => {
            Failure::no_room(map, format_args!("{error} ({})", flag_of(map)))
        }
        TablesError::Share { map, .. } => {
            Failure::no_room(share_of(map), format_args!("{error} ({})", flag_of(map)))
        }
        TablesError::Kernel { .. } | TablesError::NoFrontend(_) => Failure::failed(&error),
    }
}
