//! The kernel's answer to probes of other nodes.
//!
//! A program of its own object, with maps of its own group, at the ingress of the interfaces that carry the node's
//! addresses. It outlives the agent, as the others do: a node whose agent hangs or restarts answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    net::IpAddr,
    sync::atomic::Ordering,
    time::Instant,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::SchedClassifier,
};
use mesh_backoff::{Backoff, Policy};
use mesh_layout::{
    MAPS, MapGroup, address_bytes,
    default_sizes::PROBE_ADDRESSES,
    probe::{ANSWER_TOTAL, ANSWER_WORDS},
};
use mesh_sys::{Link, MmapArray, is_ethernet, programs_at_ingress};

use crate::{
    error::{MapsError, ProgramsError},
    pinned::check_fixed,
    pins::PinRoot,
};

/// The loaded program, and where it is attached.
#[derive(Debug)]
pub struct ProbeAnswer {
    ebpf: Ebpf,
    pins: PinRoot,
    addresses: HashMap<MapData, [u8; 16], u32>,
    answers: MmapArray,
    /// What the map should have.
    wanted: BTreeMap<[u8; 16], u32>,
    interfaces: BTreeMap<u32, Interface>,
}

/// What is at an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerState {
    /// Questions that come in there are answered by the kernel.
    Answers,
    /// They may be: another program sees them first, and may keep them.
    Behind,
    /// Packets there have no Ethernet headers (a tunnel, WireGuard): the agent has to answer.
    NotEthernet,
    /// It cannot be attached there.
    Failed(String),
}

/// Why the kernel cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeAnswerError {
    /// The kernel lacks the hook.
    #[error("this kernel cannot answer probes (TCX, Linux 6.6): the agent does")]
    NoTcx,
    /// The program or its maps.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
}

/// An interface that carries an address of the node.
#[derive(Debug)]
struct Interface {
    state: AnswerState,
    /// The link's id, where there is one.
    link: Option<u32>,
    /// When to try again what was refused, or to get the first position.
    again: Instant,
    backoff: Backoff,
}

const PROGRAM: &str = "cm_probe_answer";
/// An interface that every network namespace has.
const LOOPBACK: u32 = 1;

// === impl ProbeAnswer ===

impl ProbeAnswer {
    /// Loads the program onto its pinned maps. Programs that a previous agent attached go on until
    /// [`ProbeAnswer::set_interfaces`]. The caller has the pins' lock.
    pub fn load(pins: PinRoot) -> Result<Self, ProbeAnswerError> {
        if let Err(error) = programs_at_ingress(LOOPBACK)
            && error.kind() == io::ErrorKind::InvalidInput
        {
            return Err(ProbeAnswerError::NoTcx);
        }
        Ok(Self::load_onto(pins)?)
    }

