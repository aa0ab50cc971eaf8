//! The kernel side: socket load balancing for the services in the mesh's tables.
//!
//! Each program is a hook of a cgroup: it sees the address of a socket's `connect` or `sendmsg` before the kernel acts
//! on it, or that of `recvmsg` or `getpeername` before the caller sees it, and may replace it. An address that is no
//! service's passes through untouched.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod address;
mod affinity;
mod datagrams;
mod list;
mod maps;
mod service;
mod socket;

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::address::Family;

/// `connect` on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn cm_connect4(ctx: SockAddrContext) -> i32 {
    socket::connect(&ctx, Family::V4)
}

/// `connect` on an IPv6 socket, which may carry a v4-mapped address.
#[cgroup_sock_addr(connect6)]
pub fn cm_connect6(ctx: SockAddrContext) -> i32 {
    socket::connect(&ctx, Family::V6)
}

/// `sendmsg` and `sendto` on a UDP socket, to an IPv4 address. An IPv6 socket that sends to a v4-mapped one runs this too.
#[cgroup_sock_addr(sendmsg4)]
pub fn cm_sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::sendmsg(&ctx, Family::V4)
}

/// `sendmsg` and `sendto` on an IPv6 UDP socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn cm_sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::sendmsg(&ctx, Family::V6)
}

/// `recvmsg` and `recvfrom` on an IPv4 UDP socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn cm_recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::recvmsg(&ctx, Family::V4)
}

/// `recvmsg` and `recvfrom` on an IPv6 UDP socket, which may have received from a v4-mapped address.
#[cgroup_sock_addr(recvmsg6)]
pub fn cm_recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::recvmsg(&ctx, Family::V6)
}

/// `getpeername` on an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn cm_getpeername4(ctx: SockAddrContext) -> i32 {
    socket::getpeername(&ctx, Family::V4)
}

/// `getpeername` on an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn cm_getpeername6(ctx: SockAddrContext) -> i32 {
    socket::getpeername(&ctx, Family::V6)
}

mesh_layout::object!();
