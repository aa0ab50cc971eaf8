//! Lists the sockets that our programs connected to backends, for user space.
//!
//! An iterator over what sockets keep in `cm_sockets`: it runs when somebody reads its file, once for each socket that has
//! something there, in whatever network namespace. The kernel lists sockets by itself too, and says what they keep, but
//! not of UDP sockets.

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_get_socket_cookie, bpf_seq_write},
};
use mesh_layout::{ListedSocket, SocketState};

/// The kernel's `bpf_iter__bpf_sk_storage_map`.
#[repr(C)]
struct Context {
    meta: *const Meta,
    map: *const c_void,
    socket: *mut c_void,
    /// What the socket keeps.
    value: *const SocketState,
}

/// The beginning of the kernel's `bpf_iter_meta`.
#[repr(C)]
struct Meta {
    file: *mut aya_ebpf::bindings::seq_file,
}

/// Writes one socket to the list.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn cm_list_sockets(context: *const Context) -> i32 {
    // SAFETY: the kernel gives the iterator a valid context.
    let (file, socket, value) =
        unsafe { ((*(*context).meta).file, (*context).socket, (*context).value) };
    // After the last socket there is one more call, without one.
    if socket.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: neither is null, and the kernel keeps both for the time of the call. A socket that connects meanwhile may
    // be listed as half of what it was and half of what it is: who reads the list compares it with the socket's peer.
    let listed = unsafe { ListedSocket::new(bpf_get_socket_cookie(socket), &*value) };
    let size = size_of::<ListedSocket>() as u32;
    // SAFETY: `listed` has `size` bytes. Where there is no room, the kernel makes room and calls again.
    unsafe { bpf_seq_write(file, (&raw const listed).cast(), size) };
    0
}
