//! Lists the sockets that our programs connected to backends, for user space.
//!
//! Iterators over the TCP and the UDP sockets of a network namespace, that of the process which reads the list. They
//! run once for each socket, and write an entry for those that have something in `cm_sockets`. The kernel also has an
//! iterator over the elements of a socket storage map, in all namespaces at once; hardened kernels refuse it
//! (`docs/adr/0026`).

use aya_ebpf::{
    bindings::seq_file,
    cty::c_void,
    helpers::{bpf_get_socket_cookie, bpf_seq_write, generated::bpf_sk_storage_get},
};
use mesh_layout::{ListedSocket, SocketState};

use crate::maps;

/// The beginning of the kernel's `bpf_iter__tcp` and `bpf_iter__udp`: both have the socket in second place.
#[repr(C)]
struct Context {
    meta: *const Meta,
    socket: *mut c_void,
}

/// The beginning of the kernel's `bpf_iter_meta`.
#[repr(C)]
struct Meta {
    file: *mut seq_file,
}

/// Writes one TCP socket to the list.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn cm_list_tcp(context: *const Context) -> i32 {
    list(context)
}

/// Writes one UDP socket to the list.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
extern "C" fn cm_list_udp(context: *const Context) -> i32 {
    list(context)
}

#[inline(always)]
fn list(context: *const Context) -> i32 {
    // SAFETY: the kernel gives the iterator a valid context.
    let (file, socket) = unsafe { ((*(*context).meta).file, (*context).socket) };
    // After the last socket there is one more call, with null.
    if socket.is_null() {
        return 0;
    }
    let map = (&raw const maps::cm_sockets).cast_mut().cast();
    // SAFETY: the socket is not null, and the kernel keeps it for the time of the call. For an incomplete socket (one
    // in TIME_WAIT, or a request for a connection) the helper returns null.
    let state = unsafe { bpf_sk_storage_get(map, socket, core::ptr::null_mut(), 0) };
    // SAFETY: the storage's memory lives as long as the socket. A socket that connects meanwhile may be listed with a
    // mix of its old and new values: the reader of the list compares it with the socket's peer.
    let Some(state) = (unsafe { state.cast::<SocketState>().as_ref() }) else { return 0 };
    if !state.is_some() {
        return 0;
    }
    // SAFETY: as above.
    let listed = unsafe { ListedSocket::new(bpf_get_socket_cookie(socket), state) };
    let size = size_of::<ListedSocket>() as u32;
    // SAFETY: `listed` has `size` bytes. Where there is no room, the kernel makes room and calls again.
    unsafe { bpf_seq_write(file, (&raw const listed).cast(), size) };
    0
}
