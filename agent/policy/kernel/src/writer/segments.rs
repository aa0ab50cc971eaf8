//! Room for the rules of sets in one array.

use std::{collections::BTreeMap, time::Instant};

use super::resting::Resting;

/// Free and used parts of an array.
#[derive(Debug)]
pub(crate) struct Segments {
    /// By their first element: how many are free.
    free: BTreeMap<u32, u32>,
    resting: Resting<(u32, u32)>,
}

// === impl Segments ===

impl Segments {
    /// All of an array.
    pub(crate) fn new(size: u32) -> Self {
        Self { free: BTreeMap::from([(0, size)]), resting: Resting::default() }
    }

    /// The first element of as many that nothing uses; `None` where there is no such room.
    pub(crate) fn take(&mut self, count: u32, now: Instant) -> Option<u32> {
        let rested: Vec<_> = self.resting.take(now).collect();
        rested.into_iter().for_each(|(start, count)| self.give_back(start, count));
        let fits = self.free.iter().filter(|(_, free)| **free >= count);
        let (start, free) =
            fits.min_by_key(|(_, free)| **free).map(|(start, free)| (*start, *free))?;
        self.free.remove(&start);
        if free > count {
            self.free.insert(start + count, free - count);
        }
        Some(start)
    }

    /// Nothing uses these any more.
    pub(crate) fn free(&mut self, start: u32, count: u32, now: Instant) {
        self.resting.put((start, count), now);
    }

    fn give_back(&mut self, mut start: u32, mut count: u32) {
        if count == 0 {
            return;
        }
        if let Some(after) = self.free.remove(&(start + count)) {
            count += after;
        }
        let before = self.free.range(..start).next_back().map(|(at, free)| (*at, *free));
        if let Some((at, free)) = before.filter(|(at, free)| at + free == start) {
            (start, count) = (at, free + count);
        }
        self.free.insert(start, count);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SIZE: u32 = 64;

    proptest! {
        /// No two overlap, and all of it is one again in the end.
        #[test]
        fn parts_do_not_overlap(steps in prop::collection::vec((any::<bool>(), 0u32..20, any::<prop::sample::Index>()), 1..200)) {
            let mut segments = Segments::new(SIZE);
            let mut now = Instant::now();
            let mut used: Vec<(u32, u32)> = Vec::new();
            for (takes, count, which) in steps {
                now += Duration::from_secs(2);
                if takes {
                    if let Some(start) = segments.take(count, now) {
                        prop_assert!(start + count <= SIZE);
                        let apart = |(other, length): &(u32, u32)| {
                            count == 0 || *length == 0 || start + count <= *other || other + length <= start
                        };
                        prop_assert!(used.iter().all(apart), "{start} {count} {used:?}");
                        used.push((start, count));
                    }
                } else if !used.is_empty() {
                    let (start, count) = used.swap_remove(which.index(used.len()));
                    segments.free(start, count, now);
                }
            }
            for (start, count) in used {
                segments.free(start, count, now);
            }
            prop_assert_eq!(segments.take(SIZE, now + Duration::from_secs(2)), Some(0));
        }
    }
}
