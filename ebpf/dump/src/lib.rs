//! The content of a node's kernel, read from the pinned maps: neither the agent nor its tables are asked.
//!
//! For those that check the agent: scenarios, benchmarks, and operators. It shares the layout with the code that it
//! checks, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use aya::maps::{MapData, MapError};
use mesh_layout::{
    Backend, FrontendKey, GROUPS_OF_A_SERVICE, GroupSet, Header, LOCAL_STATE, PEER_CUT,
    ServiceEntry, ServiceRef, Settings,
};
use mesh_sys::{Link, MapInfo, MmapArray, Program, lookup_all};

/// Where a connection may end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// Where the pod listens.
    pub address: SocketAddr,
    /// The number of its cluster.
    pub cluster: u16,
}

/// A frontend as programs see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// For how many seconds a client returns to the backend it had; 0: to any.
    pub session_affinity_seconds: u32,
    /// Its service is not global.
    pub plain: bool,
    /// Without a backend connections pass untouched.
    pub pass_if_empty: bool,
    /// Those of its groups that have backends, by index; one, 0 of weight 1, if all its backends have the same chance.
    pub groups: BTreeMap<usize, Group>,
}

/// Backends of a frontend with the same chance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// How many connections it gets, relative to the others.
    pub weight: u32,
    /// Its backends.
    pub destinations: BTreeSet<Destination>,
}

/// Frontends, each an address, a port and an IP protocol number, as programs see them.
pub type Entries = BTreeMap<(SocketAddr, u8), Entry>;

/// Frontends, each an address, a port and an IP protocol number, with the backends of all their groups.
pub type Services = BTreeMap<(SocketAddr, u8), BTreeSet<Destination>>;

/// The tables below a pin root.
#[derive(Debug)]
pub struct Dump {
    folder: PathBuf,
    services: MapData,
    headers: MmapArray,
    groups: MmapArray,
    slots: MmapArray,
    backends: MmapArray,
    peer_state: MmapArray,
}

/// Why tables cannot be read, or what is wrong with them.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder or the map.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The map.
    #[error("{}: {source}", path.display())]
    Map {
        /// Its pin.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// There is not exactly one map of a name that programs read.
    #[error("{}: {map} is pinned {count} times as a map that programs read, not once", path.display())]
    NotOne {
        /// The pin root.
        path: PathBuf,
        /// The map.
        map: &'static str,
        /// How many there are.
        count: usize,
    },
    /// An entry contradicts another.
    #[error("{}: {what}", folder.display())]
    Inconsistent {
        /// The folder with the maps.
        folder: PathBuf,
        /// The contradiction.
        what: String,
    },
}

impl Dump {
    /// Opens the tables below a pin root.
    pub fn open(pins: &Path) -> Result<Self, DumpError> {
        let read = maps_that_programs_read(pins);
        let find = |map| find(pins, map, &read);
        let services = find("cm_services")?;
        let folder = services.parent().unwrap_or(pins).to_owned();
        Ok(Self {
            services: open_map(&services)?,
            headers: open_array(&find("cm_headers")?, size_of::<ServiceEntry>())?,
            groups: open_array(&find("cm_groups")?, size_of::<GroupSet>())?,
            slots: open_array(&find("cm_slots")?, 8)?,
            backends: open_array(&find("cm_backends")?, size_of::<Backend>())?,
            peer_state: open_array(&find("cm_peer_state")?, 4)?,
            folder,
        })
    }

    /// All frontends as programs see them. Of tables that are written meanwhile, each as of one moment.
    pub fn entries(&self) -> Result<Entries, DumpError> {
        let mut all = Entries::new();
        for (key, service) in self.frontends()? {
            let frontend = (address(key.address(), key.port()), key.protocol());
            if service.tag() != key.tag() {
                let (address, protocol) = frontend;
                return Err(self.inconsistent(format!(
                    "the frontend {address} of IP protocol {protocol} has another's value"
                )));
            }
            all.insert(frontend, self.entry(service)?);
        }
        Ok(all)
    }

    /// All frontends with their backends, whatever the groups' weights. Of tables that are written meanwhile, each as
    /// of one moment.
    pub fn services(&self) -> Result<Services, DumpError> {
        let all = self.entries()?.into_iter();
        let backends = |entry: Entry| entry.groups.into_values().flat_map(|g| g.destinations);
        Ok(all.map(|(frontend, entry)| (frontend, backends(entry).collect())).collect())
    }

