//! The writer of the load balancer's tables: takes changes as they are wanted, makes them in turns of bounded length, and
//! tries again what found no room.
//!
//! A change whose frontend has nothing pending is made at once, in the order in which changes come; one that does not fit
//! into the turn, or whose frontend waits, becomes pending by its key ([`Reconciler`]): of two changes of one key the later is
//! made. Within a frontend, backends are added before others are removed.
//!
//! A frontend without a backend refuses connections where nothing else could serve them, and lets them pass otherwise
//! ([`Settings::pass_if_empty`]). It becomes one that refuses only when all that is wanted of it was made: backends that found
//! no room exist all the same, and a kube-proxy may serve them.

use std::{
    collections::BTreeMap,
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
    tables::{Inherited, Occupancy, Tables, TablesError},
};

/// The tables, and what of them is pending or failing.
#[derive(Debug)]
pub struct LbWriter<K> {
    tables: Tables<K>,
    reconciler: Reconciler<LbKey, LbValue, ByFrontend>,
    /// Frontends that are to refuse connections, and do not yet: not all that is wanted of them was made.
    lenient: BTreeMap<Frontend, Settings>,
    changes: u64,
}

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LbKey {
    /// The frontend itself.
    Frontend(Frontend),
    /// One of its backends.
    Backend(Frontend, Backend),
    /// The weights of its groups.
    Weights(Frontend),
}

/// What such a thing is like.
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
    lenient: &'a mut BTreeMap<Frontend, Settings>,
    changes: &'a mut u64,
    touched: Vec<Frontend>,
}

