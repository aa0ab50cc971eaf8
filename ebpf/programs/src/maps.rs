//! The tables, and how they are read while user space writes them.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, SkStorage},
    helpers::bpf_get_current_cgroup_id,
    macros::btf_map,
};
use mesh_layout::{
    Affinity, AffinityKey, Backend, COUNTERS, Counter, DatagramState, FrontendKey, GroupSet, Header,
    OverflowKey, OverflowPair, PEER_CUT, ServiceEntry, ServiceRef, SlotPair, SocketState,
    default_sizes::{
        AFFINITIES, BACKENDS, BYPASSED, GROUPS, PEERS, SERVICES, SLOTS, UDP_OVERFLOW, UNBALANCED,
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
/// By cgroup id: whose sockets pass untouched. Written before the programs are attached and hardly ever after.
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_bypass: HashMap<u64, u32, BYPASSED> = HashMap::new();

/// The number of backends minus one, set when the programs are loaded: a backend is at its id's low bits.
#[unsafe(no_mangle)]
static BACKEND_MASK: u32 = (BACKENDS - 1) as u32;

/// Counts on this processor.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(count) = cm_counters.get_ptr_mut(counter as u32) {
        // SAFETY: the map's memory outlives the program, and no other program runs on this processor meanwhile.
        unsafe { *count += 1 }
    }
}

/// Whether the calling process is in a cgroup whose sockets are none of ours.
#[inline(always)]
pub fn is_bypassed() -> bool {
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    cm_bypass.get_ptr(cgroup).is_some()
}

/// The service that a frontend leads to. A hash entry may be recycled while it is read: what carries another tag, and
/// what is missing, is looked up once more.
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

/// Where a service's slots are.
#[inline(always)]
pub fn header(service: u32) -> Option<Header> {
    let header = cm_headers.get_ptr(service)?;
    // SAFETY: array memory is never freed under a program; one aligned load cannot tear.
    Some(unsafe { core::mem::transmute::<u64, Header>(core::ptr::read_volatile(header.cast())) })
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

/// Where the backend of an id is, if there is one.
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
    // SAFETY: array memory is never freed under a program, and any bytes are a backend. The writer clears the id
    // before it writes the rest and sets it afterwards, so equal ids around the copy mean that the copy is whole.
    let (copy, after) =
        unsafe { (core::ptr::read_volatile(entry), core::ptr::read_volatile(entry.cast::<u32>())) };
    (id != 0 && copy.id() == id && after == id).then_some(copy)
}

/// Whether a cluster is out of use.
#[inline(always)]
pub fn is_cut(cluster: u16) -> bool {
    match cm_peer_state.get_ptr(u32::from(cluster)) {
        // SAFETY: array memory is never freed under a program; one aligned load cannot tear.
        Some(state) => unsafe { core::ptr::read_volatile(state) == PEER_CUT },
        None => false,
    }
}
