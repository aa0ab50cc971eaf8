//! One frontend's service, as it is in the kernel.

use std::collections::{HashMap, HashSet};

use mesh_layout::{GroupSet, Header};
use mesh_model::{
    ClusterId,
    lb::{Backend, Group, Settings, Weights},
};

use crate::{convert, kernel::Kernel, slots::Range};

/// One frontend's service. Backends are known by their ids.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) index: u32,
    /// What it should be like.
    pub(super) settings: Settings,
    pub(super) weights: Weights,
    /// The first group: of most services the only one.
    pub(super) first: Slots,
    /// What a service has of whose backends some are in another group.
    pub(super) others: Option<Box<Others>>,
    /// Where each backend is.
    pub(super) positions: HashMap<u32, Position>,
    /// Found in the kernel, and not claimed in this run.
    pub(super) held: bool,
    /// Weights found in the kernel, and not claimed in this run.
    pub(super) held_weights: bool,
    /// Backends found in the kernel, and not claimed in this run.
    pub(super) inherited_backends: HashSet<u32>,
    /// Its backends may not all be there yet: it was made strict in this batch of changes.
    pub(super) is_settling: bool,
    /// Backends that the tables did not take, at most [`REFUSED`].
    pub(super) refused: HashSet<Backend>,
}

/// How many of a service's missing backends are remembered. Any more are retried, and remembered then.
const REFUSED: usize = 64;

/// The groups but the first.
#[derive(Debug)]
pub(super) struct Others {
    /// The place in `cm_groups`.
    pub(super) set: u32,
    pub(super) groups: [Slots; Group::COUNT - 1],
}

/// A group's slots.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// `None` where it has no backend.
    pub(super) range: Option<Range>,
    /// The cluster whose backend made the range as long as it is: slots that are not in use are charged to it.
    pub(super) payer: Option<ClusterId>,
    /// What the slots hold, in order: ids of backends.
    pub(super) ids: Vec<u32>,
}

/// Where a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) group: Group,
    pub(super) slot: u32,
}

// === impl Service ===

impl Service {
    pub(super) fn new(index: u32, settings: Settings) -> Self {
        Self {
            index,
            settings,
            weights: Weights::ONE,
            first: Slots::default(),
            others: None,
            positions: HashMap::new(),
            held: false,
            held_weights: false,
            inherited_backends: HashSet::new(),
            is_settling: false,
            refused: HashSet::new(),
        }
    }

    /// Its settings as programs are to see them: without a backend connections are refused only where it is sure that there
    /// is none, and not where one could not be added, or may still be.
    pub(super) fn shown_settings(&self) -> mesh_layout::Settings {
        let may_lack = self.is_settling || !self.refused.is_empty();
        let pass_if_empty = self.settings.pass_if_empty || may_lack;
        convert::settings(Settings { pass_if_empty, ..self.settings })
    }

    /// Changes what its settings depend on, and writes them if programs are to see others than before.
    pub(super) fn change_settings<K: Kernel>(
        &mut self,
        kernel: &mut K,
        change: impl FnOnce(&mut Self),
    ) {
        let before = self.shown_settings();
        change(self);
        if self.shown_settings() != before {
            kernel.set_settings(self.index, self.shown_settings());
        }
    }

    /// A backend was not added, or was now, or is no longer wanted.
    pub(super) fn set_refused(&mut self, backend: Backend, is_refused: bool) {
        if !is_refused {
            self.refused.remove(&backend);
        } else if self.refused.len() < REFUSED {
            self.refused.insert(backend);
        }
    }

    /// Backends have other ids, in its slots already.
    pub(super) fn remap_ids(&mut self, ids: &HashMap<u32, u32>) {
        let of = |id: u32| ids.get(&id).copied().unwrap_or(0);
        let positions = std::mem::take(&mut self.positions);
        self.positions = positions.into_iter().map(|(id, at)| (of(id), at)).collect();
        let inherited = std::mem::take(&mut self.inherited_backends);
        self.inherited_backends = inherited.into_iter().map(of).collect();
    }

    /// A group's slots; `None` of another than the first where there is only that.
    pub(super) fn slots(&self, group: Group) -> Option<&Slots> {
        match group.number().checked_sub(1) {
            None => Some(&self.first),
            Some(at) => self.others.as_ref()?.groups.get(at),
        }
    }

    pub(super) fn slots_mut(&mut self, group: Group) -> Option<&mut Slots> {
        match group.number().checked_sub(1) {
            None => Some(&mut self.first),
            Some(at) => self.others.as_mut()?.groups.get_mut(at),
        }
    }