    /// A counter of a frontend's backends: reading it costs no system call. `None`: there is no such frontend.
    pub fn counter(
        &self,
        frontend: (SocketAddr, u8),
    ) -> Result<Option<impl Fn() -> u32>, DumpError> {
        let of = |key: &FrontendKey| (address(key.address(), key.port()), key.protocol());
        let found = self.frontends()?.into_iter().find(|(key, _)| of(key) == frontend);
        Ok(found.map(|(_, service)| {
            move || {
                let headers = self.headers_of(service).unwrap_or_default();
                headers.iter().map(|header| header.count()).sum()
            }
        }))
    }

    /// How many backends have an entry.
    pub fn backend_entries(&self) -> usize {
        let used = |index: &u32| {
            let first = self.backends.u64(*index, 0).map_or(0, |word| word.load(Ordering::SeqCst));
            Backend::from_words([first, 0, 0, 0]).id() != 0
        };
        (0..entries(&self.backends)).filter(used).count()
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, ServiceRef)>, DumpError> {
        lookup_all(self.services.fd()).map_err(io_error(&self.folder.join("cm_services")))
    }

    /// The numbers of the clusters whose backends are out of use.
    pub fn cut(&self) -> BTreeSet<u16> {
        let is_cut = |id: &u16| {
            let state = self.peer_state.u32(u32::from(*id), 0);
            state.is_some_and(|state| state.load(Ordering::SeqCst) == PEER_CUT)
        };
        (1..u16::try_from(self.peer_state.len()).unwrap_or(u16::MAX)).filter(is_cut).collect()
    }

    /// The state of the node itself that its agent gave to the programs: bits of the layout.
    pub fn local_state(&self) -> u32 {
        self.peer_state.u32(LOCAL_STATE, 0).map_or(0, |state| state.load(Ordering::SeqCst))
    }

    fn entry(&self, service: ServiceRef) -> Result<Entry, DumpError> {
        let beyond =
            || self.inconsistent(format!("service {} is beyond its table", service.index()));
        let settings = self.headers.u64(service.index(), ServiceEntry::SETTINGS_WORD);
        let settings = settings.ok_or_else(beyond)?.load(Ordering::SeqCst);
        let settings = Settings::from_word(settings);
        let headers = self.headers_of(service).ok_or_else(beyond)?;
        let weights = self.weights_of(service).ok_or_else(beyond)?;
        let mut ids = BTreeSet::new();
        let mut groups = BTreeMap::new();
        for (number, (header, weight)) in headers.into_iter().zip(weights).enumerate() {
            if header.count() > 0 {
                let destinations = self.destinations(header, &mut ids)?;
                groups.insert(number, Group { weight, destinations });
            }
        }
        Ok(Entry {
            session_affinity_seconds: settings.session_affinity_seconds(),
            plain: settings.is_plain(),
            pass_if_empty: settings.passes_if_empty(),
            groups,
        })
    }

    /// The backends of a header's slots, whose ids must not be among those that were met before.
    fn destinations(
        &self,
        header: Header,
        ids: &mut BTreeSet<u32>,
    ) -> Result<BTreeSet<Destination>, DumpError> {
        let beyond = |what: String| self.inconsistent(format!("{what} is beyond its table"));
        let mut destinations = BTreeSet::new();
        for slot in header.base()..header.base().saturating_add(header.count()) {
            let id = self.slots.u32(slot / 2, usize::from(slot % 2 == 1));
            let id = id.ok_or_else(|| beyond(format!("slot {slot}")))?.load(Ordering::SeqCst);
            if !ids.insert(id) {
                return Err(self.inconsistent(format!("backend {id} has two slots of one service")));
            }
            let backend = self.backend(id).ok_or_else(|| beyond(format!("backend {id}")))?;
            if backend.id() != id {
                return Err(self.inconsistent(format!(
                    "slot {slot} names backend {id}, and that entry has the ID {}",
                    backend.id()
                )));
            }
            destinations.insert(Destination {
                address: address(backend.address(), backend.port()),
                cluster: backend.cluster(),
            });
        }
        Ok(destinations)
    }

    /// The weights of a service's groups, in the order of its headers.
    fn weights_of(&self, service: ServiceRef) -> Option<Vec<u32>> {
        let header = self.headers.u64(service.index(), ServiceEntry::HEADER_WORD)?;
        let Some(set) = Header::from_word(header.load(Ordering::SeqCst)).group_set() else {
            return Some(vec![1; GROUPS_OF_A_SERVICE]);
        };
        let mut before = 0;
        let weight = |group| {
            let sum = self.groups.u32(set, GroupSet::cumulative_word(group))?;
            let sum = sum.load(Ordering::SeqCst);
            let weight = sum.saturating_sub(before);
            before = sum;
            Some(weight)
        };
        (0..GROUPS_OF_A_SERVICE).map(weight).collect()
    }

