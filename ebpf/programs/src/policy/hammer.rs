//! Looks addresses up as fast as it can while user space changes them: a test of how `cm_places` is read and written.
//!
//! An address ends in its number, and every identity that the test gives it ends in that number too.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(dead_code)]

mod conntrack;
mod context;
mod fragments;
mod judge;
mod maps;
mod packet;
mod peer;
mod rules;
mod work;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, tcx_action_base::TCX_NEXT},
    btf_maps::Array,
    helpers::generated::bpf_get_prandom_u32,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use mesh_layout::policy::hammer::{ADDRESSES, FOUND, LOOK_UPS_A_RUN, LOOKED_UP, WORDS, WRONG};

/// How many were looked up, found, and wrong.
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_hammer: Array<u64, WORDS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Looks up some addresses at random.
#[classifier]
pub fn cm_hammer_places(_: TcContext) -> i32 {
    let (mut found, mut wrong) = (0, 0);
    // SAFETY: the helper has no preconditions.
    let mut random = unsafe { bpf_get_prandom_u32() };
    for _ in 0..LOOK_UPS_A_RUN {
        // A linear congruence (Numerical Recipes), of which the upper bits are random enough.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let number = (random >> 12) % ADDRESSES;
        let [_, _, high, low] = number.to_be_bytes();
        let address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low];
        if let Some((_, place)) = maps::place(&address) {
            found += 1;
            // Row and ports have the number of the identity's generation: what is read belongs together.
            let generation = place.identity >> 16;
            if place.identity & 0xffff != number
                || place.row != generation
                || place.ports != generation
                || place.owner != number
            {
                wrong += 1;
            }
        }
    }
    add(LOOKED_UP, u64::from(LOOK_UPS_A_RUN));
    add(FOUND, found);
    add(WRONG, wrong);
    TCX_NEXT
}

/// Nobody else writes these.
#[inline(always)]
fn add(word: u32, count: u64) {
    if let Some(word) = cm_hammer.get_ptr_mut(word) {
        // SAFETY: array memory is never freed under a program; one run at a time writes it.
        unsafe { core::ptr::write_volatile(word, core::ptr::read_volatile(word) + count) };
    }
}

mesh_layout::object!();