    /// All groups that there are.
    pub(super) fn groups(&self) -> impl Iterator<Item = (Group, &Slots)> {
        let others = self.others.iter().flat_map(|others| &others.groups);
        (0..).map_while(Group::new).zip(std::iter::once(&self.first).chain(others))
    }

    pub(super) fn groups_mut(&mut self) -> impl Iterator<Item = &mut Slots> {
        let others = self.others.iter_mut().flat_map(|others| &mut others.groups);
        std::iter::once(&mut self.first).chain(others)
    }

    /// Whether all backends are in the first group.
    pub(super) fn is_plain(&self) -> bool {
        self.groups().skip(1).all(|(_, slots)| slots.ids.is_empty())
    }

    /// The header of the service: of its slots, or where its groups are.
    pub(super) fn header(&self) -> Header {
        match &self.others {
            None => self.first.header(),
            Some(others) => Header::grouped(others.set),
        }
    }

    /// Its groups as they are in `cm_groups`.
    pub(super) fn group_set(&self) -> GroupSet {
        let mut headers = [Header::default(); Group::COUNT];
        for (header, (_, slots)) in headers.iter_mut().zip(self.groups()) {
            *header = slots.header();
        }
        GroupSet::new(self.cumulative(), headers)
    }

    /// For each group the sum of the weights up to it, of those that have backends. Where none of these has a weight, the
    /// first of them has.
    fn cumulative(&self) -> [u32; Group::COUNT] {
        let mut weights = [0u64; Group::COUNT];
        let counted = self.groups().zip(self.weights.0).zip(&mut weights);
        for (((_, slots), weight), counted) in counted {
            *counted = if slots.ids.is_empty() { 0 } else { weight.into() };
        }
        if weights.iter().all(|weight| *weight == 0) {
            let mut filled = self.groups().zip(&mut weights);
            let first = filled.find(|((_, slots), _)| !slots.ids.is_empty());
            first.into_iter().for_each(|(_, weight)| *weight = 1);
        }
        // The sum must fit; eight weights are longer by three bits at most.
        let sum: u64 = weights.iter().sum();
        let shift = if u32::try_from(sum).is_ok() { 0 } else { 3 };
        let mut sum = 0;
        weights.map(|weight| {
            sum += u32::try_from(weight >> shift).unwrap_or(u32::MAX).max(u32::from(weight > 0));
            sum
        })
    }

    /// Writes the sums that are not as they should be.
    pub(super) fn publish_cumulative<K: Kernel>(&self, kernel: &mut K) {
        let Some(others) = &self.others else { return };
        let found = kernel.group_set(others.set);
        let sums = found.cumulative().iter().zip(self.cumulative());
        for (group, (found, wanted)) in sums.enumerate() {
            if *found != wanted {
                kernel.set_group_cumulative(others.set, group, wanted);
            }
        }
    }

    /// The groups whose headers are not as they should be.
    pub(super) fn stale_groups(&self, found: &GroupSet) -> Vec<Group> {
        let slots = self.groups().zip(found.headers());
        let stale = slots.filter(|((_, slots), found)| slots.header() != **found);
        stale.map(|((group, _), _)| group).collect()
    }

    /// Writes a group's header.
    pub(super) fn publish<K: Kernel>(&self, kernel: &mut K, group: Group) {
        let Some(slots) = self.slots(group) else { return };
        match &self.others {
            None => kernel.set_header(self.index, slots.header()),
            Some(others) => kernel.set_group_header(others.set, group.number(), slots.header()),
        }
    }

    /// Writes the parts of the groups, and of what leads to them, that are not as they should be.
    pub(super) fn publish_groups<K: Kernel>(&self, kernel: &mut K) {
        let Some(others) = &self.others else { return };
        for group in self.stale_groups(&kernel.group_set(others.set)) {
            self.publish(kernel, group);
        }
        self.publish_cumulative(kernel);
        if kernel.header(self.index) != self.header() {
            kernel.set_header(self.index, self.header());
        }
    }
}

// === impl Slots ===

impl Slots {
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.ids.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn header(&self) -> Header {
        Header::new(self.range.map_or(0, |range| range.base), self.count())
    }

    /// The slots in use, each with its id.
    pub(super) fn ids(&self) -> impl Iterator<Item = (u32, u32)> {
        let base = self.range.map_or(0, |range| range.base);
        (base..).zip(self.ids.iter().copied())
    }

    /// How many slots of the range are not in use, and whose backend needed it.
    pub(super) fn reserve(&self) -> Option<(ClusterId, u32)> {
        let length = self.range.map_or(0, Range::len);
        Some((self.payer?, length.saturating_sub(self.count())))
    }
}
