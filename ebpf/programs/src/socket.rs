//! What the programs do with a socket at each hook.

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::{
        bpf_set_retval,
        generated::{bpf_sk_storage_get, bpf_skc_to_mptcp_sock},
    },
    programs::SockAddrContext,
};
use mesh_layout::{
    Backend, Counter, FrontendKey, Header, LOCAL_PLAIN_PASSES, LOCAL_UNSYNCED, Pair, Settings,
    SocketState,
};

use crate::{
    address::{self, Address, Family},
    affinity, datagrams, maps,
    service::{self, found, slot_and_id},
};

/// The hook's answer that lets the call go on.
const PASS: i32 = 1;
/// The hook's answer that ends the call, with the error set before.
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
/// Where the kernel's `struct sock_common`, with which every socket begins, has the socket's state.
const STATE_AT: usize = 18;
const ESTABLISHED: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// The requested service, if this node balances it.
struct Asked {
    index: u32,
    header: Header,
    settings: Settings,
    local_state: u32,
}

/// Sends a connection for a service to one of its backends. TCP, and UDP sockets that connect.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some(protocol) = protocol(ctx) else { return PASS };
    let to = address::read(ctx, family);
    let key = FrontendKey::new(to.ip, to.port, protocol);
    let is_ours = maps::is_bypassed();
    if !is_ours {
        maps::count(Counter::Called);
    }
    let Some(asked) = asked(ctx, &key, || is_ours) else {
        forget(ctx, protocol, &to);
        return PASS;
    };
    let Some((backend, slot)) = choose(ctx, &asked) else {
        let answer = without_backend(&asked);
        if answer == PASS {
            forget(ctx, protocol, &to);
        }
        return answer;
    };
    if protocol == IPPROTO_UDP {
        keep_former(ctx);
    }
    let mut state = SocketState::new(&key, &backend, slot);
    // SAFETY: the context is valid, and the storage's memory lives as long as the socket. A socket that connects again
    // has storage already, which then takes the new state. Without memory for it only `getpeername` is the poorer.
    unsafe {
        let stored = storage(ctx, protocol, Some(&mut state)).state;
        if !stored.is_null() {
            *stored = state;
        }
    }
    address::write(ctx, family, &backend.address(), &backend.port());
    maps::count(Counter::Translated);
    PASS
}

/// Sends a datagram for a service to the backend that the socket has for it, or to any. For sockets that name the
/// receiver, connected or not.
#[inline(always)]
pub fn sendmsg(ctx: &SockAddrContext, family: Family) -> i32 {
    let to = address::read(ctx, family);
    // What a connected socket receives is what its peer sends. A connected IPv6 socket with a v4-mapped peer comes here
    // even if it names no address; its peer may be a backend, or a service itself if it connected before there were
    // programs.
    if address::is_peer(ctx, family, &to) {
        return PASS;
    }
    let key = FrontendKey::new(to.ip, to.port, IPPROTO_UDP);
    // It names the service that it is connected to, and stays with its peer, whatever the service would choose now:
    // from another it would never receive.
    if let Some(pair) = connected_to(ctx, family, &to) {
        if let Some(asked) = asked(ctx, &key, maps::is_bypassed) {
            refresh(ctx, &asked, service::again(asked.header, found(pair.slot(), pair.backend())));
        }
        let (ip, port) = pair.backend_address();
        address::write(ctx, family, ip, port);
        maps::count(Counter::Datagram);
        return PASS;
    }
    let Some(asked) = asked(ctx, &key, maps::is_bypassed) else {
        datagrams::asked_for(ctx, &to);
        return PASS;
    };
    let former = match datagrams::of(ctx) {
        Some(state) => datagrams::former(ctx, state, &to),
        None => 0,
    };
    let again = if former == 0 { 0 } else { service::again(asked.header, former) };
    let (slot, id) = slot_and_id(again);
    let backend = match maps::backend(id) {
        Some(backend) => {
            if let Some(state) = datagrams::of(ctx) {
                datagrams::used(ctx, state, &Pair::new(&key, &backend, slot));
            }
            refresh(ctx, &asked, again);
            backend
        }
        None => {
            let Some((backend, slot)) = choose(ctx, &asked) else { return without_backend(&asked) };
            datagrams::remember(ctx, &Pair::new(&key, &backend, slot));
            backend
        }
    };
    address::write(ctx, family, &backend.address(), &backend.port());
    maps::count(Counter::Datagram);
    PASS
}

