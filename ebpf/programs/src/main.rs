//! The kernel side: socket load balancing for the services in the mesh's tables.
//!
//! Each program is a hook of a cgroup: it sees a socket's `connect` or `getpeername` before the kernel acts on it, and
//! may replace the address. What is no service passes through untouched.
#![no_std]
#![no_main]

mod address;
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

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses programs in which this could be reached.
    loop {}
}

/// The kernel offers some helpers only to programs under a licence it knows.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