/// How many changes are made between two looks at the clock.
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
        Self { tables, reconciler, lenient: BTreeMap::new(), changes: 0 }
    }

    /// Wants changes, in their order, and makes them until `budget` is spent by the clock. What is left is made by
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
        let mut touched = Vec::new();
        let mut spent = false;
        for (number, change) in changes.into_iter().enumerate() {
            if number % STEP == STEP - 1 {
                now = clock();
                spent = now >= end;
            }
            let key = LbKey::of(&change);
            if touched.last() != Some(&key.frontend()) {
                touched.push(key.frontend());
            }
            let waits = !self.reconciler.is_idle() && !self.reconciler.is_group_settled(&key);
            if waits || spent || self.make(change, now).is_err() {
                self.queue(change);
            }
        }
        self.level(touched, now);
        self.freed(before);
    }

    /// Makes what is pending, until nothing is due or `budget` is spent by the clock.
    pub fn turn(&mut self, budget: Duration, mut clock: impl FnMut() -> Instant) -> Left {
        if self.reconciler.is_idle() {
            return Left::Nothing;
        }
        let before = self.tables.occupancy();
        let Self { tables, reconciler, lenient, changes } = self;
        let mut target = Target { tables, lenient, changes, touched: Vec::new() };
        let turn = reconciler.run_for(budget, &mut clock, &mut target);
        let touched = target.touched;
        self.level(touched, clock());
        self.freed(before);
        turn.left
    }

    /// Makes a change at once. A frontend that would refuse connections before it has a backend does so when the others of
    /// these changes were made.
    fn make(&mut self, change: Change, now: Instant) -> Result<(), TablesError> {
        let change = match change {
            Change::SetFrontend(frontend, settings) => {
                self.lenient.remove(&frontend);
                let refuses = would_refuse(&self.tables, &frontend, settings);
                if refuses {
                    self.lenient.insert(frontend, settings);
                }
                lenient(frontend, settings, refuses)
            }
            Change::RemoveFrontend(frontend) => {
                self.lenient.remove(&frontend);
                change
            }
            Change::AddBackend(..) | Change::RemoveBackend(..) | Change::SetWeights(..) => change,
        };
        self.tables.apply(change, now)?;
        self.changes += 1;
        Ok(())
    }

    fn queue(&mut self, change: Change) {
        let key = LbKey::of(&change);
        match change {
            Change::SetFrontend(frontend, settings) => {
                self.lenient.remove(&frontend);
                self.reconciler.want(key, Some(LbValue::Settings(settings)));
            }
            Change::RemoveFrontend(frontend) => {
                self.lenient.remove(&frontend);
                self.reconciler.remove_group(key);
            }
            Change::AddBackend(_, _, group) => {
                self.reconciler.want(key, Some(LbValue::Group(group)));
            }
            Change::RemoveBackend(..) => self.reconciler.want(key, None),
            Change::SetWeights(_, weights) => {
                self.reconciler.want(key, Some(LbValue::Weights(weights)));
            }
        }
    }

    /// Has frontends refuse connections that are to, where all that is wanted of them was made, and lets these pass where a
    /// frontend lost its last backend while another waits.
    fn level(&mut self, frontends: Vec<Frontend>, now: Instant) {
        if self.lenient.is_empty() && self.reconciler.is_idle() {
            return;
        }
        for frontend in frontends {
            let waits = !self.reconciler.is_group_settled(&LbKey::Frontend(frontend));
            let settings = match waits {
                true => refusing(&self.tables, &frontend).filter(|settings| {
                    self.lenient.insert(frontend, *settings);
                    true
                }),
                false => self.lenient.remove(&frontend),
            };
            let Some(settings) = settings else { continue };
            let change = lenient(frontend, settings, waits);
            if self.tables.apply(change, now).is_err() {
                self.queue(Change::SetFrontend(frontend, settings));
            }
        }
    }

    /// Entries that are free again are for changes that found no room.
    fn freed(&mut self, before: Occupancy) {
        if self.reconciler.is_idle() {
            return;
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

    /// Removes what the previous run left: backends of clusters for which `backends` says so, and, with `frontends`, those that
    /// the local cluster does not have. Whether anything was removed.
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
        if !self.reconciler.is_group_settled(&key) || self.lenient.contains_key(&key.frontend()) {
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

    /// How it stands.
    pub fn status(&self) -> Status {
        self.reconciler.status(LbKey::to_string)
    }

    /// What cannot be made, with its reason.
    pub fn failures(&self) -> impl Iterator<Item = (&LbKey, &Failure)> {
        self.reconciler.failures()
    }
}

/// A frontend's settings, without refusing anybody where `pass`.
fn lenient(frontend: Frontend, settings: Settings, pass: bool) -> Change {
    let pass_if_empty = settings.pass_if_empty || pass;
    Change::SetFrontend(frontend, Settings { pass_if_empty, ..settings })
}

/// The settings of a frontend that refuses connections now.
fn refusing<K: Kernel>(tables: &Tables<K>, frontend: &Frontend) -> Option<Settings> {
    let view = tables.frontend(frontend)?;
    let empty = view.counts().iter().all(|count| *count == 0);
    Some(view.settings()).filter(|settings| empty && !settings.pass_if_empty)
}

/// Whether a frontend that has no backend would refuse connections with these settings, and does not yet.
fn would_refuse<K: Kernel>(tables: &Tables<K>, frontend: &Frontend, settings: Settings) -> bool {
    let passes_now = tables.frontend(frontend).is_none_or(|view| {
        view.settings().pass_if_empty && view.counts().iter().all(|count| *count == 0)
    });
    !settings.pass_if_empty && passes_now
}

// === impl Target ===

impl<K: Kernel> Apply<LbKey, LbValue> for Target<'_, K> {
    fn apply(
        &mut self,
        key: &LbKey,
        action: Action<&LbValue>,
        now: Instant,
    ) -> Result<(), Failure> {
        if self.touched.last() != Some(&key.frontend()) {
            self.touched.push(key.frontend());
        }
        if let (LbKey::Frontend(frontend), Action::Remove | Action::Recreate(_)) = (key, &action) {
            self.lenient.remove(frontend);
            self.tables.apply(Change::RemoveFrontend(*frontend), now).map_err(failure)?;
        }
        let change = match (*key, action.value().map(|value| **value)) {
            (LbKey::Frontend(frontend), Some(LbValue::Settings(settings))) => {
                // The others of its group come after it.
                let refuses = would_refuse(self.tables, &frontend, settings);
                if refuses {
                    self.lenient.insert(frontend, settings);
                }
                lenient(frontend, settings, refuses)
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

/// What can be expected of the next attempt.
fn failure(error: TablesError) -> Failure {
    match &error {
        TablesError::Full { map, .. } => {
            Failure::no_room(map, format_args!("{error} ({})", flag_of(map)))
        }
        TablesError::Kernel { .. } | TablesError::NoFrontend(_) => Failure::failed(&error),
    }
}

/// The agent's flag that a table's size is.
pub fn flag_of(map: &str) -> &'static str {
    match map {
        "cm_services" => "--max-services",
        "cm_backends" => "--max-backends",
        "cm_groups" => "--max-weighted-services",
        _ => "--max-slots",
    }
}
