//! A copy of the programs, with tables of its own.

use std::{path::Path, sync::atomic::Ordering};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, lpm_trie::LpmTrie},
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use mesh_layout::policy::{
    FlowDirection, FlowEntry, FlowKey, PacketVerdict, Place, PolicyEndpoint, Range, RangeKey,
    RowBits, SECRET_WORDS, STATE_EPOCH, STATE_WORDS, report,
};
use mesh_sys::MmapArray;

use crate::{
    error::KernelError,
    tables::{Places, Tables},
};

/// How many entries the tables of a copy have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Addresses of the mesh.
    pub places: u32,
    /// What policies tell apart.
    pub rows: u32,
    /// Ranges.
    pub ranges: u32,
    /// Sets.
    pub sets: u32,
    /// Rules of all sets.
    pub rules: u32,
    /// Named ports.
    pub port_names: u32,
    /// Pods, and addresses of one node.
    pub endpoints: u32,
}

/// Programs that were loaded for being asked, and their tables.
#[derive(Debug)]
pub struct Copy {
    /// The programs.
    pub programs: Asked,
    /// Their tables.
    pub tables: Tables,
}

/// Programs that were loaded for being asked.
#[derive(Debug)]
pub struct Asked {
    ebpf: Ebpf,
    /// The flows that they allowed.
    pub flows: HashMap<MapData, FlowKey, FlowEntry>,
    sizes: Sizes,
}

/// What a program decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// It goes on; else it is dropped.
    pub passes: bool,
    /// Why.
    pub verdict: PacketVerdict,
    /// The position of the rule in the set.
    pub rule: Option<usize>,
    /// The identity at the other end, if it has a place.
    pub identity: u32,
}

pub(crate) const EGRESS: &str = "cm_judge_egress";
pub(crate) const INGRESS: &str = "cm_judge_ingress";
/// Bytes of `__sk_buff` up to and with `cb`, which is all that programs read and write.
const CONTEXT: usize = 192;
/// Where in it is what they are told and tell (linux/bpf.h).
const INGRESS_INTERFACE: usize = 36;
const CONTROL: usize = 48;
/// `TCX_DROP` (linux/bpf.h).
const DROP: u32 = 2;

// === impl Sizes ===

impl Sizes {
    /// Of a node: some thirty megabytes, beside those of flows.
    pub const NODE: Self = Self {
        places: 262_144,
        rows: 16_384,
        ranges: 16_384,
        sets: 1_024,
        rules: 65_536,
        port_names: 4_096,
        endpoints: 1_024,
    };

    /// Large enough for both.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            places: self.places.max(other.places),
            rows: self.rows.max(other.rows),
            ranges: self.ranges.max(other.ranges),
            sets: self.sets.max(other.sets),
            rules: self.rules.max(other.rules),
            port_names: self.port_names.max(other.port_names),
            endpoints: self.endpoints.max(other.endpoints),
        }
    }
}

impl Default for Sizes {
    /// Enough for a folder of examples.
    fn default() -> Self {
        Self {
            places: 256,
            rows: 256,
            ranges: 256,
            sets: 256,
            rules: 4_096,
            port_names: 256,
            endpoints: 256,
        }
    }
}

// === impl Copy ===

impl Copy {
    /// Loads one, with empty tables.
    pub fn load(sizes: Sizes) -> Result<Self, KernelError> {
        Self::load_flows(sizes, 4_096)
    }

    /// Loads one that can remember as many flows.
    pub fn load_flows(sizes: Sizes, flows: u32) -> Result<Self, KernelError> {
        let (mut ebpf, tables) = load(sizes, flows, Told::Reports, None)?;
        let flows = hash(&mut ebpf, "cm_flows")?;
        Ok(Self { programs: Asked { ebpf, flows, sizes }, tables })
    }
}

// === impl Asked ===

