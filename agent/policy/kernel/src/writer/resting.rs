//! Numbers of elements in the kernel's tables. One that is free rests before it is used again: a program that read it may
//! still run.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a number rests: longer than any program runs.
pub(crate) const REST: Duration = Duration::from_secs(1);

/// What waits until it may be used again.
#[derive(Debug)]
pub(crate) struct Resting<T> {
    queue: VecDeque<(Instant, T)>,
}

/// Numbers from a first one up to a limit.
#[derive(Debug)]
pub(crate) struct Numbers {
    next: u32,
    limit: u32,
    free: Vec<u32>,
    resting: Resting<u32>,
}

// === impl Resting ===

impl<T> Default for Resting<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new() }
    }
}

impl<T> Resting<T> {
    pub(crate) fn put(&mut self, what: T, now: Instant) {
        self.queue.push_back((now + REST, what));
    }

    /// What has rested.
    pub(crate) fn take(&mut self, now: Instant) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(move || {
            let (due, _) = self.queue.front()?;
            (*due <= now).then(|| self.queue.pop_front()).flatten().map(|(_, what)| what)
        })
    }
}

// === impl Numbers ===

impl Numbers {
    /// From `first` on, below `limit`.
    pub(crate) fn new(first: u32, limit: u32) -> Self {
        Self { next: first, limit, free: Vec::new(), resting: Resting::default() }
    }

    /// One that nothing has; `None` where all are in use, or rest.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u32> {
        self.free.extend(self.resting.take(now));
        if let Some(number) = self.free.pop() {
            return Some(number);
        }
        (self.next < self.limit).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Nothing leads to it any more.
    pub(crate) fn free(&mut self, number: u32, now: Instant) {
        self.resting.put(number, now);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_it_is_used_again() {
        let mut numbers = Numbers::new(4, 6);
        let now = Instant::now();
        assert_eq!(
            [numbers.take(now), numbers.take(now), numbers.take(now)],
            [Some(4), Some(5), None]
        );
        numbers.free(4, now);
        assert_eq!(numbers.take(now + REST / 2), None);
        assert_eq!(numbers.take(now + REST), Some(4));
    }
}
