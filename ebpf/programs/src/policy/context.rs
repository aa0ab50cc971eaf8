//! The words of a packet's context.
//!
//! Each access is one instruction with the word's offset in it. Left to the compiler, two accesses may share an address that
//! was computed before, and the verifier refuses computed addresses of a context.

use core::{arch::asm, mem::offset_of};

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use mesh_layout::policy::report;

/// Where the control buffer begins.
const CONTROL: usize = offset_of!(__sk_buff, cb);

/// The interface that the packet is at.
#[inline(always)]
pub fn interface(ctx: &TcContext) -> u32 {
    read::<{ offset_of!(__sk_buff, ifindex) }>(ctx)
}

/// The interface on which it came to the node; 0: it was made here.
#[inline(always)]
pub fn came_in_at(ctx: &TcContext) -> u32 {
    read::<{ offset_of!(__sk_buff, ingress_ifindex) }>(ctx)
}

/// Its protocol, as a packet has it.
#[inline(always)]
pub fn protocol(ctx: &TcContext) -> u32 {
    read::<{ offset_of!(__sk_buff, protocol) }>(ctx)
}

/// The pod that its control buffer names.
#[inline(always)]
pub fn endpoint(ctx: &TcContext) -> u32 {
    read::<{ CONTROL + 4 * report::ENDPOINT }>(ctx)
}

/// Says in its control buffer what was decided: the verdict, the rule, the peer's place and identity.
#[inline(always)]
pub fn report(ctx: &TcContext, verdict: u32, rule: u32, place: u32, identity: u32) {
    write::<{ CONTROL + 4 * report::VERDICT }>(ctx, verdict);
    write::<{ CONTROL + 4 * report::RULE }>(ctx, rule);
    write::<{ CONTROL + 4 * report::PLACE }>(ctx, place);
    write::<{ CONTROL + 4 * report::IDENTITY }>(ctx, identity);
}

#[inline(always)]
fn read<const AT: usize>(ctx: &TcContext) -> u32 {
    let word: u64;
    // SAFETY: the kernel gives the hook a valid context, in which the word is.
    unsafe {
        asm!(
            "{word} = *(u32 *)({skb} + {at})",
            word = out(reg) word,
            skb = in(reg) ctx.skb.skb,
            at = const AT,
            options(nostack, readonly),
        );
    }
    word as u32
}

#[inline(always)]
fn write<const AT: usize>(ctx: &TcContext, word: u32) {
    // SAFETY: as in `read`; programs may write the control buffer.
    unsafe {
        asm!(
            "*(u32 *)({skb} + {at}) = {word}",
            word = in(reg) u64::from(word),
            skb = in(reg) ctx.skb.skb,
            at = const AT,
            options(nostack),
        );
    }
}