/// Shows a datagram as coming from the service that the socket asked for.
#[inline(always)]
pub fn recvmsg(ctx: &SockAddrContext, family: Family) -> i32 {
    let mut from = address::read(ctx, family);
    if let Some(pair) = connected(ctx)
        && let Some((ip, port)) = pair.service_of(&from.ip, &from.port)
    {
        address::write(ctx, family, ip, port);
    } else if let Some(state) = datagrams::of(ctx)
        && datagrams::show(ctx, state, &mut from)
    {
        address::write(ctx, family, &from.ip, &from.port);
    }
    PASS
}

/// Shows a socket the service it asked for, not the backend it got.
#[inline(always)]
pub fn getpeername(ctx: &SockAddrContext, family: Family) -> i32 {
    let mut peer = address::read(ctx, family);
    // SAFETY: the context is valid, and the storage's memory lives as long as the socket.
    let stored = unsafe { maps::cm_sockets.get_ptr_mut(ctx).as_ref() };
    if let Some(pair) = stored
        && let Some((ip, port)) = pair.service_of(&peer.ip, &peer.port)
    {
        address::write(ctx, family, ip, port);
    } else if let Some(state) = datagrams::of(ctx)
        && datagrams::show(ctx, state, &mut peer)
    {
        // It was to connect to another one, and did not.
        address::write(ctx, family, &peer.ip, &peer.port);
    }
    PASS
}

/// The service of an address, unless it passes untouched. `is_ours`: the caller is the agent.
#[inline(always)]
fn asked(
    ctx: &SockAddrContext,
    key: &FrontendKey,
    is_ours: impl FnOnce() -> bool,
) -> Option<Asked> {
    let index = maps::service(key)?;
    let (header, settings) = maps::entry(index)?;
    if is_ours() {
        return None;
    }
    let local_state = maps::local_state();
    let is_left_to_others = settings.is_plain() && local_state & LOCAL_PLAIN_PASSES != 0;
    if is_left_to_others || maps::is_unbalanced(ctx, local_state) {
        maps::count(Counter::Passed);
        return None;
    }
    Some(Asked { index, header, settings, local_state })
}

/// A backend of the service, and the slot that named it.
#[inline(always)]
fn choose(ctx: &SockAddrContext, asked: &Asked) -> Option<(Backend, u32)> {
    // The entry of a chosen id may be freed before it is copied; it takes two in a row to miss a backend that exists.
    for _ in 0..2 {
        let chosen = match asked.settings.session_affinity_seconds() {
            0 => service::choose(asked.header),
            timeout => affinity::cm_choose_again(
                maps::netns(ctx),
                asked.index,
                asked.header.to_word(),
                timeout,
            ),
        };
        let (slot, id) = slot_and_id(chosen);
        if let Some(backend) = maps::backend(id) {
            return Some((backend, slot));
        }
    }
    None
}

/// The client has used a backend once more, which the service would choose now (0: it would not).
#[inline(always)]
fn refresh(ctx: &SockAddrContext, asked: &Asked, again: u64) {
    if again != 0 && asked.settings.session_affinity_seconds() != 0 {
        affinity::cm_refresh(maps::netns(ctx), asked.index, again);
    }
}

