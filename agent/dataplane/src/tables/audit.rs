//! Compares the kernel with its wanted content.
//!
//! Only the writer writes the tables, and it writes what it was asked for: normally both comparisons find nothing. If
//! they do find something, there is a bug here or another program that writes the maps; it is repaired, and counted so
//! that the operator looks for it.
//!
//! An audit goes in slices, between which the tables may change: an entry that is added or removed meanwhile may be
//! compared or not, and is never taken for a deviation.

use std::{collections::HashMap, fmt, io, ops::Bound};

use mesh_layout::ServiceRef;
use mesh_model::lb::{Change, Content, Frontend, Weights};

use super::{Tables, TablesError, backends::Place, service::Service};
use crate::{convert, kernel::Kernel};

/// How many entries of each table were not what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Frontends missing, too many or leading elsewhere.
    pub frontends: u64,
    /// Headers.
    pub headers: u64,
    /// Settings of frontends.
    pub settings: u64,
    /// Frontends whose groups have other slots or weights.
    pub groups: u64,
    /// Slots.
    pub slots: u64,
    /// Backends missing, too many or others.
    pub backends: u64,
}

/// How far an audit has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditCursor(Stage);

/// The stages of an audit, one after the other: first what others lead to, and last what should not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing was looked at yet.
    #[default]
    Begin,
    /// The backends in their places, from one on.
    Backends(u32),
    /// The services, from one on.
    Services(Position),
    /// The kernel's frontends, from a position of its own.
    Found(Option<u32>),
    /// The frontends after one: whether the kernel has them.
    Missing(Option<Frontend>),
    /// The places of backends that should be free, from one on.
    Free(u32),
    Done,
}

/// A position among services: a frontend, or the first one, and how many of its slots were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    frontend: Option<Frontend>,
    slots: usize,
}

/// For each unit of a slice's budget one backend's entry, or a slot, is compared. These cost more, by this factor: a
/// frontend in the kernel's list, one that is looked up, and a service.
const LISTED: usize = 8;
const LOOKED_UP: usize = 32;
const SERVICE: usize = 4;

// === impl Repairs ===

impl Repairs {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { frontends, headers, settings, groups, slots, backends } = self;
        frontends + headers + settings + groups + slots + backends
    }
}

impl fmt::Display for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frontends, headers, settings, groups, slots, backends } = self;
        let counts = [
            (frontends, "frontends"),
            (headers, "headers"),
            (settings, "settings"),
            (groups, "groups"),
            (slots, "slots"),
            (backends, "backends"),
        ];
        let found = counts.into_iter().filter(|(count, _)| **count > 0);
        for (n, (count, what)) in found.enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{count} {what}")?;
        }
        Ok(())
    }
}

impl std::ops::AddAssign for Repairs {
    fn add_assign(&mut self, other: Self) {
        self.frontends += other.frontends;
        self.headers += other.headers;
        self.settings += other.settings;
        self.groups += other.groups;
        self.slots += other.slots;
        self.backends += other.backends;
    }
}

// === impl AuditCursor ===

impl AuditCursor {
    /// Whether everything was looked at.
    pub fn is_done(&self) -> bool {
        self.0 == Stage::Done
    }
}

// === impl Tables ===

impl<K: Kernel> Tables<K> {
    /// Compares the kernel's content with what was written there, and writes what differs: first what others lead to.
    /// Costs a comparison of every entry for a backend, and of the rest what is in use.
    pub fn audit(&mut self) -> Result<Repairs, TablesError> {
        let (mut cursor, mut repairs) = (AuditCursor::default(), Repairs::default());
        while !cursor.is_done() {
            repairs += self.audit_slice(&mut cursor, usize::MAX)?;
        }
        Ok(repairs)
    }

    /// Continues an audit, until it is done or this much was compared: in units of one slot, some 50 ns of a processor.
    /// 50,000 are well below 5 ms. The same cursor is passed again until it [is done](AuditCursor::is_done).
    pub fn audit_slice(
        &mut self,
        cursor: &mut AuditCursor,
        budget: usize,
    ) -> Result<Repairs, TablesError> {
        let mut slice = Slice { left: budget.max(1), repairs: Repairs::default() };
        while slice.left > 0 && !cursor.is_done() {
            cursor.0 = self.audit_stage(std::mem::take(&mut cursor.0), &mut slice)?;
        }
        Ok(slice.repairs)
    }

