//! The tables, and how they are read while user space writes them.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, SkStorage},
    helpers::{bpf_get_current_cgroup_id, generated::bpf_get_netns_cookie},
    macros::btf_map,
    programs::SockAddrContext,
};
use mesh_layout::{
    Affinity, AffinityKey, Backend, Counter, DatagramState, FrontendKey, GroupSet, Header,
    LOCAL_HAS_UNBALANCED, LOCAL_STATE, OverflowKey, OverflowPair, PEER_CUT, Pair, ServiceEntry,
    ServiceRef, Settings, SlotPair, SocketState,
    default_sizes::{
        AFFINITIES, BACKENDS, BYPASSED, COUNTERS, GROUPS, PEERS, SERVICES, SLOTS, UDP_OVERFLOW,
        UNBALANCED,
    },
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
#[allow(non_upper_case_globals)]
static cm_services: HashMap<FrontendKey, ServiceRef, SERVICES> = HashMap::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_headers: Array<ServiceEntry, SERVICES, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_groups: Array<GroupSet, GROUPS, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_slots: Array<SlotPair, { SLOTS / 2 }, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_backends: Array<Backend, BACKENDS, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_peer_state: Array<u32, PEERS, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_affinity: LruHashMap<AffinityKey, Affinity, AFFINITIES> = LruHashMap::new();
/// By a network namespace's cookie: whose sockets pass untouched.
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_unbalanced: HashMap<u64, u32, UNBALANCED> = HashMap::new();
#[btf_map]
#[allow(non_upper_case_globals)]
pub static cm_sockets: SkStorage<SocketState> = SkStorage::new();
#[btf_map]
#[allow(non_upper_case_globals)]
pub static cm_datagrams: SkStorage<DatagramState> = SkStorage::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_udp_overflow: LruHashMap<OverflowKey, OverflowPair, UDP_OVERFLOW> = LruHashMap::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_counters: PerCpuArray<u64, COUNTERS> = PerCpuArray::new();
/// Ids of cgroups whose sockets pass untouched, then zeros: an array, because looking at one entry costs less than hashing.
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_bypass: Array<[u64; BYPASSED], 1> = Array::new();

/// The number of backends minus one, set when the programs are loaded: a backend is at its id's low bits.
#[unsafe(no_mangle)]
static BACKEND_MASK: u32 = (BACKENDS - 1) as u32;

/// Whether this kernel has MPTCP, set when the programs are loaded: else it does not know the helper for it, and drops what
/// depends on this.
#[unsafe(no_mangle)]
static HAS_MPTCP: u32 = 1;

/// Whether this kernel has MPTCP.
#[inline(always)]
pub fn has_mptcp() -> bool {
    // SAFETY: the loader set it; user space does not change it afterwards.
    unsafe { core::ptr::read_volatile(&raw const HAS_MPTCP) != 0 }
}

/// Counts on this processor.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(count) = cm_counters.get_ptr_mut(counter as u32) {
        // SAFETY: the map's memory outlives the program. One instruction, because another process may take the processor
        // in between and count here too; the target has no atomics in Rust.
        unsafe {
            asm!("lock *(u64 *)({count} + 0) += {one}", count = in(reg) count, one = in(reg) 1u64)
        };
    }
}

/// Whether the calling process is in a cgroup whose sockets are none of ours.
#[inline(always)]
pub fn is_bypassed() -> bool {
    let Some(bypassed) = cm_bypass.get_ptr(0) else { return false };
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    for at in 0..BYPASSED {
        // SAFETY: the entry has as many words, and array memory is never freed under a program; one aligned load cannot
        // tear.
        match unsafe { core::ptr::read_volatile(bypassed.cast::<u64>().add(at)) } {
            0 => return false,
            id if id == cgroup => return true,
            _ => {}
        }
    }
    false
}

/// The service that a frontend leads to. A hash entry may be recycled while it is read: if it carries another tag or is
/// missing, it is looked up once more.
#[inline(always)]
pub fn service(key: &FrontendKey) -> Option<u32> {
    let tag = key.tag();
    for _ in 0..2 {
        if let Some(value) = cm_services.get_ptr(key) {
            // SAFETY: the entry's memory stays mapped for the program's run; one aligned load cannot tear.
            let value: ServiceRef =
                unsafe { core::mem::transmute(core::ptr::read_volatile(value.cast::<u64>())) };
            if value.tag() == tag {
                return Some(value.index());
            }
            count(Counter::Retried);
        }
    }
    None
}

/// Where a service's slots are, and what it is like.
#[inline(always)]
pub fn entry(service: u32) -> Option<(Header, Settings)> {
    let words = cm_headers.get_ptr(service)?.cast::<u64>();
    // SAFETY: an entry has two words, and array memory is never freed under a program; one aligned load cannot tear.
    let [header, settings] = unsafe {
        [
            core::ptr::read_volatile(words.add(ServiceEntry::HEADER_WORD)),
            core::ptr::read_volatile(words.add(ServiceEntry::SETTINGS_WORD)),
        ]
    };
    Some((Header::from_word(header), Settings::from_word(settings)))
}

/// The groups of a service that has several.
#[derive(Clone, Copy)]
pub struct Groups(*const GroupSet);

impl Groups {
    /// Those in an entry of `cm_groups`.
    #[inline(always)]
    pub fn of(set: u32) -> Option<Self> {
        cm_groups.get_ptr(set).map(Self)
    }

    /// The weights of a group and all before it.
    #[inline(always)]
    pub fn cumulative(self, group: usize) -> u32 {
        let words = self.0.cast::<u32>();
        let at = GroupSet::cumulative_word(group);
        // SAFETY: callers count groups up to their number, which the verifier sees; array memory is never freed under a
        // program; one aligned load cannot tear.
        unsafe { core::ptr::read_volatile(words.add(at)) }
    }

