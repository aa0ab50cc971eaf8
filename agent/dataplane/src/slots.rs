//! Which slots belong to which group: ranges of a power of two, split and joined as a buddy system.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// How long a freed entry rests before it is reused. A program that read an old header or slot is done with it within
/// microseconds; a second leaves room for a processor that a hypervisor suspended.
pub(crate) const REST: Duration = Duration::from_secs(1);

/// A range of `1 << order` slots from `base`, which is a multiple of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) base: u32,
    pub(crate) order: u32,
}

/// The free ranges.
#[derive(Debug)]
pub(crate) struct SlotRanges {
    /// By order, the bases.
    free: Vec<BTreeSet<u32>>,
    /// Freed and not yet rested, oldest first.
    resting: VecDeque<(Instant, Range)>,
    used: u32,
}

impl Range {
    /// The number of slots.
    pub(crate) fn len(self) -> u32 {
        1 << self.order
    }

    /// Its two halves; `None` of a single slot.
    pub(crate) fn halves(self) -> Option<(Self, Self)> {
        let order = self.order.checked_sub(1)?;
        let low = Self { base: self.base, order };
        Some((low, Self { base: self.base + low.len(), order }))
    }

    /// The order of the shortest range that holds `count` slots.
    pub(crate) fn order_for(count: u32) -> u32 {
        count.max(1).next_power_of_two().trailing_zeros()
    }
}

impl SlotRanges {
    /// All of `size` slots, a power of two, free.
    pub(crate) fn new(size: u32) -> Self {
        let top = size.trailing_zeros();
        let mut free: Vec<BTreeSet<u32>> = (0..=top).map(|_| BTreeSet::new()).collect();
        if let Some(last) = free.last_mut() {
            last.insert(0);
        }
        Self { free, resting: VecDeque::new(), used: 0 }
    }

    /// How many slots are in use or resting.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Takes a range; `None` when there is no free one of that length.
    pub(crate) fn take(&mut self, order: u32, now: Instant) -> Option<Range> {
        self.wake(now);
        let found = (order..).zip(self.free.iter().skip(usize::try_from(order).ok()?));
        let (mut at, base) = found.filter_map(|(o, bases)| Some((o, *bases.first()?))).next()?;
        self.remove(Range { base, order: at });
        while at > order {
            at -= 1;
            self.insert(Range { base: base + (1 << at), order: at });
        }
        self.used += 1 << order;
        Some(Range { base, order })
    }

    /// Takes one range in particular, as found in the kernel; false if any of it is not free.
    pub(crate) fn claim(&mut self, range: Range) -> bool {
        if !range.base.is_multiple_of(range.len()) {
            return false;
        }
        // The free range that holds it is the one of an order above whose base it rounds down to.
        let holder = (range.order..)
            .zip(self.free.iter().skip(usize::try_from(range.order).unwrap_or(usize::MAX)))
            .map(|(order, bases)| (Range { base: range.base & !((1 << order) - 1), order }, bases))
            .find(|(candidate, bases)| bases.contains(&candidate.base));
        let Some((holder, _)) = holder else {
            return false;
        };
        self.remove(holder);
        let mut rest = holder;
        while rest.order > range.order {
            let order = rest.order - 1;
            let (low, high) = (rest.base, rest.base + (1 << order));
            let (keep, release) = if range.base < high { (low, high) } else { (high, low) };
            self.insert(Range { base: release, order });
            rest = Range { base: keep, order };
        }
        self.used += range.len();
        true
    }

    /// Gives a range back; it rests from `now`.
    pub(crate) fn give_back(&mut self, range: Range, now: Instant) {
        self.resting.push_back((now, range));
    }

    /// Takes back a [`SlotRanges::take`] that no program can have seen: the range need not rest.
    pub(crate) fn undo(&mut self, range: Range) {
        self.used -= range.len();
        self.join(range);
    }

    fn wake(&mut self, now: Instant) {
        while let Some((since, range)) = self.resting.front().copied()
            && now.saturating_duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.used -= range.len();
            self.join(range);
        }
    }

    /// Makes a range free, together with its neighbour if that is free too, and so on.
    fn join(&mut self, mut range: Range) {
        loop {
            let buddy = Range { base: range.base ^ range.len(), order: range.order };
            let is_top =
                usize::try_from(range.order).is_ok_and(|order| order + 1 >= self.free.len());
            if is_top || !self.remove(buddy) {
                break;
            }
            range = Range { base: range.base.min(buddy.base), order: range.order + 1 };
        }
        self.insert(range);
    }

    fn insert(&mut self, range: Range) {
        if let Some(bases) = usize::try_from(range.order).ok().and_then(|o| self.free.get_mut(o)) {
            bases.insert(range.base);
        }
    }

    fn remove(&mut self, range: Range) -> bool {
        let bases = usize::try_from(range.order).ok().and_then(|o| self.free.get_mut(o));
        bases.is_some_and(|bases| bases.remove(&range.base))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rests_before_it_returns() {
        let start = Instant::now();
        let mut slots = SlotRanges::new(8);
        let all = slots.take(3, start).unwrap();
        assert_eq!(slots.take(0, start), None);
        slots.give_back(all, start);
        assert_eq!(slots.take(0, start + REST / 2), None);
        assert!(slots.take(0, start + REST).is_some());
        assert_eq!(slots.used(), 1);
    }

    #[test]
    fn claims_what_it_finds() {
        let now = Instant::now();
        let mut slots = SlotRanges::new(16);
        assert!(slots.claim(Range { base: 4, order: 1 }));
        assert!(!slots.claim(Range { base: 4, order: 0 }), "taken");
        assert!(!slots.claim(Range { base: 4, order: 2 }), "overlaps");
        assert!(!slots.claim(Range { base: 3, order: 1 }), "not aligned");
        assert!(!slots.claim(Range { base: 16, order: 0 }), "outside");
        assert!(!slots.claim(Range { base: 0, order: 9 }), "longer than all");
        assert!(slots.claim(Range { base: 15, order: 0 }));
        assert_eq!(slots.take(3, now), None);
        assert_eq!(slots.take(2, now), Some(Range { base: 0, order: 2 }));
    }

    proptest! {
        /// Ranges in use never overlap, and when all are back the whole is one range again.
        #[test]
        fn never_overlaps(steps in prop::collection::vec((0u32..5, any::<prop::sample::Index>(), any::<bool>()), 0..200)) {
            let mut now = Instant::now();
            let mut slots = SlotRanges::new(64);
            let mut taken: Vec<Range> = Vec::new();
            for (order, index, take) in steps {
                now += REST / 2;
                if take {
                    if let Some(range) = slots.take(order, now) {
                        for other in &taken {
                            prop_assert!(range.base + range.len() <= other.base || other.base + other.len() <= range.base);
                        }
                        prop_assert!(range.base + range.len() <= 64);
                        taken.push(range);
                    }
                } else if !taken.is_empty() {
                    slots.give_back(taken.swap_remove(index.index(taken.len())), now);
                }
            }
            for range in taken {
                slots.give_back(range, now);
            }
            prop_assert!(slots.take(6, now + REST).is_some());
        }
    }
}
