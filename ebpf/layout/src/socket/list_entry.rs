//! A connected socket, as it is listed for user space.

use super::SocketState;

/// One entry of the list of connected sockets that got a backend: which socket, and which backend. `cm_list_sockets`
/// writes them one after the other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListedSocket {
    cookie: u64,
    backend: u32,
    port: [u8; 2],
    zero: [u8; 2],
    address: [u8; 16],
}

const _: () = assert!(size_of::<ListedSocket>() == 32);

// === impl ListedSocket ===

impl ListedSocket {
    /// A socket, known by its cookie, and what its storage keeps.
    #[inline(always)]
    pub const fn new(cookie: u64, state: &SocketState) -> Self {
        Self {
            cookie,
            backend: state.backend,
            port: state.backend_port,
            zero: [0; 2],
            address: state.backend_address,
        }
    }

    /// The number by which the kernel knows the socket, which no other will have before the next boot.
    #[inline(always)]
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The id of the backend that it got when it connected.
    #[inline(always)]
    pub const fn backend(&self) -> u32 {
        self.backend
    }

    /// That backend's address, v4 as v4-mapped.
    #[inline(always)]
    pub const fn address(&self) -> [u8; 16] {
        self.address
    }

    /// That backend's port, in network order.
    #[inline(always)]
    pub const fn port(&self) -> [u8; 2] {
        self.port
    }

    /// An entry out of the list's bytes.
    pub const fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, address @ ..] = *bytes;
        Self {
            cookie: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            backend: u32::from_ne_bytes([i, j, k, l]),
            port: [m, n],
            zero: [o, p],
            address,
        }
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::{Backend, FrontendKey, mapped};

    #[test]
    fn bytes_are_the_memory() {
        let service = FrontendKey::new(mapped([10, 96, 0, 1]), [0, 80], 17);
        let backend = Backend::new(7, 2, mapped([10, 2, 0, 9]), [31, 144], 17);
        let listed = ListedSocket::new(0x0102, &SocketState::new(&service, &backend, 0));
        // SAFETY: without padding, and made of integers.
        #[expect(unsafe_code, reason = "the memory is what the kernel hands out")]
        let bytes = unsafe { core::mem::transmute::<ListedSocket, [u8; 32]>(listed) };
        assert_eq!(ListedSocket::from_bytes(&bytes), listed);
        assert_eq!((listed.cookie(), listed.backend()), (0x0102, 7));
        assert_eq!((listed.address(), listed.port()), (mapped([10, 2, 0, 9]), [31, 144]));
    }
}
