//! The tables, and how they are read while user space writes them.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::btf_map,
};
use mesh_layout::policy::{
    FlowEntry, FlowKey, FragmentHead, FragmentKey, Place, PolicyEndpoint, PortName, RANGE_KEY_BITS,
    Range, RangeKey, RowBits, RuleWords, SECRET_WORDS, STATE_EPOCH, STATE_FLAGS, STATE_WORDS,
    SetHeader,
    sizes::{ENDPOINTS, FLOWS, FRAGMENTS, HOST, PLACES, PORT_NAMES, RANGES, ROWS, RULES, SETS},
};

use crate::work::Work;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// By address, v4 as v4-mapped: the index of its place.
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_ipcache: HashMap<[u8; 16], u32, PLACES> = HashMap::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_places: Array<Place, PLACES, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_cidr: LpmTrie<RangeKey, Range, RANGES> = LpmTrie::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_rows: Array<RowBits, ROWS, MMAPABLE> = Array::new();
/// The node's own addresses, each with the row of the host.
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_host: HashMap<[u8; 16], u32, HOST> = HashMap::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_port_names: HashMap<PortName, u32, PORT_NAMES> = HashMap::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_sets: Array<u64, SETS, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_rules: Array<[u64; 2], RULES, MMAPABLE> = Array::new();
/// By an interface's index: the number of its pod.
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_interfaces: HashMap<u32, u32, ENDPOINTS> = HashMap::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_endpoints: Array<PolicyEndpoint, ENDPOINTS, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_policy_state: Array<u64, STATE_WORDS, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_flows: LruHashMap<FlowKey, FlowEntry, FLOWS> = LruHashMap::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_flow_secret: Array<u64, { SECRET_WORDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
#[allow(non_upper_case_globals)]
static cm_fragments: LruHashMap<FragmentKey, FragmentHead, FRAGMENTS> = LruHashMap::new();

#[btf_map]
#[allow(non_upper_case_globals)]
static cm_policy_work: PerCpuArray<Work, 1> = PerCpuArray::new();

/// Set when the programs are loaded: the pod's number is in the packet's control buffer, and the verdict is written there.
/// For programs that are run by `BPF_PROG_TEST_RUN`.
#[unsafe(no_mangle)]
static REPORTS: u32 = 0;

/// Whether the pod's number is in the control buffer.
#[inline(always)]
pub fn reports() -> bool {
    // SAFETY: the loader set it; user space does not change it afterwards.
    unsafe { core::ptr::read_volatile(&raw const REPORTS) != 0 }
}

/// The time, in nanoseconds: some milliseconds old, which costs a tenth of the exact one.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// What this run works on. Programs at these hooks do not interrupt each other on a processor.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: the map's memory outlives the program, and is this processor's.
    cm_policy_work.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// The pod behind an interface.
#[inline(always)]
pub fn endpoint_at(interface: u32) -> Option<u32> {
    let number = cm_interfaces.get_ptr(interface)?;
    // SAFETY: the entry's memory stays mapped for the program's run; one aligned load cannot tear.
    Some(unsafe { core::ptr::read_volatile(number) })
}

/// The sets of a pod.
#[inline(always)]
pub fn endpoint(number: u32) -> Option<PolicyEndpoint> {
    let entry = cm_endpoints.get_ptr(number)?.cast::<u32>();
    // SAFETY: an entry has two words, and array memory is never freed under a program; aligned loads cannot tear.
    let [egress, ingress] =
        unsafe { [core::ptr::read_volatile(entry), core::ptr::read_volatile(entry.add(1))] };
    Some(PolicyEndpoint { egress, ingress })
}

#[inline(always)]
fn state(word: u32) -> u64 {
    match cm_policy_state.get_ptr(word) {
        // SAFETY: array memory is never freed under a program; one aligned load cannot tear.
        Some(word) => unsafe { core::ptr::read_volatile(word) },
        None => 0,
    }
}

/// The epoch of flows.
#[inline(always)]
pub fn epoch() -> u32 {
    state(STATE_EPOCH) as u32
}

/// How policies are meant, in bits.
#[inline(always)]
pub fn flags() -> u64 {
    state(STATE_FLAGS)
}

/// What flows' checks are made with.
#[inline(always)]
pub fn secret() -> [u64; SECRET_WORDS as usize] {
    let word = |at| match cm_flow_secret.get_ptr(at) {
        // SAFETY: array memory is never freed under a program; one aligned load cannot tear.
        Some(word) => unsafe { core::ptr::read_volatile(word) },
        None => 0,
    };
    [word(0), word(1), word(2), word(3), word(4), word(5)]
}

/// The row of the host, if this is an address of it.
#[inline(always)]
pub fn host_row(address: &[u8; 16]) -> Option<u32> {
    let row = cm_host.get_ptr(address)?;
    // SAFETY: the entry's memory stays mapped for the program's run; one aligned load cannot tear.
    Some(unsafe { core::ptr::read_volatile(row) })
}

/// The index of an address's place and the place. The value of the hash may be recycled while it is read, and so may the
/// place: one that has another address is looked up once more, then it is as if there were none.
#[inline(always)]
pub fn place(address: &[u8; 16]) -> Option<(u32, Place)> {
    for _ in 0..2 {
        let index = cm_ipcache.get_ptr(address)?;
        // SAFETY: the entry's memory stays mapped for the program's run; any bytes are an index.
        let index = unsafe { core::ptr::read_volatile(index) };
        if let Some(place) = place_at(index, address) {
            return Some((index, place));
        }
    }
    None
}

/// The place at an index, if it is that of this address before and after it is read.
///
/// Where a processor may reorder loads (arm64) the comparison is not enough, and programs have no barrier for loads: there
/// the writer ensures it, as it leaves an index alone for a second between two addresses.
#[inline(always)]
pub fn place_at(index: u32, address: &[u8; 16]) -> Option<Place> {
    let words = cm_places.get_ptr(index)?.cast::<u64>();
    let wanted = halves(address);
    // SAFETY: a place has four words, and array memory is never freed under a program; each word is one aligned load.
    let [before, body, after] = unsafe {
        let read = |at| core::ptr::read_volatile(words.add(at));
        let before = [read(0), read(1)];
        let body = [read(2), read(3)];
        [before, body, [read(0), read(1)]]
    };
    if before != wanted || after != wanted {
        return None;
    }
    Some(Place {
        address: *address,
        identity: body[0] as u32,
        row: (body[0] >> 32) as u32,
        ports: body[1] as u32,
        owner: (body[1] >> 32) as u32,
    })
}

#[inline(always)]
fn halves(address: &[u8; 16]) -> [u64; 2] {
    // SAFETY: sixteen bytes are two words, wherever they are.
    unsafe { core::ptr::read_unaligned(address.as_ptr().cast()) }
}

/// The longest range that an address is in.
#[inline(always)]
pub fn range(address: &[u8; 16], v6: bool) -> Option<Range> {
    let family = if v6 { 6 } else { 4 };
    let key = RangeKey { family: [family; 4], address: *address };
    // A value is written once, with its node.
    cm_cidr.get(&Key::new(RANGE_KEY_BITS + 128, key)).copied()
}

/// Whether a selector is in a row.
#[inline(always)]
pub fn row_has(row: u32, selector: u16) -> bool {
    let Some(words) = cm_rows.get_ptr(row) else { return false };
    let at = usize::from(selector >> 6) & 31;
    // SAFETY: a row has 32 words, and array memory is never freed under a program; one aligned load cannot tear.
    let word = unsafe { core::ptr::read_volatile(words.cast::<u64>().add(at)) };
    word >> (selector & 63) & 1 != 0
}

/// Whether a class of ports has a port of this name. A class is written before anything has it, and a key that stays is
/// always found.
#[inline(always)]
pub fn has_port(name: &PortName) -> bool {
    cm_port_names.get_ptr(name).is_some()
}

/// A set.
#[inline(always)]
pub fn set(number: u32) -> Option<SetHeader> {
    let word = cm_sets.get_ptr(number)?;
    // SAFETY: array memory is never freed under a program; one aligned load cannot tear.
    Some(SetHeader::from_word(unsafe { core::ptr::read_volatile(word) }))
}

/// A rule.
#[inline(always)]
pub fn rule(index: u32) -> Option<RuleWords> {
    let words = cm_rules.get_ptr(index)?.cast::<u64>();
    // SAFETY: a rule has two words, and array memory is never freed under a program. A rule is not written while a set
    // that a pod has leads to it.
    let words =
        unsafe { [core::ptr::read_volatile(words), core::ptr::read_volatile(words.add(1))] };
    Some(RuleWords(words))
}

/// An entry of a flow.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<*mut FlowEntry> {
    cm_flows.get_ptr_mut(key)
}

/// Remembers a flow. Where the table is full of newer ones one is forgotten.
#[inline(always)]
pub fn set_flow(key: &FlowKey, entry: &FlowEntry) {
    let _ = cm_flows.insert(key, entry, BPF_ANY.into());
}

/// Forgets a flow.
#[inline(always)]
pub fn remove_flow(key: &FlowKey) {
    let _ = cm_flows.remove(key);
}

/// The first fragment of a packet, if it was allowed.
#[inline(always)]
pub fn fragment(key: &FragmentKey) -> Option<FragmentHead> {
    let words = cm_fragments.get_ptr(key)?.cast::<u64>();
    // SAFETY: the entry's memory stays mapped for the program's run, and any bytes are a head.
    let [seen, by] =
        unsafe { [core::ptr::read_volatile(words), core::ptr::read_volatile(words.add(1))] };
    Some(FragmentHead { seen, by })
}

/// Remembers that the first fragment was allowed.
#[inline(always)]
pub fn set_fragment(key: &FragmentKey, head: &FragmentHead) {
    let _ = cm_fragments.insert(key, head, BPF_ANY.into());
}
