//! What judges the packets of pods (`docs/adr/0043`).
//!
//! At the host's end of a pod's interface: what the pod sends is judged where it arrives there (`cm_judge_egress`), what
//! is sent to it where it leaves (`cm_judge_ingress`). Where nothing of the pod is under policy that is one look-up.
//!
//! The order: what is never judged; the flows that were allowed; the set's rules, denies first. A flow is remembered
//! only if it was allowed, and only as long as what allowed it is the same.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod conntrack;
mod context;
mod fragments;
mod judge;
mod maps;
mod packet;
mod peer;
mod rules;
mod work;

use aya_ebpf::{macros::classifier, programs::TcContext};
use mesh_layout::policy::FlowDirection;

/// What a pod sends.
#[classifier]
pub fn cm_judge_egress(ctx: TcContext) -> i32 {
    judge::packet(&ctx, FlowDirection::Egress)
}

/// What is sent to a pod.
#[classifier]
pub fn cm_judge_ingress(ctx: TcContext) -> i32 {
    judge::packet(&ctx, FlowDirection::Ingress)
}

mesh_layout::object!();
