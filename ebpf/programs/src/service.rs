//! Choosing a backend.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use mesh_layout::{Backend, Counter, Header, SCANNED_SLOTS, TRIES};

use crate::maps;

/// A backend of the service, any with equal chance: a few tries at random, then slot by slot, and only if there is
/// nothing else one of a cluster that is cut. `None` where the service has no backend.
#[inline(always)]
pub fn choose(header: Header) -> Option<Backend> {
    // The entry of a chosen id may be freed before it is copied; it takes two in a row to miss a backend that exists.
    maps::backend(choose_id(header.base(), header.count()))
        .or_else(|| maps::backend(choose_id(header.base(), header.count())))
}

/// The id of a backend, 0 for none. A function of its own, of plain numbers: it is verified once, on a stack of its own.
#[inline(never)]
fn choose_id(base: u32, count: u32) -> u32 {
    if count == 0 {
        return 0;
    }
    let mut position = 0;
    for _ in 0..TRIES {
        position = random_below(count);
        let id = maps::slot(base.wrapping_add(position)).unwrap_or(0);
        if let Some(cluster) = maps::cluster_of(id)
            && !maps::is_cut(cluster)
        {
            return id;
        }
        maps::count(Counter::Retried);
    }
    maps::count(Counter::Scanned);
    search(base, count, position)
}

/// A search in progress.
#[repr(C)]
struct Search {
    base: u32,
    count: u32,
    position: u32,
    /// The id of a usable backend, or 0.
    found: u32,
    /// The id of one whose cluster is cut, or 0.
    cut: u32,
}

/// The id of the first usable backend from a position on, else one of a cut cluster, else 0.
#[inline(never)]
fn search(base: u32, count: u32, from: u32) -> u32 {
    let mut search = Search { base, count, position: from, found: 0, cut: 0 };
    let steps = if count < SCANNED_SLOTS { count } else { SCANNED_SLOTS };
    // SAFETY: `search_step` has the signature that the helper calls, and `search` outlives the call. A loop of the
    // kernel's, because the verifier looks at its body once and not once for each step.
    unsafe {
        bpf_loop(steps, search_step as *mut c_void, (&raw mut search).cast(), 0);
    }
    if search.found != 0 {
        return search.found;
    }
    if search.cut != 0 {
        maps::count(Counter::TookCut);
    }
    search.cut
}

/// Looks at one slot; 1 ends the loop.
unsafe extern "C" fn search_step(_step: u64, search: *mut Search) -> i64 {
    // SAFETY: `bpf_loop` hands on the pointer that `search` gave it.
    let search = unsafe { &mut *search };
    let id = maps::slot(search.base.wrapping_add(search.position)).unwrap_or(0);
    if let Some(cluster) = maps::cluster_of(id) {
        if !maps::is_cut(cluster) {
            search.found = id;
            return 1;
        }
        search.cut = id;
    }
    search.position += 1;
    if search.position >= search.count {
        search.position = 0;
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
