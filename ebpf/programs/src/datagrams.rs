//! The services that a UDP socket without a connection has asked for: the last ones in its storage, the others in a
//! table.
//!
//! Functions that copy pairs are not inlined: each has them on a stack of its own.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, programs::SockAddrContext,
};
use mesh_layout::{Counter, DatagramState, OverflowKey, OverflowPair, Pair};

use crate::{address::Address, maps, service::found};

/// The storage of the hook's socket; `None` where it never sent to a service unconnected.
#[inline(always)]
pub fn of<'a>(ctx: &SockAddrContext) -> Option<&'a mut DatagramState> {
    // SAFETY: the context is valid. The storage's memory lives as long as the socket, and the kernel holds the socket's
    // lock around these hooks.
    unsafe { maps::cm_datagrams.get_ptr_mut(ctx).as_mut() }
}

/// The id of the backend that the socket has for a service, and the slot that named it; 0 for none.
#[inline(always)]
pub fn former(ctx: &SockAddrContext, state: &mut DatagramState, service: &Address) -> u64 {
    if let Some(pair) = state.to_service(&service.ip, &service.port) {
        return found(pair.slot(), pair.backend());
    }
    if state.has_overflowed() { former_beyond(cookie(ctx), service) } else { 0 }
}

#[inline(never)]
fn former_beyond(cookie: u64, service: &Address) -> u64 {
    match maps::overflow(&OverflowKey::to_service(cookie, service.ip, service.port)) {
        Some(pair) => found(pair.slot(), pair.backend()),
        None => 0,
    }
}

/// The socket uses the backend that it has for a service once more.
#[inline(always)]
pub fn used(ctx: &SockAddrContext, state: &mut DatagramState, again: &Pair) {
    let (ip, port) = again.service();
    if let Some(pair) = state.to_service(ip, port) {
        pair.set_slot(again.slot());
        if pair.is_hidden() {
            state.show(again);
        }
    } else {
        let (ip, port) = again.backend_address();
        state.hide(ip, port);
        used_beyond(cookie(ctx), again);
    }
}

#[inline(never)]
fn used_beyond(cookie: u64, again: &Pair) -> u64 {
    let (ip, port) = again.backend_address();
    let is_kept = match maps::overflow(&OverflowKey::from_backend(cookie, *ip, *port)) {
        Some(kept) => kept.slot() == again.slot() && kept.is_of_service(again.service()),
        None => false,
    };
    if is_kept { 0 } else { keep_beyond(cookie, again) }
}

/// The socket has another backend for a service from now on.
#[inline(never)]
pub fn remember(ctx: &SockAddrContext, pair: &Pair) -> u64 {
    // SAFETY: as in `of`. Without memory for it answers come from the backend's own address.
    let state = unsafe { maps::cm_datagrams.get_or_insert_ptr_mut(ctx, None).as_mut() };
    let Some(state) = state else { return 0 };
    let left = state.push(pair);
    if left.is_some() {
        maps::count(Counter::Overflowed);
        state.set_overflowed();
        return keep_beyond(cookie(ctx), &left);
    }
    0
}

/// Writes a pair into the table, for both directions in which it is used.
#[inline(never)]
fn keep_beyond(cookie: u64, pair: &Pair) -> u64 {
    let entry = OverflowPair::new(cookie, *pair);
    if pair.backend() != 0 {
        let (ip, port) = pair.service();
        maps::set_overflow(&OverflowKey::to_service(cookie, *ip, *port), &entry);
    }
    if !pair.is_hidden() {
        let (ip, port) = pair.backend_address();
        maps::set_overflow(&OverflowKey::from_backend(cookie, *ip, *port), &entry);
    }
    0
}

/// Replaces a backend's address by that of its service.
#[inline(always)]
pub fn show(ctx: &SockAddrContext, state: &DatagramState, backend: &mut Address) -> bool {
    if let Some((ip, port)) = state.service_of(&backend.ip, &backend.port) {
        *backend = Address { ip: *ip, port: *port };
        return true;
    }
    state.has_overflowed() && show_beyond(cookie(ctx), backend) != 0
}

#[inline(never)]
fn show_beyond(cookie: u64, backend: &mut Address) -> u64 {
    match maps::overflow(&OverflowKey::from_backend(cookie, backend.ip, backend.port)) {
        Some(pair) => {
            let (ip, port) = pair.service();
            *backend = Address { ip: *ip, port: *port };
            1
        }
        None => 0,
    }
}

/// The socket asks for an address that is no service's: datagrams from there are shown as they are.
#[inline(always)]
pub fn asked_for(ctx: &SockAddrContext, address: &Address) {
    let Some(state) = of(ctx) else { return };
    state.hide(&address.ip, &address.port);
    if state.has_overflowed() {
        forget_beyond(cookie(ctx), address);
    }
}

#[inline(never)]
fn forget_beyond(cookie: u64, backend: &Address) -> u64 {
    maps::remove_overflow(&OverflowKey::from_backend(cookie, backend.ip, backend.port));
    0
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