impl Asked {
    /// How large their tables are.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Has a packet judged that a pod sends, or that is sent to it. `came_in_at`: the interface on which the packet came
    /// to the node; 0: it was made there.
    pub fn judge(
        &mut self,
        direction: FlowDirection,
        endpoint: u32,
        came_in_at: u32,
        packet: &[u8],
    ) -> Result<Judged, KernelError> {
        let program = name(direction);
        let mut context = [0u8; CONTEXT];
        put(&mut context, INGRESS_INTERFACE, came_in_at);
        put(&mut context, CONTROL + 4 * report::ENDPOINT, endpoint);
        let mut answer = [0u8; CONTEXT];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut answer);
        let run = find(&mut self.ebpf, program)?.test_run(options);
        let run = run.map_err(|source| KernelError::Program { program, source })?;
        let word = |at: usize| get(&answer, CONTROL + 4 * at);
        let answer = word(report::VERDICT);
        let verdict = verdict(answer).ok_or(KernelError::Answer { program, answer })?;
        let rule = usize::try_from(word(report::RULE)).unwrap_or_default().checked_sub(1);
        let identity = word(report::IDENTITY);
        Ok(Judged { passes: run.return_value != DROP, verdict, rule, identity })
    }

    /// Has the same packet judged many times, and returns the nanoseconds of one run, as the kernel measured them.
    pub fn time(
        &mut self,
        direction: FlowDirection,
        endpoint: u32,
        packet: &[u8],
        times: u32,
    ) -> Result<u64, KernelError> {
        let program = name(direction);
        let mut context = [0u8; CONTEXT];
        put(&mut context, CONTROL + 4 * report::ENDPOINT, endpoint);
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.ctx_in = Some(&context);
        options.repeat = times;
        let run = find(&mut self.ebpf, program)?.test_run(options);
        let run = run.map_err(|source| KernelError::Program { program, source })?;
        Ok(u64::try_from(run.duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Whether programs are told of their pod in the packet's control buffer, and tell there what they decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// They do: to be asked.
    Reports,
    /// They know it by the interface: for a node.
    Nothing,
}

/// Loads programs onto tables of their own.
///
/// `kept`: the folder in which what flows there are is pinned, and is used again.
pub(crate) fn load(
    sizes: Sizes,
    flows: u32,
    told: Told,
    kept: Option<&Path>,
) -> Result<(Ebpf, Tables), KernelError> {
    let mut loader = EbpfLoader::new();
    for map in ["cm_flows", "cm_fragments", "cm_flow_secret"] {
        if let Some(folder) = kept {
            loader.map_pin_path(map, folder.join(map));
        }
    }
    // Nothing here depends on the kernel's own types.
    loader.btf(None);
    for (map, entries) in [
        ("cm_ipcache", sizes.places),
        ("cm_places", sizes.places),
        ("cm_cidr", sizes.ranges),
        ("cm_rows", sizes.rows),
        ("cm_host", sizes.endpoints),
        ("cm_port_names", sizes.port_names),
        ("cm_sets", sizes.sets),
        ("cm_rules", sizes.rules),
        ("cm_interfaces", sizes.endpoints),
        ("cm_endpoints", sizes.endpoints),
        ("cm_flows", flows),
        ("cm_fragments", flows.div_ceil(32).max(64)),
    ] {
        loader.map_max_entries(map, entries);
    }
    let loaded = loader
        .override_global("REPORTS", &u32::from(told == Told::Reports), true)
        .load(mesh_objects::POLICY);
    let mut ebpf = loaded.map_err(|error| match is_denied(&error) {
        true => KernelError::NotPermitted,
        false => KernelError::Load(error),
    })?;
    for program in [EGRESS, INGRESS] {
        let loaded = find(&mut ebpf, program)?.load();
        loaded.map_err(|source| KernelError::Program { program, source })?;
    }
    let state = memory(&mut ebpf, "cm_policy_state", entries(STATE_WORDS), 8)?;
    let tables = Tables {
        ipcache: hash(&mut ebpf, "cm_ipcache")?,
        places: Places::of(memory(&mut ebpf, "cm_places", sizes.places, size_of::<Place>())?),
        ranges: trie(&mut ebpf, "cm_cidr")?,
        rows: memory(&mut ebpf, "cm_rows", sizes.rows, size_of::<RowBits>())?,
        host: hash(&mut ebpf, "cm_host")?,
        port_names: hash(&mut ebpf, "cm_port_names")?,
        sets: memory(&mut ebpf, "cm_sets", sizes.sets, 8)?,
        rules: memory(&mut ebpf, "cm_rules", sizes.rules, 16)?,
        endpoints: memory(&mut ebpf, "cm_endpoints", sizes.endpoints, size_of::<PolicyEndpoint>())?,
        state,
    };
    // The lower half of a random UUID has 62 random bits.
    let random = || uuid::Uuid::new_v4().as_u64_pair().1;
    // No flow that an earlier run allowed has this epoch: it is judged anew.
    tables.set_state(STATE_EPOCH, random());
    let secret = memory(&mut ebpf, "cm_flow_secret", SECRET_WORDS, 8)?;
    for word in (0..SECRET_WORDS).filter_map(|word| secret.u64(word, 0)) {
        if word.load(Ordering::Relaxed) == 0 {
            word.store(random(), Ordering::Relaxed);
        }
    }
    Ok((ebpf, tables))
}

fn name(direction: FlowDirection) -> &'static str {
    match direction {
        FlowDirection::Egress => EGRESS,
        FlowDirection::Ingress => INGRESS,
    }
}

fn put(context: &mut [u8; CONTEXT], at: usize, word: u32) {
    if let Some(bytes) = context.get_mut(at..at + 4) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
}

fn get(context: &[u8; CONTEXT], at: usize) -> u32 {
    let bytes = context.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

fn verdict(number: u32) -> Option<PacketVerdict> {
    use PacketVerdict::*;
    [
        DefaultAllow,
        AllowRule,
        DenyRule,
        DefaultDeny,
        AllowLocalhost,
        EnforcementOff,
        SamePod,
        Flow,
        FlowError,
        Fragment,
        NotJudged,
        Malformed,
        FragmentWithoutHead,
        RouterOnly,
        UnknownEndpoint,
    ]
    .into_iter()
    .find(|one| *one as u32 == number)
}

/// Whether a load failed for want of rights.
pub fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::PermissionDenied;
        }
        source = error.source();
    }
    false
}