    /// Where a service's slots are: one header, or that of each of its groups.
    fn headers_of(&self, service: ServiceRef) -> Option<Vec<Header>> {
        let header = self.headers.u64(service.index(), ServiceEntry::HEADER_WORD)?;
        let header = Header::from_word(header.load(Ordering::SeqCst));
        let Some(set) = header.group_set() else {
            return Some(vec![header]);
        };
        let group = |group| {
            let word = self.groups.u64(set, GroupSet::header_word(group))?;
            Some(Header::from_word(word.load(Ordering::SeqCst)))
        };
        (0..GROUPS_OF_A_SERVICE).map(group).collect()
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        let index = id.checked_rem(entries(&self.backends))?;
        let mut words = [0; 4];
        for (at, word) in words.iter_mut().enumerate() {
            *word = self.backends.u64(index, at)?.load(Ordering::SeqCst);
        }
        Some(Backend::from_words(words))
    }

    fn inconsistent(&self, what: String) -> DumpError {
        DumpError::Inconsistent { folder: self.folder.clone(), what }
    }
}

fn entries(array: &MmapArray) -> u32 {
    u32::try_from(array.len()).unwrap_or(u32::MAX)
}

fn open_map(pin: &Path) -> Result<MapData, DumpError> {
    MapData::from_pin(pin).map_err(|source| DumpError::Map { path: pin.into(), source })
}

fn open_array(pin: &Path, value_size: usize) -> Result<MmapArray, DumpError> {
    let map = open_map(pin)?;
    let info = MapInfo::of_pin(pin).map_err(io_error(pin))?;
    MmapArray::new(map.fd(), info.entries, value_size).map_err(io_error(pin))
}

/// Bytes of the kernel's memory that each pinned table below a pin root takes, by its name, as the kernel reports.
pub fn memory(pins: &Path) -> Result<BTreeMap<String, u64>, DumpError> {
    let mut all = BTreeMap::new();
    let mut folders = vec![pins.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io_error(&folder))?.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            match path.is_dir() {
                true if name == "links" => {}
                true => folders.push(path),
                false => {
                    all.insert(name, bytes_of(&path)?);
                }
            }
        }
    }
    Ok(all)
}

fn bytes_of(pin: &Path) -> Result<u64, DumpError> {
    let map = open_map(pin)?;
    let fd = map.fd().as_fd().as_raw_fd();
    let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).map_err(io_error(pin))?;
    let bytes = fdinfo.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or_else(|| io_error(pin)(io::Error::other("the kernel does not report its memory")))
}

/// The ids of the maps that attached programs read: those of the hook that leads connections to backends.
fn maps_that_programs_read(pins: &Path) -> Vec<u32> {
    let link = Link::open(&pins.join("links").join("cm_connect4")).and_then(|link| link.info());
    let program = link.and_then(|link| Program::by_id(link.program));
    program.and_then(|program| program.maps()).unwrap_or_default()
}

/// Where a map is pinned, in whichever folder: the only pin of its name, or if there are several the one that programs
/// read. Of two pins of that map any one will do.
fn find(pins: &Path, map: &'static str, read: &[u32]) -> Result<PathBuf, DumpError> {
    let folders = fs::read_dir(pins).map_err(io_error(pins))?.flatten().map(|entry| entry.path());
    let mut found = BTreeMap::new();
    for pin in folders.map(|folder| folder.join(map)).filter(|pin| pin.exists()) {
        found.insert(MapInfo::of_pin(&pin).map_err(io_error(&pin))?.id, pin);
    }
    if found.len() > 1 {
        found.retain(|id, _| read.contains(id));
    }
    match (found.pop_first(), found.len()) {
        (Some((_, pin)), 0) => Ok(pin),
        (first, rest) => {
            let count = usize::from(first.is_some()) + rest;
            Err(DumpError::NotOne { path: pins.into(), map, count })
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DumpError {
    move |source| DumpError::Io { path: path.into(), source }
}

fn address(address: [u8; 16], port: [u8; 2]) -> SocketAddr {
    let ip: IpAddr = Ipv6Addr::from(address).to_canonical();
    SocketAddr::new(ip, u16::from_be_bytes(port))
}
