//! The kernel's answer to probes of other nodes (`docs/adr/0016`, `docs/adr/0028`).
//!
//! It sees packets at the ingress of the interfaces that carry the node's addresses, before anything else of the node
//! does, and sends a question back to its sender: MACs, addresses and ports swapped, with the mark of an answer. It
//! answers nothing but what is a question in each byte, and passes on everything else.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;
mod packet;

use aya_ebpf::{
    bindings::{
        BPF_F_MARK_MANGLED_0, BPF_F_RECOMPUTE_CSUM,
        tcx_action_base::{TCX_DROP, TCX_NEXT},
    },
    helpers::generated::bpf_redirect,
    macros::classifier,
    programs::TcContext,
};
use mesh_layout::probe::{ANSWER, BY_KERNEL, LENGTH, LENGTH_1, MAGIC, MAGIC_1, QUESTION, RATE_AT};

use crate::packet::{Headers, Ipv4, Ipv6, Udp};

/// `ETH_P_IP` and `ETH_P_IPV6`, as a packet has them.
const ETH_P_IP: u32 = 0x0800u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86ddu16.to_be() as u32;
/// The kernel's type of a frame to the interface's own address: neither broadcast nor multicast, nor another's.
const PACKET_HOST: u32 = 0;
/// No Ethernet frame is shorter; what is beyond a short packet is padding.
const SHORTEST_FRAME: u32 = 60;
/// The position of the mark in a datagram, and of who answered.
const MARK_AT: usize = 4;

/// Looks at a packet that came in.
#[classifier]
pub fn cm_probe_answer(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel gives the hook a valid context. Volatile, so that each field is loaded as the whole word that the
    // verifier allows.
    let (length, protocol, vlan, kind) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*skb).len),
            core::ptr::read_volatile(&raw const (*skb).protocol),
            core::ptr::read_volatile(&raw const (*skb).vlan_present),
            core::ptr::read_volatile(&raw const (*skb).pkt_type),
        )
    };
    // Nearly everything ends here. A packet that still has its VLAN's tag is for the interface of that VLAN.
    if length as usize > Ipv6::HEADERS + LENGTH || kind != PACKET_HOST || vlan != 0 {
        return TCX_NEXT;
    }
    match protocol {
        ETH_P_IP => answer::<Ipv4>(&ctx, length),
        ETH_P_IPV6 => answer::<Ipv6>(&ctx, length),
        _ => TCX_NEXT,
    }
}

#[inline(always)]
fn answer<H: Headers>(ctx: &TcContext, length: u32) -> i32 {
    let Ok(mut headers) = ctx.load::<H>(0) else { return TCX_NEXT };
    let Some(datagram) = headers.question() else { return TCX_NEXT };
    let whole = (H::HEADERS + datagram) as u32;
    if length != whole && (length != SHORTEST_FRAME || whole > SHORTEST_FRAME) {
        return TCX_NEXT;
    }
    let (from, to) = (headers.source(), headers.destination());
    if maps::port_of(&to) != Some(headers.udp().to) || maps::port_of(&from).is_some() {
        return TCX_NEXT;
    }
    let Some(former) = question(ctx, H::HEADERS, datagram) else { return TCX_NEXT };
    let now = maps::count();
    let marked =
        Marked { mark: ANSWER, by: if datagram == LENGTH { BY_KERNEL } else { former.by } };
    headers.turn();
    // Before this nothing is changed, and after it no other program must have it.
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    if ctx.store(0, &headers, flags).is_err() {
        return TCX_NEXT;
    }
    let done = headers.mend(ctx).is_ok()
        && replace::<Marked, 2>(ctx, H::HEADERS, MARK_AT, &former, &marked)
        && (datagram != LENGTH || set_rate(ctx, H::HEADERS, now));
    if !done {
        return TCX_DROP;
    }
    // SAFETY: the context is valid; the helper has no other preconditions.
    unsafe { bpf_redirect(core::ptr::read_volatile(&raw const (*ctx.skb.skb).ifindex), 0) as i32 }
}

/// The mark of a datagram, and who answered; of the previous version its mark, and the first byte of its nonce.
#[repr(C)]
#[derive(Clone, Copy)]
struct Marked {
    mark: u8,
    by: u8,
}

/// The beginning of a datagram.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    magic: [u8; 4],
    marked: Marked,
    zero: [u8; 2],
}

/// Whether the datagram behind the headers is a question of the version that has its length; its mark.
#[inline(always)]
fn question(ctx: &TcContext, at: usize, length: usize) -> Option<Marked> {
    let head: Head = ctx.load(at).ok()?;
    if head.marked.mark != QUESTION {
        return None;
    }
    let magic = u32::from_ne_bytes(head.magic);
    let is_question = match length {
        LENGTH => {
            magic == u32::from_ne_bytes(MAGIC)
                && u16::from_ne_bytes(head.zero) == 0
                && head.marked.by == 0
        }
        LENGTH_1 => magic == u32::from_ne_bytes(MAGIC_1),
        _ => false,
    };
    is_question.then_some(head.marked)
}

/// Writes how many answers there were in the last full second.
#[inline(always)]
fn set_rate(ctx: &TcContext, headers: usize, rate: u32) -> bool {
    match ctx.load::<[u8; 4]>(headers + RATE_AT) {
        Ok(former) => replace::<[u8; 4], 4>(ctx, headers, RATE_AT, &former, &rate.to_be_bytes()),
        Err(_) => false,
    }
}

/// Writes a word of the datagram, and corrects the checksum by the difference. A checksum that the sender's kernel has
/// not computed yet is left to the code that will.
#[inline(always)]
fn replace<T: Copy, const BYTES: u64>(
    ctx: &TcContext,
    headers: usize,
    at: usize,
    from: &T,
    to: &T,
) -> bool {
    let checksum = headers - core::mem::size_of::<Udp>() + Udp::CHECKSUM_AT;
    let flags = u64::from(BPF_F_MARK_MANGLED_0) | BYTES;
    ctx.l4_csum_replace(checksum, number::<T, BYTES>(from), number::<T, BYTES>(to), flags).is_ok()
        && ctx.store(headers + at, to, u64::from(BPF_F_RECOMPUTE_CSUM)).is_ok()
}

/// A word as the checksum's helper wants it: as it is in memory.
#[inline(always)]
fn number<T: Copy, const BYTES: u64>(word: &T) -> u64 {
    // SAFETY: callers give words of as many bytes, made of integers.
    unsafe {
        match BYTES {
            2 => core::ptr::read_unaligned((&raw const *word).cast::<u16>()).into(),
            _ => core::ptr::read_unaligned((&raw const *word).cast::<u32>()).into(),
        }
    }
}

mesh_layout::object!();
