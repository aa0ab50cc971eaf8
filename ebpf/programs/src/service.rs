//! Choosing a backend.
//!
//! A slot and the ID in it are one `u64`, 0 for none. Functions with a C name take and return plain integers: to the
//! verifier they are global, so it checks each of them once, on its own, and not once more for each path that leads to
//! a call.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use mesh_layout::{Counter, GROUPS_OF_A_SERVICE, Header, SCANNED_SLOTS, SEARCHED_SLOTS, TRIES};

use crate::maps::{self, Groups};

/// A backend of the service, any of a group with equal chance, and groups by their weights: a few tries at random, then
/// slot by slot, then in the other groups, and only if there is nothing else one of a cluster that is cut. 0 where the
/// service has no backend.
#[inline(always)]
pub fn choose(header: Header) -> u64 {
    match header.group_set() {
        None => cm_choose_in(header.base(), header.count()),
        Some(set) => cm_choose_in_groups(set),
    }
}

/// A backend that the service had before, if it would choose it now: it is in a group that gets connections, and its
/// cluster is not cut. `former` is the id and the slot that named it then.
#[inline(always)]
pub fn again(header: Header, former: u64) -> u64 {
    let (slot, id) = slot_and_id(former);
    match maps::cluster_of(id) {
        Some(cluster) if !maps::is_cut(cluster) => match header.group_set() {
            None => cm_find(header.base(), header.count(), id, slot),
            Some(set) => cm_find_in_groups(set, id, slot),
        },
        _ => 0,
    }
}

/// A slot and the id in it, as one number.
#[inline(always)]
pub fn found(slot: u32, id: u32) -> u64 {
    u64::from(slot) << 32 | u64::from(id)
}

/// What [`found`] made one number of.
#[inline(always)]
pub fn slot_and_id(found: u64) -> (u32, u32) {
    ((found >> 32) as u32, found as u32)
}

/// One of a range of slots.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cm_choose_in(base: u32, count: u32) -> u64 {
    let usable = draw(base, count);
    if usable != 0 || count == 0 {
        return usable;
    }
    let mut search = Search::new();
    search.scan(base, count);
    search.result()
}

/// One of the groups' slots.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cm_choose_in_groups(set: u32) -> u64 {
    let Some(groups) = Groups::of(set) else { return 0 };
    let random = random_below(groups.cumulative(GROUPS_OF_A_SERVICE - 1));
    let mut drawn = Header::default();
    for group in 0..GROUPS_OF_A_SERVICE {
        if groups.cumulative(group) > random {
            drawn = groups.header(group);
            break;
        }
    }
    let usable = draw(drawn.base(), drawn.count());
    if usable != 0 {
        return usable;
    }
    let mut search = Search::new();
    search.scan(drawn.base(), drawn.count());
    // Those that have a weight, then those that have none. Groups that were searched already are searched again, which
    // only happens where hardly anything is alive.
    let mut below = 0;
    for group in 0..GROUPS_OF_A_SERVICE {
        let cumulative = groups.cumulative(group);
        if cumulative > below {
            let header = groups.header(group);
            search.scan(header.base(), header.count());
        }
        below = cumulative;
    }
    for group in 0..GROUPS_OF_A_SERVICE {
        let header = groups.header(group);
        search.scan(header.base(), header.count());
    }
    search.result()
}

/// A few tries at random.
#[inline(always)]
fn draw(base: u32, count: u32) -> u64 {
    if count == 0 {
        return 0;
    }
    for _ in 0..TRIES {
        let slot = base.wrapping_add(random_below(count));
        let id = maps::slot(slot).unwrap_or(0);
        if let Some(cluster) = maps::cluster_of(id)
            && !maps::is_cut(cluster)
        {
            return found(slot, id);
        }
        maps::count(Counter::Retried);
    }
    0
}

/// A search in progress.
#[repr(C)]
struct Search {
    base: u32,
    count: u32,
    /// Where it began.
    first: u32,
    /// The id that is searched for; 0 is any that is usable.
    id: u32,
    /// A slot with that id, or with that of a usable backend.
    found: u64,
    /// A slot with the ID of a backend whose cluster is cut.
    cut: u64,
}

impl Search {
    #[inline(always)]
    fn new() -> Self {
        Self { base: 0, count: 0, first: 0, id: 0, found: 0, cut: 0 }
    }

