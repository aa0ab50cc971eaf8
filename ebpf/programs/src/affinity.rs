//! Clients that come back to the backend they had.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use mesh_layout::{Affinity, AffinityKey, Counter, Header};

use crate::{
    maps,
    service::{self, found, slot_and_id},
};

const NANOS_A_SECOND: u64 = 1_000_000_000;

/// The backend that the client had within the last `timeout` seconds, if the service would choose it now; else any, which
/// it has from now on. 0 where the service has none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cm_choose_again(netns: u64, service: u32, header: u64, timeout: u32) -> u64 {
    let client = AffinityKey::new(netns, service);
    let header = Header::from_word(header);
    let now = seconds();
    let mut chosen = 0;
    // Two sockets of a client that choose at once: the slower one takes what the faster one chose.
    for _ in 0..2 {
        let former = maps::affinity(&client);
        if let Some(former) = former
            // Seconds are cut off: what is kept is kept for the whole of the time, and up to a second longer.
            && now.wrapping_sub(former.seconds()) <= timeout
        {
            let again = service::again(header, found(former.slot(), former.backend()));
            if again != 0 {
                maps::count(Counter::Affine);
                if former.seconds() != now || slot_and_id(again).0 != former.slot() {
                    keep(&client, again, now, false);
                }
                return again;
            }
        }
        chosen = service::choose(header);
        if chosen == 0 || keep(&client, chosen, now, former.is_none()) {
            break;
        }
    }
    chosen
}

/// The client has used this backend, which it had, once more.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cm_refresh(netns: u64, service: u32, used: u64) -> u64 {
    let client = AffinityKey::new(netns, service);
    let now = seconds();
    let is_kept = match maps::affinity(&client) {
        Some(former) => former.backend() == slot_and_id(used).1 && former.seconds() == now,
        None => false,
    };
    if !is_kept {
        keep(&client, used, now, false);
    }
    used
}

#[inline(always)]
fn keep(client: &AffinityKey, chosen: u64, now: u32, only_first: bool) -> bool {
    let (slot, id) = slot_and_id(chosen);
    maps::set_affinity(client, Affinity::new(id, now, slot), only_first)
}

/// Seconds since the machine started, those included in which it slept.
#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_ktime_get_boot_ns() } / NANOS_A_SECOND) as u32
}