/// A service without a backend is refused, as kube-proxy does, if it is certain that it has none.
#[inline(always)]
fn without_backend(asked: &Asked) -> i32 {
    if asked.settings.passes_if_empty() || asked.local_state & LOCAL_UNSYNCED != 0 {
        maps::count(Counter::Passed);
        return PASS;
    }
    maps::count(Counter::NoBackend);
    // SAFETY: the helper has no preconditions; `connect` and `sendmsg` hooks may call it.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

/// The service that a UDP socket is connected to, if it is.
#[inline(always)]
fn connected<'a>(ctx: &SockAddrContext) -> Option<&'a SocketState> {
    if !address::is_connected(ctx) {
        return None;
    }
    // SAFETY: the storage's memory lives as long as the socket.
    unsafe { maps::cm_sockets.get_ptr_mut(ctx).as_ref() }
}

/// What a connected UDP socket has for the service that it is connected to, if that is this one.
#[inline(always)]
fn connected_to<'a>(ctx: &SockAddrContext, family: Family, to: &Address) -> Option<&'a Pair> {
    if let Some(pair) = connected(ctx).filter(|pair| pair.is_service(&to.ip, &to.port)) {
        return Some(pair);
    }
    // A connect that failed left the socket where it was, and the other service in its storage.
    let pair = datagrams::of(ctx)?.to_service(&to.ip, &to.port)?;
    let (ip, port) = pair.backend_address();
    address::is_peer(ctx, family, &Address { ip: *ip, port: *port }).then_some(pair)
}

/// A connected UDP socket connects to another address: late datagrams of its former peer are still shown as before, and
/// so is the peer if the connect fails.
#[inline(always)]
fn keep_former(ctx: &SockAddrContext) {
    if let Some(pair) = connected(ctx)
        && pair.is_some()
    {
        datagrams::remember(ctx, pair);
    }
}

/// The socket asks for an address that is no service's: datagrams from there are not shown as those of an earlier
/// service.
#[inline(always)]
fn forget(ctx: &SockAddrContext, protocol: u8, to: &Address) {
    if protocol == IPPROTO_UDP {
        keep_former(ctx);
        datagrams::asked_for(ctx, to);
    }
    let Storage { state, is_joining } = storage(ctx, protocol, None);
    // A further subflow of MPTCP asks for the backend itself, or another address of its: the socket above it is connected to
    // the service still.
    if !state.is_null() && !is_joining {
        // SAFETY: not null, and the storage's memory lives as long as the socket.
        unsafe { *state = SocketState::default() };
    }
}

/// Where a socket's state is.
struct Storage {
    /// Null where there is none.
    state: *mut SocketState,
    /// The socket is a further subflow of MPTCP: the socket above it, whose state this is, is connected already.
    is_joining: bool,
}

/// The storage of the socket that the caller has; with a state made where it is missing. A subflow of MPTCP, whose connect
/// the hook sees, is the kernel's: `getpeername` is asked of the socket above it.
#[inline(always)]
fn storage(ctx: &SockAddrContext, protocol: u8, state: Option<&mut SocketState>) -> Storage {
    let (value, flags) = match state {
        Some(state) => (core::ptr::from_mut(state), BPF_SK_STORAGE_GET_F_CREATE),
        None => (core::ptr::null_mut(), 0),
    };
    let map = (&raw const maps::cm_sockets).cast_mut().cast();
    // SAFETY: the context and its socket are valid, the map holds values of this type, and the value is one or null.
    unsafe {
        let sock = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if protocol == IPPROTO_TCP && maps::has_mptcp() {
            let above = bpf_skc_to_mptcp_sock(sock.cast());
            if !above.is_null() {
                let state = bpf_sk_storage_get(map, above.cast(), value.cast(), flags.into());
                let above = core::ptr::read_volatile(above.cast::<u8>().add(STATE_AT));
                return Storage { state: state.cast(), is_joining: above == ESTABLISHED };
            }
        }
        let state = bpf_sk_storage_get(map, sock.cast(), value.cast(), flags.into());
        Storage { state: state.cast(), is_joining: false }
    }
}

/// The protocol of the hook's socket, if services have it.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: the kernel gives the hook a valid context.
    match unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).protocol) } as u8 {
        IPPROTO_TCP => Some(IPPROTO_TCP),
        IPPROTO_UDP => Some(IPPROTO_UDP),
        _ => None,
    }
}