    /// Looks at slots of a range until something is found, from any of them on.
    #[inline(always)]
    fn scan(&mut self, base: u32, count: u32) {
        if self.found == 0 && count != 0 {
            maps::count(Counter::Scanned);
            scan(self, base, count);
        }
    }

    #[inline(always)]
    fn result(&self) -> u64 {
        if self.found != 0 {
            return self.found;
        }
        if self.cut != 0 {
            maps::count(Counter::TookCut);
        }
        self.cut
    }
}

#[inline(never)]
fn scan(search: &mut Search, base: u32, count: u32) -> u32 {
    search.base = base;
    search.count = count;
    search.first = random_below(count);
    let steps = if count < SCANNED_SLOTS { count } else { SCANNED_SLOTS };
    run(search, steps)
}

/// The slot of an id in a range of slots: where it was, else wherever it is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cm_find(base: u32, count: u32, id: u32, hint: u32) -> u64 {
    if hint.wrapping_sub(base) < count && maps::slot(hint) == Some(id) {
        return found(hint, id);
    }
    cm_search_for(base, count, id)
}

/// As [`cm_find`], in the groups that connections go to.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cm_find_in_groups(set: u32, id: u32, hint: u32) -> u64 {
    let Some(groups) = Groups::of(set) else { return 0 };
    let mut weighted = 0;
    let mut below = 0;
    for group in 0..GROUPS_OF_A_SERVICE {
        let cumulative = groups.cumulative(group);
        if cumulative > below && groups.header(group).count() != 0 {
            weighted = 1;
        }
        below = cumulative;
    }
    // Where no group with a weight has a backend, connections go to whatever there is. First where it was, in any of them.
    let mut below = 0;
    if maps::slot(hint) == Some(id) {
        for group in 0..GROUPS_OF_A_SERVICE {
            let cumulative = groups.cumulative(group);
            let header = groups.header(group);
            let is_chosen = cumulative > below || weighted == 0;
            if is_chosen && hint.wrapping_sub(header.base()) < header.count() {
                return found(hint, id);
            }
            below = cumulative;
        }
    }
    let mut below = 0;
    for group in 0..GROUPS_OF_A_SERVICE {
        let cumulative = groups.cumulative(group);
        if cumulative > below || weighted == 0 {
            let header = groups.header(group);
            let found = cm_search_for(header.base(), header.count(), id);
            if found != 0 {
                return found;
            }
        }
        below = cumulative;
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cm_search_for(base: u32, count: u32, id: u32) -> u64 {
    if id == 0 {
        return 0;
    }
    let mut search = Search { base, count, first: 0, id, found: 0, cut: 0 };
    let steps = if count < SEARCHED_SLOTS { count } else { SEARCHED_SLOTS };
    run(&mut search, steps);
    search.found
}

/// A loop of the kernel's, because the verifier checks its body once and not once for each step.
#[inline(always)]
fn run(search: &mut Search, steps: u32) -> u32 {
    // SAFETY: `step` has the signature that the helper calls, and `search` outlives the call.
    unsafe { bpf_loop(steps, step as *mut c_void, core::ptr::from_mut(search).cast(), 0) as u32 }
}

/// Looks at one slot; 1 ends the loop. Where it looks is worked out from the number of the step: a position that is kept
/// would be a number that the verifier knows, and it would follow all of the loop.
unsafe extern "C" fn step(step: u64, search: *mut Search) -> i64 {
    // SAFETY: `bpf_loop` hands on the pointer that `run` gave it.
    let search = unsafe { &mut *search };
    let mut position = search.first.wrapping_add(step as u32);
    if position >= search.count {
        position = position.wrapping_sub(search.count);
    }
    let slot = search.base.wrapping_add(position);
    let id = maps::slot(slot).unwrap_or(0);
    if search.id != 0 {
        if id == search.id {
            search.found = found(slot, id);
            return 1;
        }
    } else if let Some(cluster) = maps::cluster_of(id) {
        if !maps::is_cut(cluster) {
            search.found = found(slot, id);
            return 1;
        }
        search.cut = found(slot, id);
    }
    0
}

/// A number below `limit` without a division and without bias worth measuring.
#[inline(always)]
fn random_below(limit: u32) -> u32 {
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    ((u64::from(random) * u64::from(limit)) >> 32) as u32
}
