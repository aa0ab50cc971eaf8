//! From a frontend to its slots: the service, its header or groups of headers, and its settings.

use crate::fnv;

/// The key of `cm_services`: what a client connects to.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    address: [u8; 16],
    port: [u8; 2],
    protocol: u8,
    zero: u8,
}

/// The value of `cm_services`: which service it is, and whose value this is. Read and written as one `u64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceRef {
    index: u32,
    tag: u32,
}

/// The location of slots. Read and written as one `u64`: of a service of one group, the first word of its entry in
/// `cm_headers`; of a service of several, one of those in its [`GroupSet`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    base: u32,
    count: u32,
}

/// The second word of an entry of `cm_headers`: the service's settings. Read and written as one `u64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    session_affinity_seconds: u32,
    flags: u32,
}

/// An entry of `cm_headers`, by service index. Each of the two is one store.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    header: Header,
    settings: Settings,
}

/// An entry of `cm_groups`: the groups of a service that has several. A reader draws a number below the last of
/// `cumulative`, which is the total, and takes the first group whose `cumulative` is above it. Each word of `cumulative`
/// and each header is one store: a reader that meets a mix of old and new draws by other shares for that moment, and
/// never finds a backend of another service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupSet {
    cumulative: [u32; GROUPS_OF_A_SERVICE],
    headers: [Header; GROUPS_OF_A_SERVICE],
}

/// How many groups a service can have.
pub const GROUPS_OF_A_SERVICE: usize = 8;

/// The bit of a header's count that marks its base as an index into `cm_groups`. The other bits are 0 then.
const GROUPED: u32 = 1 << 31;

/// Another proxy, if there is one, knows the service too.
const PLAIN: u32 = 1;
/// Without a backend connections pass untouched.
const PASS_IF_EMPTY: u32 = 2;

// === impl FrontendKey ===

impl FrontendKey {
    /// A key. The port is in network order; the protocol is the IP protocol number.
    #[inline(always)]
    pub const fn new(address: [u8; 16], port: [u8; 2], protocol: u8) -> Self {
        Self { address, port, protocol, zero: 0 }
    }

    /// The address, v4 as v4-mapped.
    #[inline(always)]
    pub const fn address(&self) -> [u8; 16] {
        self.address
    }

    /// The port, in network order.
    #[inline(always)]
    pub const fn port(&self) -> [u8; 2] {
        self.port
    }

    /// The IP protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The short form that a [`ServiceRef`] carries.
    #[inline(always)]
    pub const fn tag(&self) -> u32 {
        let a = &self.address;
        let mut hash = fnv(0x811c_9dc5, u32::from_ne_bytes([a[0], a[1], a[2], a[3]]));
        hash = fnv(hash, u32::from_ne_bytes([a[4], a[5], a[6], a[7]]));
        hash = fnv(hash, u32::from_ne_bytes([a[8], a[9], a[10], a[11]]));
        hash = fnv(hash, u32::from_ne_bytes([a[12], a[13], a[14], a[15]]));
        fnv(hash, u32::from_ne_bytes([self.port[0], self.port[1], self.protocol, 0]))
    }
}

// === impl ServiceRef ===

impl ServiceRef {
    /// The reference to a service from the frontend of `tag`.
    #[inline(always)]
    pub const fn new(index: u32, tag: u32) -> Self {
        Self { index, tag }
    }

    /// The service's index in `cm_headers`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// The tag of the frontend it belongs to.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        self.tag
    }
}

// === impl Header ===

impl Header {
    /// The header of a service whose `count` slots begin at `base`.
    #[inline(always)]
    pub const fn new(base: u32, count: u32) -> Self {
        Self { base, count }
    }

    /// The header of a service with groups: the slots are those of the groups in this entry of `cm_groups`.
    #[inline(always)]
    pub const fn grouped(set: u32) -> Self {
        Self { base: set, count: GROUPED }
    }

    /// The header that a word of the tables is.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let [base, count] = halves(word);
        Self { base, count }
    }

    /// The word that it is in the tables.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        whole([self.base, self.count])
    }

    /// The entry of `cm_groups` that has the slots; `None` where they are the header's own.
    #[inline(always)]
    pub const fn group_set(self) -> Option<u32> {
        if self.count & GROUPED == 0 { None } else { Some(self.base) }
    }

    /// The first slot, of a header with slots of its own.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        self.base
    }

    /// The number of slots in use, of a header with slots of its own; 0 if it leads to groups.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        if self.count & GROUPED == 0 { self.count } else { 0 }
    }
}

// === impl Settings ===

impl Settings {
    /// Settings: for how many seconds a client returns to the backend it had; whether the service is plain, and whether
    /// connections pass when it has no backend.
    #[inline(always)]
    pub const fn new(session_affinity_seconds: u32, plain: bool, pass_if_empty: bool) -> Self {
        let plain = if plain { PLAIN } else { 0 };
        let pass_if_empty = if pass_if_empty { PASS_IF_EMPTY } else { 0 };
        Self { session_affinity_seconds, flags: plain | pass_if_empty }
    }