pub(crate) fn find<'a>(
    ebpf: &'a mut Ebpf,
    program: &'static str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let found = ebpf.program_mut(program).ok_or(KernelError::Missing(program))?;
    found.try_into().map_err(|source: ProgramError| KernelError::Program { program, source })
}

pub(crate) fn hash<K: aya::Pod, V: aya::Pod>(
    ebpf: &mut Ebpf,
    map: &'static str,
) -> Result<HashMap<MapData, K, V>, KernelError> {
    let found = ebpf.take_map(map).ok_or(KernelError::Missing(map))?;
    HashMap::try_from(found).map_err(|source| KernelError::Map { map, source })
}

fn trie(
    ebpf: &mut Ebpf,
    map: &'static str,
) -> Result<LpmTrie<MapData, RangeKey, Range>, KernelError> {
    let found = ebpf.take_map(map).ok_or(KernelError::Missing(map))?;
    LpmTrie::try_from(found).map_err(|source| KernelError::Map { map, source })
}

fn memory(
    ebpf: &mut Ebpf,
    map: &'static str,
    entries: u32,
    value: usize,
) -> Result<MmapArray, KernelError> {
    let Some(Map::Array(found)) = ebpf.take_map(map) else {
        return Err(KernelError::Missing(map));
    };
    let memory = MmapArray::new(found.fd(), entries, value);
    memory.map_err(|source| KernelError::Memory { map, source })
}

fn entries(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
