//! Backends, and the slots that name them.

/// An entry of `cm_slots`: two slots, because the kernel rounds an array's elements up to eight bytes.
pub type SlotPair = [u32; 2];

/// An entry of `cm_backends`, by the low bits of its id. All but `id` is written while `id` is 0.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    id: u32,
    cluster: u16,
    port: [u8; 2],
    address: [u8; 16],
    protocol: u8,
    zero: [u8; 7],
}

// === impl Backend ===

impl Backend {
    /// A backend. Port in network order; the protocol is the IP protocol number.
    #[inline(always)]
    pub const fn new(
        id: u32,
        cluster: u16,
        address: [u8; 16],
        port: [u8; 2],
        protocol: u8,
    ) -> Self {
        Self { id, cluster, port, address, protocol, zero: [0; 7] }
    }

    /// Its id, 0 where the entry is free. Never the same for two backends that are near in time.
    #[inline(always)]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The entry as the four words that it is written and read by. The first has the id.
    pub fn to_words(&self) -> [u64; 4] {
        let Self { id, cluster, port, address, protocol, zero } = *self;
        let mut bytes = [0; 32];
        let (words, _) = bytes.as_chunks_mut::<8>();
        let [a, b] = cluster.to_ne_bytes();
        let [c, d, e, f] = id.to_ne_bytes();
        words[0] = [c, d, e, f, a, b, port[0], port[1]];
        let (halves, _) = address.as_chunks::<8>();
        words[1] = halves[0];
        words[2] = halves[1];
        let [g, h, i, j, k, l, m] = zero;
        words[3] = [protocol, g, h, i, j, k, l, m];
        [words[0], words[1], words[2], words[3]].map(u64::from_ne_bytes)
    }

    /// The entry that those words are.
    pub fn from_words(words: [u64; 4]) -> Self {
        let [first, second, third, fourth] = words.map(u64::to_ne_bytes);
        let mut address = [0; 16];
        let (halves, _) = address.as_chunks_mut::<8>();
        halves[0] = second;
        halves[1] = third;
        let [a, b, c, d, e, f, g, h] = first;
        let [protocol, zero @ ..] = fourth;
        Self {
            id: u32::from_ne_bytes([a, b, c, d]),
            cluster: u16::from_ne_bytes([e, f]),
            port: [g, h],
            address,
            protocol,
            zero,
        }
    }

    /// The same backend under another id; 0 while it is being written.
    #[inline(always)]
    pub const fn with_id(self, id: u32) -> Self {
        Self { id, ..self }
    }

    /// The cluster it is in.
    #[inline(always)]
    pub const fn cluster(&self) -> u16 {
        self.cluster
    }

    /// Its address, v4 as v4-mapped.
    #[inline(always)]
    pub const fn address(&self) -> [u8; 16] {
        self.address
    }

    /// Its port, in network order.
    #[inline(always)]
    pub const fn port(&self) -> [u8; 2] {
        self.port
    }

    /// Its IP protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::mapped;

    #[test]
    fn words_are_the_memory() {
        let backend = Backend::new(7, 2, mapped([10, 2, 0, 9]), 8080u16.to_be_bytes(), 6);
        let words = backend.to_words();
        assert_eq!(Backend::from_words(words), backend);
        assert_eq!(words[0].to_ne_bytes()[..4], 7u32.to_ne_bytes());
        assert_eq!(words[0].to_ne_bytes()[6..], 8080u16.to_be_bytes());
        assert_eq!(words[2].to_ne_bytes()[4..], [10, 2, 0, 9]);
    }
}