    /// The settings that a word of the tables is. Bits that mean nothing are dropped.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let [session_affinity_seconds, flags] = halves(word);
        Self { session_affinity_seconds, flags: flags & (PLAIN | PASS_IF_EMPTY) }
    }

    /// The word that they are in the tables.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        whole([self.session_affinity_seconds, self.flags])
    }

    /// For how many seconds a client returns to the backend it had; 0: to any.
    #[inline(always)]
    pub const fn session_affinity_seconds(self) -> u32 {
        self.session_affinity_seconds
    }

    /// The service is not global: a kube-proxy, if there is one, knows it too.
    #[inline(always)]
    pub const fn is_plain(self) -> bool {
        self.flags & PLAIN != 0
    }

    /// Without a backend connections pass untouched and are not refused.
    #[inline(always)]
    pub const fn passes_if_empty(self) -> bool {
        self.flags & PASS_IF_EMPTY != 0
    }
}

// === impl ServiceEntry ===

impl ServiceEntry {
    /// An entry.
    #[inline(always)]
    pub const fn new(header: Header, settings: Settings) -> Self {
        Self { header, settings }
    }

    /// The service's header.
    #[inline(always)]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The service's settings.
    #[inline(always)]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// The word of an entry that has its header.
    pub const HEADER_WORD: usize = 0;
    /// The word of an entry that has its settings.
    pub const SETTINGS_WORD: usize = 1;
}

// === impl GroupSet ===

impl GroupSet {
    /// A set of groups.
    #[inline(always)]
    pub const fn new(
        cumulative: [u32; GROUPS_OF_A_SERVICE],
        headers: [Header; GROUPS_OF_A_SERVICE],
    ) -> Self {
        Self { cumulative, headers }
    }

    /// Of each group, the weights of it and all before it.
    #[inline(always)]
    pub const fn cumulative(&self) -> &[u32; GROUPS_OF_A_SERVICE] {
        &self.cumulative
    }

    /// Of each group, where its slots are.
    #[inline(always)]
    pub const fn headers(&self) -> &[Header; GROUPS_OF_A_SERVICE] {
        &self.headers
    }

    /// Which of an entry's `u32` words has a group's cumulative weight.
    #[inline(always)]
    pub const fn cumulative_word(group: usize) -> usize {
        group
    }

    /// Which of an entry's `u64` words has a group's header.
    #[inline(always)]
    pub const fn header_word(group: usize) -> usize {
        GROUPS_OF_A_SERVICE / 2 + group
    }
}

/// Two words as the eight bytes they are in memory.
#[inline(always)]
const fn whole([first, second]: [u32; 2]) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[inline(always)]
const fn halves(whole: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = whole.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::mapped;

    #[test]
    fn tags_differ() {
        let key = |last, port| FrontendKey::new(mapped([10, 0, 0, last]), [0, port], 6).tag();
        assert_ne!(key(1, 80), key(2, 80));
        assert_ne!(key(1, 80), key(1, 81));
        assert_ne!(
            FrontendKey::new([0; 16], [0, 53], 6).tag(),
            FrontendKey::new([0; 16], [0, 53], 17).tag()
        );
    }

    #[test]
    fn a_header_leads_to_slots_or_to_groups() {
        let own = Header::new(16, 3);
        assert_eq!((own.base(), own.count(), own.group_set()), (16, 3, None));
        let grouped = Header::grouped(9);
        assert_eq!((grouped.count(), grouped.group_set()), (0, Some(9)));
        for header in [own, grouped] {
            assert_eq!(Header::from_word(header.to_word()), header);
        }
        assert_eq!(own.to_word().to_ne_bytes()[..4], 16u32.to_ne_bytes());
        assert_eq!(grouped.to_word().to_ne_bytes()[4..], 0x8000_0000u32.to_ne_bytes());
    }

    #[test]
    fn settings_are_a_word() {
        let settings = Settings::new(10_800, true, false);
        assert_eq!(settings.to_word().to_ne_bytes()[..4], 10_800u32.to_ne_bytes());
        assert_eq!(settings.to_word().to_ne_bytes()[4..], 1u32.to_ne_bytes());
        assert_eq!(Settings::from_word(settings.to_word()), settings);
        let other = Settings::new(0, false, true);
        assert_eq!(other.to_word().to_ne_bytes()[4..], 2u32.to_ne_bytes());
        assert!(other.passes_if_empty() && !other.is_plain());
        assert_eq!(Settings::from_word(u64::MAX), Settings::new(u32::MAX, true, true));
    }

    /// Words of a set are where its fields are.
    #[test]
    fn words_of_groups_are_the_memory() {
        let mut set = GroupSet::default();
        set.cumulative[3] = 7;
        set.headers[5] = Header::new(64, 2);
        // SAFETY: the set is `repr(C)`, made of integers, and 96 bytes long.
        #[expect(unsafe_code, reason = "to see the memory")]
        let bytes: [u8; 96] = unsafe { core::mem::transmute(set) };
        let at = GroupSet::cumulative_word(3) * 4;
        assert_eq!(bytes[at..at + 4], 7u32.to_ne_bytes());
        let at = GroupSet::header_word(5) * 8;
        assert_eq!(bytes[at..at + 8], set.headers[5].to_word().to_ne_bytes());
    }
}
