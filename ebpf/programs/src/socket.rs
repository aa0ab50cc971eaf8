//! What happens to a socket at each hook.

use aya_ebpf::{helpers::bpf_set_retval, programs::SockAddrContext};
use mesh_layout::{Counter, FrontendKey, SocketState};

use crate::{
    address::{self, Family},
    maps, service,
};

/// The hook's answer that lets the call go on.
const PASS: i32 = 1;
/// The hook's answer that ends the call, with the error set before.
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// Sends a connection for a service to one of its backends. TCP, and UDP sockets that connect.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    if maps::is_bypassed() {
        return PASS;
    }
    // SAFETY: the kernel gives the hook a valid context.
    let protocol = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).protocol) };
    if protocol != IPPROTO_TCP && protocol != IPPROTO_UDP {
        return PASS;
    }
    let (address, port) = address::read(ctx, family);
    let key = FrontendKey::new(address, port, protocol as u8);
    let Some(header) = maps::service(&key).and_then(maps::header) else { return PASS };
    let Some(backend) = service::choose(header) else {
        maps::count(Counter::NoBackend);
        // SAFETY: the helper has no preconditions; `connect` hooks may call it.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
        return REFUSE;
    };
    let mut state = SocketState::new(&key, &backend, 0);
    // SAFETY: the context is valid, and the storage's memory lives as long as the socket. A socket that connects again
    // has storage already, which then takes the new state. Without memory for it only `getpeername` is the poorer.
    unsafe {
        let stored = maps::cm_sockets.get_or_insert_ptr_mut(ctx, Some(&mut state));
        if !stored.is_null() {
            *stored = state;
        }
    }
    address::write(ctx, family, backend.address(), backend.port());
    maps::count(Counter::Translated);
    PASS
}

/// Shows a socket the service it asked for, not the backend it got.
#[inline(always)]
pub fn getpeername(ctx: &SockAddrContext, family: Family) -> i32 {
    if maps::is_bypassed() {
        return PASS;
    }
    // SAFETY: the context is valid, and the storage's memory lives as long as the socket.
    let stored = unsafe { maps::cm_sockets.get_ptr_mut(ctx) };
    if stored.is_null() {
        return PASS;
    }
    // SAFETY: not null, and written whole by `connect` on the same socket.
    let state = unsafe { *stored };
    let (address, port) = address::read(ctx, family);
    if let Some((address, port)) = state.service_of(address, port) {
        address::write(ctx, family, address, port);
    }
    PASS
}