    /// Looks on, until the stage is over or the slice is. What is next.
    fn audit_stage(&mut self, stage: Stage, slice: &mut Slice) -> Result<Stage, TablesError> {
        Ok(match stage {
            Stage::Begin => Stage::Backends(0),
            Stage::Backends(from) => match self.audit_backends(from, slice) {
                Some(next) => Stage::Backends(next),
                None => Stage::Services(Position::default()),
            },
            Stage::Services(from) => match self.audit_services(from, slice) {
                Some(next) => Stage::Services(next),
                None => Stage::Found(None),
            },
            Stage::Found(position) => match self.audit_found(position, slice)? {
                Some(next) => Stage::Found(Some(next)),
                None => Stage::Missing(None),
            },
            Stage::Missing(after) => match self.audit_missing(after, slice)? {
                Some(next) => Stage::Missing(Some(next)),
                None => Stage::Free(0),
            },
            Stage::Free(from) => match self.audit_free(from, slice) {
                Some(next) => Stage::Free(next),
                None => Stage::Done,
            },
            Stage::Done => Stage::Done,
        })
    }

    /// Writes the backends that are not as they were written.
    fn audit_backends(&mut self, from: u32, slice: &mut Slice) -> Option<u32> {
        for place in from..self.kernel.sizes().backends {
            if !slice.takes(1) {
                return Some(place);
            }
            let Place::Used(id, backend) = self.backends.in_place(place) else { continue };
            let wanted = convert::backend_entry(id, backend);
            if self.kernel.backend(place) != wanted {
                // No program takes one for the other while it is written.
                self.kernel.clear_backend(id);
                self.kernel.set_backend(wanted);
                slice.repairs.backends += 1;
            }
        }
        None
    }

    /// Clears the places of backends that should be free.
    fn audit_free(&mut self, from: u32, slice: &mut Slice) -> Option<u32> {
        for place in from..self.kernel.sizes().backends {
            if !slice.takes(1) {
                return Some(place);
            }
            let found = self.kernel.backend(place).id();
            let is_stray = match self.backends.in_place(place) {
                Place::Used(..) => false,
                // Cleared already, or still to be.
                Place::Resting(id) => found != 0 && found != id,
                Place::Free => found != 0,
            };
            if is_stray {
                self.kernel.clear_backend(place);
                slice.repairs.backends += 1;
            }
        }
        None
    }

    /// Compares services from one on, each from its slots to what leads to them; of the first one this many slots were
    /// compared before.
    fn audit_services(&mut self, from: Position, slice: &mut Slice) -> Option<Position> {
        let range = match from.frontend {
            Some(frontend) => self.services.range(frontend..),
            None => self.services.range(..),
        };
        for (frontend, service) in range {
            let begin = if from.frontend == Some(*frontend) { from.slots } else { 0 };
            let end = audit_slots(&mut self.kernel, service, begin, slice);
            if !slice.takes(SERVICE) {
                return Some(Position { frontend: Some(*frontend), slots: end });
            }
            audit_service(&mut self.kernel, service, &mut slice.repairs);
        }
        None
    }

    /// Looks at the kernel's frontends from a position on: what is no frontend, or leads elsewhere, is put right.
    fn audit_found(
        &mut self,
        position: Option<u32>,
        slice: &mut Slice,
    ) -> Result<Option<u32>, TablesError> {
        let (found, next) =
            self.kernel.services_from(position, slice.left / LISTED).map_err(refused)?;
        slice.takes(LISTED.saturating_mul(found.len().max(1)));
        for (key, found) in found {
            let service = convert::frontend(&key).and_then(|frontend| self.services.get(&frontend));
            let wanted = service.map(|service| ServiceRef::new(service.index, key.tag()));
            if wanted != Some(found) {
                match wanted {
                    Some(wanted) => self.kernel.put_service(&key, wanted),
                    None => self.kernel.delete_service(&key),
                }
                .map_err(refused)?;
                slice.repairs.frontends += 1;
            }
        }
        Ok(next)
    }

    /// Writes the frontends after one that the kernel does not have.
    fn audit_missing(
        &mut self,
        after: Option<Frontend>,
        slice: &mut Slice,
    ) -> Result<Option<Frontend>, TablesError> {
        let mut last = after;
        let range = match after {
            Some(frontend) => self.services.range((Bound::Excluded(frontend), Bound::Unbounded)),
            None => self.services.range(..),
        };
        for (frontend, service) in range {
            // One in a slice at least, or it would never end.
            if !slice.takes(LOOKED_UP) && last != after {
                return Ok(last);
            }
            let key = convert::frontend_key(frontend);
            if self.kernel.service(&key).map_err(refused)?.is_none() {
                let wanted = ServiceRef::new(service.index, key.tag());
                self.kernel.put_service(&key, wanted).map_err(refused)?;
                slice.repairs.frontends += 1;
            }
            last = Some(*frontend);
        }
        Ok(None)
    }