    /// Where a group's slots are.
    #[inline(always)]
    pub fn header(self, group: usize) -> Header {
        let words = self.0.cast::<u64>();
        // SAFETY: as in `cumulative`.
        Header::from_word(unsafe {
            core::ptr::read_volatile(words.add(GroupSet::header_word(group)))
        })
    }
}

/// The backend id in a slot.
#[inline(always)]
pub fn slot(index: u32) -> Option<u32> {
    let pair = cm_slots.get_ptr(index / 2)?.cast::<u32>();
    // SAFETY: a pair has two words, and array memory is never freed under a program.
    Some(unsafe {
        core::ptr::read_volatile(if index.is_multiple_of(2) { pair } else { pair.add(1) })
    })
}

/// The entry of the backend of an ID, if there is one.
#[inline(always)]
fn backend_entry(id: u32) -> Option<*const Backend> {
    // SAFETY: the loader set it; user space does not change it afterwards.
    let mask = unsafe { core::ptr::read_volatile(&raw const BACKEND_MASK) };
    cm_backends.get_ptr(id & mask)
}

/// The cluster of the backend of an id, unless its entry is free or has become another's.
#[inline(always)]
pub fn cluster_of(id: u32) -> Option<u16> {
    let entry = backend_entry(id)?;
    // SAFETY: array memory is never freed under a program; one aligned load of id, cluster and port cannot tear.
    let head = unsafe { core::ptr::read_volatile(entry.cast::<u64>()) };
    (id != 0 && head as u32 == id).then_some((head >> 32) as u16)
}

/// The backend of an id, unless its entry is free or has become another's.
#[inline(always)]
pub fn backend(id: u32) -> Option<Backend> {
    let entry = backend_entry(id)?;
    // SAFETY: array memory is never freed under a program, and any bytes are a backend. The writer clears the ID before
    // it writes the rest and sets it afterwards, so equal IDs around the copy mean that the copy is complete. Where the
    // processor may reorder loads (arm64), that is not enough, and BPF has no barrier for loads: there the writer
    // ensures it, by leaving an entry alone for a second between two IDs.
    let (copy, after): (Backend, u32) = unsafe {
        (
            core::mem::transmute::<[u64; 4], Backend>(core::ptr::read_volatile(entry.cast())),
            core::ptr::read_volatile(entry.cast()),
        )
    };
    (id != 0 && copy.id() == id && after == id).then_some(copy)
}

/// Whether a cluster is out of use.
#[inline(always)]
pub fn is_cut(cluster: u16) -> bool {
    peer_state(u32::from(cluster)) == PEER_CUT
}

/// What the node itself is like, in bits.
#[inline(always)]
pub fn local_state() -> u32 {
    peer_state(LOCAL_STATE)
}

#[inline(always)]
fn peer_state(index: u32) -> u32 {
    match cm_peer_state.get_ptr(index) {
        // SAFETY: array memory is never freed under a program; one aligned load cannot tear.
        Some(state) => unsafe { core::ptr::read_volatile(state) },
        None => 0,
    }
}

/// The network namespace of the hook's socket: which pod it is.
#[inline(always)]
pub fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Whether the hook's socket is of a pod whose sockets pass untouched.
#[inline(always)]
pub fn is_unbalanced(ctx: &SockAddrContext, local_state: u32) -> bool {
    local_state & LOCAL_HAS_UNBALANCED != 0 && cm_unbalanced.get_ptr(netns(ctx)).is_some()
}

/// What a client had last. It may be another client's, and torn, for the moment in which its entry is recycled: the
/// backend is used only if the service has it. A miss is looked up once more.
#[inline(always)]
pub fn affinity(client: &AffinityKey) -> Option<Affinity> {
    let entry = cm_affinity.get_ptr(client).or_else(|| cm_affinity.get_ptr(client))?;
    // SAFETY: the entry's memory stays mapped for the program's run, and any bytes are an affinity.
    Some(unsafe {
        core::mem::transmute::<[u64; 2], Affinity>(core::ptr::read_volatile(entry.cast()))
    })
}

/// Remembers what a client has now; with `only_first` unless another processor was faster. Whether it was remembered.
#[inline(always)]
pub fn set_affinity(client: &AffinityKey, affinity: Affinity, only_first: bool) -> bool {
    let flags = if only_first { BPF_NOEXIST } else { BPF_ANY };
    cm_affinity.insert(client, affinity, flags.into()).is_ok()
}

/// A socket's pairs beyond its storage. An entry may be recycled while it is copied: if it is another's or missing, it
/// is looked up once more.
#[inline(always)]
pub fn overflow(key: &OverflowKey) -> Option<Pair> {
    for _ in 0..2 {
        if let Some(entry) = cm_udp_overflow.get_ptr(key) {
            // SAFETY: the entry's memory stays mapped for the program's run, and any bytes are a pair. Copied by words,
            // or it would be by bytes, each on the small stack.
            let copy: OverflowPair =
                unsafe { core::mem::transmute(core::ptr::read_volatile(entry.cast::<[u64; 7]>())) };
            if let Some(pair) = copy.of(key) {
                return Some(pair);
            }
        }
    }
    None
}

/// Remembers what a socket has beyond its storage. Where the table is full of newer ones it is forgotten.
#[inline(always)]
pub fn set_overflow(key: &OverflowKey, pair: &OverflowPair) {
    let _ = cm_udp_overflow.insert(key, pair, BPF_ANY.into());
}

/// Forgets it.
#[inline(always)]
pub fn remove_overflow(key: &OverflowKey) {
    let _ = cm_udp_overflow.remove(key);
}
