//! The socket address under a hook, as sixteen bytes whatever its family.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    programs::SockAddrContext,
};
use mesh_layout::mapped;

/// The state of a connected socket, UDP or TCP.
const ESTABLISHED: u32 = 1;

/// The family of the hook's socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

/// An address and a port, in network order.
#[repr(C, align(8))]
pub struct Address {
    pub ip: [u8; 16],
    pub port: [u8; 2],
}

/// The address and port under the hook.
#[inline(always)]
pub fn read(ctx: &SockAddrContext, family: Family) -> Address {
    let sock: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the kernel gives the hook a valid context. Volatile, so that each field is loaded as the whole word that
    // the verifier allows. The port is the lower half of its word, in network order.
    unsafe {
        let port = core::ptr::read_volatile(&raw const (*sock).user_port) as u16;
        let ip = match family {
            Family::V4 => {
                mapped(core::ptr::read_volatile(&raw const (*sock).user_ip4).to_ne_bytes())
            }
            Family::V6 => {
                let words = &raw const (*sock).user_ip6;
                let words = words.cast::<u32>();
                let [a, b, c, d] = [
                    core::ptr::read_volatile(words),
                    core::ptr::read_volatile(words.add(1)),
                    core::ptr::read_volatile(words.add(2)),
                    core::ptr::read_volatile(words.add(3)),
                ];
                core::mem::transmute::<[u32; 4], [u8; 16]>([a, b, c, d])
            }
        };
        Address { ip, port: port.to_ne_bytes() }
    }
}

/// Whether the hook's socket is connected, UDP or TCP.
#[inline(always)]
pub fn is_connected(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid, and so is its socket; the verifier allows the field to be read as a whole word.
    unsafe {
        let sock = (*ctx.sock_addr).__bindgen_anon_1.sk;
        core::ptr::read_volatile(&raw const (*sock).state) == ESTABLISHED
    }
}

/// Whether an address and a port are those that the hook's socket is connected to.
#[inline(always)]
pub fn is_peer(ctx: &SockAddrContext, family: Family, address: &Address) -> bool {
    if !is_connected(ctx) {
        return false;
    }
    // SAFETY: as in `is_connected`. The port is in network order.
    unsafe {
        let sock: *const bpf_sock = (*ctx.sock_addr).__bindgen_anon_1.sk;
        let [a, b, c, d] = core::mem::transmute::<[u8; 16], [u32; 4]>(address.ip);
        let other = match family {
            Family::V4 => d ^ core::ptr::read_volatile(&raw const (*sock).dst_ip4),
            Family::V6 => {
                let words = (&raw const (*sock).dst_ip6).cast::<u32>();
                (a ^ core::ptr::read_volatile(words))
                    | (b ^ core::ptr::read_volatile(words.add(1)))
                    | (c ^ core::ptr::read_volatile(words.add(2)))
                    | (d ^ core::ptr::read_volatile(words.add(3)))
            }
        };
        let port = core::ptr::read_volatile((&raw const (*sock).dst_port).cast::<u16>());
        other | u32::from(port ^ u16::from_ne_bytes(address.port)) == 0
    }
}

/// Replaces the address and port under the hook. A v4 hook takes a v4-mapped address.
#[inline(always)]
pub fn write(ctx: &SockAddrContext, family: Family, ip: &[u8; 16], port: &[u8; 2]) {
    let sock = ctx.sock_addr;
    // SAFETY: as in `read`; the verifier allows these fields to be written as whole words.
    unsafe {
        let [a, b, c, d] = core::mem::transmute::<[u8; 16], [u32; 4]>(*ip);
        match family {
            Family::V4 => core::ptr::write_volatile(&raw mut (*sock).user_ip4, d),
            Family::V6 => {
                let words = (&raw mut (*sock).user_ip6).cast::<u32>();
                core::ptr::write_volatile(words, a);
                core::ptr::write_volatile(words.add(1), b);
                core::ptr::write_volatile(words.add(2), c);
                core::ptr::write_volatile(words.add(3), d);
            }
        }
        core::ptr::write_volatile(&raw mut (*sock).user_port, u32::from(u16::from_ne_bytes(*port)));
    }
}