    /// What would have to change for the tables to be as wanted, all frontends together. What a previous run left and no
    /// cluster has claimed is neither wanted nor too much.
    pub fn deviations(&self, wanted: &HashMap<Frontend, Content>) -> Vec<Change> {
        let mut changes: Vec<Change> = wanted
            .iter()
            .flat_map(|(frontend, wanted)| self.deviations_of(frontend, wanted))
            .collect();
        let surplus = self.claimed_after(None).filter(|frontend| !wanted.contains_key(*frontend));
        changes.extend(surplus.map(|frontend| Change::RemoveFrontend(*frontend)));
        changes
    }

    /// The same of one frontend that is wanted.
    pub fn deviations_of(&self, frontend: &Frontend, wanted: &Content) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(service) = self.services.get(frontend) else {
            changes.push(Change::SetFrontend(*frontend, wanted.settings));
            let all = wanted.backends.iter();
            changes.extend(all.map(|(b, group)| Change::AddBackend(*frontend, *b, *group)));
            if wanted.weights != Weights::ONE {
                changes.push(Change::SetWeights(*frontend, wanted.weights));
            }
            return changes;
        };
        if service.settings != wanted.settings {
            changes.push(Change::SetFrontend(*frontend, wanted.settings));
        }
        let group_of = |backend| {
            let position = self.backends.id_of(backend);
            position.and_then(|id| service.positions.get(&id)).map(|at| at.group)
        };
        let missing = wanted.backends.iter().filter(|(b, group)| group_of(b) != Some(**group));
        changes.extend(missing.map(|(b, group)| Change::AddBackend(*frontend, *b, *group)));
        let claimed =
            service.positions.keys().filter(|id| !service.inherited_backends.contains(*id));
        let claimed = claimed.filter_map(|id| self.backends.get(*id));
        let surplus = claimed.filter(|backend| !wanted.backends.contains_key(*backend));
        changes.extend(surplus.map(|backend| Change::RemoveBackend(*frontend, *backend)));
        if service.weights != wanted.weights && !service.held_weights {
            changes.push(Change::SetWeights(*frontend, wanted.weights));
        }
        changes
    }

    /// Frontends that were requested in this run, in their order, from the one after a frontend on.
    pub fn claimed_after(&self, frontend: Option<Frontend>) -> impl Iterator<Item = &Frontend> {
        let from = frontend.map_or(Bound::Unbounded, Bound::Excluded);
        let services = self.services.range((from, Bound::Unbounded));
        services.filter(|(_, service)| !service.held).map(|(frontend, _)| frontend)
    }
}

/// What is left of a slice, and what it found.
struct Slice {
    left: usize,
    repairs: Repairs,
}

impl Slice {
    /// Takes this much of it; false if it is used up.
    fn takes(&mut self, units: usize) -> bool {
        let is_over = self.left == 0;
        self.left = self.left.saturating_sub(units);
        !is_over
    }
}

/// Compares a service's slots from one on. Returns how many were compared then.
fn audit_slots<K: Kernel>(
    kernel: &mut K,
    service: &Service,
    from: usize,
    slice: &mut Slice,
) -> usize {
    let mut looked_at = from;
    for (slot, id) in service.groups().flat_map(|(_, slots)| slots.ids()).skip(from) {
        if !slice.takes(1) {
            break;
        }
        if kernel.slot(slot) != id {
            kernel.set_slot(slot, id);
            slice.repairs.slots += 1;
        }
        looked_at += 1;
    }
    looked_at
}

/// Looks at what leads to a service's slots.
fn audit_service<K: Kernel>(kernel: &mut K, service: &Service, repairs: &mut Repairs) {
    if let Some(others) = &service.others {
        let found = kernel.group_set(others.set);
        if found != service.group_set() {
            for group in service.stale_groups(&found) {
                service.publish(kernel, group);
            }
            service.publish_cumulative(kernel);
            repairs.groups += 1;
        }
    }
    if kernel.settings(service.index) != service.shown_settings() {
        kernel.set_settings(service.index, service.shown_settings());
        repairs.settings += 1;
    }
    if kernel.header(service.index) != service.header() {
        kernel.set_header(service.index, service.header());
        repairs.headers += 1;
    }
}

fn refused(source: io::Error) -> TablesError {
    TablesError::Kernel { map: "cm_services", source }
}