    fn load_onto(pins: PinRoot) -> Result<Self, ProgramsError> {
        let mut loader = EbpfLoader::new();
        let maps = || MAPS.iter().filter(|map| map.group == MapGroup::Health);
        for layout in maps() {
            let pin = pins.fixed_map(layout)?;
            check_fixed(&pin, layout)?;
            loader.map_pin_path(layout.name, pin);
        }
        let mut ebpf = loader.load(mesh_objects::PROBE)?;
        for layout in maps() {
            check_fixed(&pins.fixed_map(layout)?, layout)?;
        }
        let program = find(&mut ebpf)?;
        program.load().map_err(|source| ProgramsError::Program { program: PROGRAM, source })?;
        let map = "cm_probe_addresses";
        let addresses = ebpf.take_map(map).ok_or(MapsError::Missing(map))?;
        let addresses = HashMap::try_from(addresses);
        let addresses = addresses.map_err(|source| MapsError::Map { map, source })?;
        let map = "cm_probe_answers";
        let Some(Map::Array(answers)) = ebpf.take_map(map) else {
            return Err(MapsError::Missing(map).into());
        };
        let words = u32::try_from(ANSWER_WORDS).unwrap_or(u32::MAX);
        let answers = MmapArray::new(answers.fd(), words, size_of::<u64>());
        let answers = answers.map_err(|source| MapsError::Memory { map, source })?;
        let (wanted, interfaces) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { ebpf, pins, addresses, answers, wanted, interfaces })
    }

    /// From now on questions to these addresses of the node are answered, at this UDP port, and to no others. Addresses
    /// that were answered before and still are stay answered meanwhile.
    pub fn set_addresses(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        port: u16,
    ) -> Result<(), MapsError> {
        if addresses.len() > PROBE_ADDRESSES {
            let (map, count, size) = ("cm_probe_addresses", addresses.len(), PROBE_ADDRESSES);
            return Err(MapsError::TooMany { map, count, size });
        }
        let [high, low] = port.to_be_bytes();
        let port = u32::from_ne_bytes([high, low, 0, 0]);
        self.wanted = addresses.iter().map(|address| (address_bytes(*address), port)).collect();
        self.write_addresses().map(drop)
    }

    /// From now on it is attached at these interfaces, by their indexes, and at no others. Where it is attached
    /// already, by a previous agent too, it goes on without interruption. Attaching takes some ten milliseconds each.
    pub fn set_interfaces(
        &mut self,
        interfaces: &BTreeSet<u32>,
        now: Instant,
    ) -> Result<(), ProgramsError> {
        for pin in self.pins.probe_links()? {
            if !interfaces.contains(&pin) {
                self.remove(pin)?;
            }
        }
        self.interfaces.retain(|index, _| interfaces.contains(index));
        for index in interfaces {
            if !self.interfaces.contains_key(index) {
                self.interfaces.insert(*index, Interface::new(*index, now));
                self.attach(*index, now);
            }
        }
        Ok(())
    }

    /// Checks whether it is still attached, and first, and restores what is not. Returns how much differed. Costs a
    /// system call for each interface and two for each address.
    pub fn audit(&mut self, now: Instant) -> Result<u64, ProgramsError> {
        let mut repairs = self.write_addresses()?;
        let due: Vec<u32> = self.interfaces.keys().copied().collect();
        for index in due {
            let place = self.place_of(index);
            let Some(interface) = self.interfaces.get_mut(&index) else { continue };
            let state = match place {
                Ok(Some(0)) => AnswerState::Answers,
                Ok(Some(_)) => AnswerState::Behind,
                // For one that could not be attached the reason is known.
                Ok(None) if interface.link.is_none() => interface.state.clone(),
                Ok(None) => {
                    repairs += 1;
                    interface.link = None;
                    interface.again = now;
                    AnswerState::Failed("it was detached".into())
                }
                Err(error) => AnswerState::Failed(error.to_string()),
            };
            match &state {
                AnswerState::Answers => interface.backoff.reset(),
                // Only where another program came in between: it was first when it was attached.
                AnswerState::Behind if interface.state == AnswerState::Answers => {
                    repairs += 1;
                    interface.again = now;
                }
                AnswerState::Behind | AnswerState::NotEthernet | AnswerState::Failed(_) => {}
            }
            interface.state = state;
            let is_due = interface.again <= now;
            if is_due && matches!(interface.state, AnswerState::Behind | AnswerState::Failed(_)) {
                self.attach(index, now);
            }
        }
        Ok(repairs)
    }

    /// The interfaces, by their indexes, and their state.
    pub fn interfaces(&self) -> impl Iterator<Item = (u32, &AnswerState)> {
        self.interfaces.iter().map(|(index, interface)| (*index, &interface.state))
    }

    /// How many questions the kernel answered since the maps were made.
    pub fn answered(&self) -> u64 {
        self.answers.u64(ANSWER_TOTAL, 0).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Takes it away from all interfaces: the agent answers, if it listens.
    pub fn detach(mut self) -> Result<(), ProgramsError> {
        self.set_interfaces(&BTreeSet::new(), Instant::now())
    }

    /// Its position among the programs of an interface; `None` if it is not attached there.
    fn place_of(&self, index: u32) -> io::Result<Option<usize>> {
        let Some(link) = self.interfaces.get(&index).and_then(|interface| interface.link) else {
            return Ok(None);
        };
        Ok(programs_at_ingress(index)?.iter().position(|(_, found)| *found == link))
    }

    fn attach(&mut self, index: u32, now: Instant) {
        let attached = match is_ethernet(index) {
            Ok(true) => self.attach_first(index).map(Some).map_err(|error| error.to_string()),
            Ok(false) => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let Some(interface) = self.interfaces.get_mut(&index) else { return };
        interface.again = now + interface.backoff.failed();
        (interface.state, interface.link) = match attached {
            Ok(Some(link)) => (AnswerState::Answers, Some(link)),
            Ok(None) => (AnswerState::NotEthernet, None),
            Err(why) => (AnswerState::Failed(why), None),
        };
    }

    /// Attaches it before all others. The link's id.
    fn attach_first(&mut self, index: u32) -> Result<u32, ProgramsError> {
        let pin = self.pins.probe_link(index)?;
        let io = |source| ProgramsError::Io { path: pin.clone(), source };
        let error = |source| ProgramsError::Program { program: PROGRAM, source };
        let program = find(&mut self.ebpf)?.fd().map_err(error)?;
        if let Ok(link) = Link::open(&pin) {
            let info = link.info().map_err(io)?;
            let first = programs_at_ingress(index).map_err(io)?.first().map(|(_, link)| *link);
            if info.interface == index && first == Some(info.id) {
                link.update(program).map_err(io)?;
                return Ok(info.id);
            }
            // The same program cannot be there twice: it is away for as long as this takes.
            link.detach().map_err(io)?;
            fs::remove_file(&pin).map_err(io)?;
        }
        let link = Link::at_ingress(program, index).map_err(io)?;
        link.pin(&pin).map_err(io)?;
        Ok(link.info().map_err(io)?.id)
    }

    fn remove(&mut self, index: u32) -> Result<(), ProgramsError> {
        let pin = self.pins.probe_link(index)?;
        let io = |source| ProgramsError::Io { path: pin.clone(), source };
        // At once, and not when the kernel comes to it.
        Link::open(&pin).and_then(|link| link.detach()).map_err(io)?;
        fs::remove_file(&pin).map_err(io)
    }

    /// Writes the addresses that are not as they should be, new ones first. How many were not.
    fn write_addresses(&mut self) -> Result<u64, MapsError> {
        let error = |source| MapsError::Map { map: "cm_probe_addresses", source };
        let found: BTreeMap<[u8; 16], u32> =
            self.addresses.iter().collect::<Result<_, _>>().map_err(error)?;
        let mut written = 0;
        for (address, port) in &self.wanted {
            if found.get(address) != Some(port) {
                self.addresses.insert(address, port, 0).map_err(error)?;
                written += 1;
            }
        }
        for address in found.keys().filter(|address| !self.wanted.contains_key(*address)) {
            self.addresses.remove(address).map_err(error)?;
            written += 1;
        }
        Ok(written)
    }
}

fn find(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, ProgramsError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(ProgramsError::Missing(PROGRAM))?;
    program.try_into().map_err(|source| ProgramsError::Program { program: PROGRAM, source })
}

// === impl Interface ===

impl Interface {
    fn new(index: u32, now: Instant) -> Self {
        let backoff = Backoff::new(Policy::OBJECT, index.into());
        Self { state: AnswerState::Failed(String::new()), link: None, again: now, backoff }
    }
}

// === impl AnswerState ===

impl fmt::Display for AnswerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers => f.write_str("the kernel answers probes"),
            Self::Behind => f.write_str("another program sees probes before the one that answers"),
            Self::NotEthernet => {
                f.write_str("no Ethernet: the kernel cannot answer probes there, the agent does")
            }
            Self::Failed(why) => write!(f, "the kernel cannot answer probes there: {why}"),
        }
    }
}
