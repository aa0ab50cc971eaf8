//! The node's addresses, and how many questions were answered.

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap},
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::btf_map,
};
use mesh_layout::{
    default_sizes::PROBE_ADDRESSES,
    probe::{ANSWER_SECONDS, ANSWER_TOTAL, ANSWER_WORDS, AnswerSecond},
};

/// By the node's addresses, v4 as v4-mapped: the port at which they are asked, in network order.
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_probe_addresses: HashMap<[u8; 16], u32, PROBE_ADDRESSES> = HashMap::new();
/// How many were answered in each of the last seconds, and in all.
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_probe_answers: Array<u64, ANSWER_WORDS, MMAPABLE> = Array::new();

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NANOS_A_SECOND: u64 = 1_000_000_000;

/// The port at which an address of the node is asked; `None` if it is none.
#[inline(always)]
pub fn port_of(address: &[u8; 16]) -> Option<[u8; 2]> {
    let port = cm_probe_addresses.get_ptr(address)?;
    // SAFETY: the entry's memory stays mapped for the program's run; one aligned load cannot tear.
    let [a, b, ..] = unsafe { core::ptr::read_volatile(port) }.to_ne_bytes();
    Some([a, b])
}

/// Counts one more answer. How many there were in the last full second.
#[inline(always)]
pub fn count() -> u32 {
    // SAFETY: the helper has no preconditions.
    let second = (unsafe { bpf_ktime_get_boot_ns() } / NANOS_A_SECOND) as u32;
    if let Some(total) = cm_probe_answers.get_ptr_mut(ANSWER_TOTAL) {
        add_one(total);
    }
    if let Some(word) = cm_probe_answers.get_ptr_mut(second % ANSWER_SECONDS) {
        // SAFETY: array memory is never freed under a program; one aligned load or store cannot tear. Of those who meet at
        // the turn of a second the last one's store counts.
        unsafe {
            match AnswerSecond::from_word(core::ptr::read_volatile(word)).second == second {
                true => add_one(word),
                false => {
                    core::ptr::write_volatile(word, AnswerSecond { second, count: 1 }.to_word())
                }
            }
        }
    }
    let last = second.wrapping_sub(1);
    let Some(word) = cm_probe_answers.get_ptr(last % ANSWER_SECONDS) else { return 0 };
    // SAFETY: as above.
    let found = AnswerSecond::from_word(unsafe { core::ptr::read_volatile(word) });
    if found.second == last { found.count } else { 0 }
}

#[inline(always)]
fn add_one(word: *mut u64) {
    // SAFETY: the map's memory outlives the program. One instruction, because other processors count too; the target has no
    // atomics in Rust.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1u64) };
}
