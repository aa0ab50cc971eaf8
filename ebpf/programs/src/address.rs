//! The socket address under a hook, as sixteen bytes whatever its family.

use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};
use mesh_layout::mapped;

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
