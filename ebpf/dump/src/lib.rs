//! What is in a node's kernel, read from the pinned maps: neither the agent nor its tables are asked.
//!
//! For whoever judges the agent: scenarios, benchmarks, and people with a doubt. It shares the layout with those it
//! judges, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use aya::maps::{MapData, MapError, MapInfo};
use mesh_layout::{
    Backend, FrontendKey, GROUPS_OF_A_SERVICE, GroupSet, Header, ServiceEntry, ServiceRef,
};
use mesh_sys::{MappedArray, lookup_all};

/// Where a connection may end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// Where the pod listens.
    pub address: SocketAddr,
    /// The number of its cluster.
    pub cluster: u16,
}

/// Frontends, each an address, a port and an IP protocol number, with their backends.
pub type Services = BTreeMap<(SocketAddr, u8), BTreeSet<Destination>>;

/// The tables below a pin root.
#[derive(Debug)]
pub struct Dump {
    folder: PathBuf,
    services: MapData,
    headers: MappedArray,
    groups: MappedArray,
    slots: MappedArray,
    backends: MappedArray,
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
    /// There is not one folder with maps.
    #[error("{} has {count} folders with maps, not one", path.display())]
    NotOne {
        /// The pin root.
        path: PathBuf,
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
        let folder = maps_folder(pins)?;
        Ok(Self {
            services: open_map(&folder.join("cm_services"))?,
            headers: open_array(&folder.join("cm_headers"), size_of::<ServiceEntry>())?,
            groups: open_array(&folder.join("cm_groups"), size_of::<GroupSet>())?,
            slots: open_array(&folder.join("cm_slots"), 8)?,
            backends: open_array(&folder.join("cm_backends"), size_of::<Backend>())?,
            folder,
        })
    }

    /// All frontends with their backends. Of tables that are written meanwhile, a moment's view of each.
    pub fn services(&self) -> Result<Services, DumpError> {
        let mut all = Services::new();
        for (key, service) in self.frontends()? {
            if service.tag() != key.tag() {
                return Err(self.inconsistent(format!("a frontend has another's value: {key:?}")));
            }
            let frontend = (address(key.address(), key.port()), key.protocol());
            all.insert(frontend, self.destinations(service)?);
        }
        Ok(all)
    }

    /// How many backends a frontend has: to be asked again and again, it costs no system call. `None`: it is not there.
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

    fn destinations(&self, service: ServiceRef) -> Result<BTreeSet<Destination>, DumpError> {
        let beyond = |what: String| self.inconsistent(format!("{what} is beyond its table"));
        let headers = self.headers_of(service);
        let headers = headers.ok_or_else(|| beyond(format!("service {}", service.index())))?;
        let mut ids = BTreeSet::new();
        let mut destinations = BTreeSet::new();
        let slots = |header: Header| header.base()..header.base().saturating_add(header.count());
        for slot in headers.into_iter().flat_map(slots) {
            let id = self.slots.u32(slot / 2, usize::from(slot % 2 == 1));
            let id = id.ok_or_else(|| beyond(format!("slot {slot}")))?.load(Ordering::SeqCst);
            if !ids.insert(id) {
                return Err(self.inconsistent(format!("backend {id} has two slots of one service")));
            }
            let backend = self.backend(id).ok_or_else(|| beyond(format!("backend {id}")))?;
            if backend.id() != id {
                return Err(self.inconsistent(format!(
                    "slot {slot} names backend {id}, and in its place is {}",
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

fn entries(array: &MappedArray) -> u32 {
    u32::try_from(array.len()).unwrap_or(u32::MAX)
}

fn open_map(pin: &Path) -> Result<MapData, DumpError> {
    MapData::from_pin(pin).map_err(|source| DumpError::Map { path: pin.into(), source })
}

fn open_array(pin: &Path, value_size: usize) -> Result<MappedArray, DumpError> {
    let map = open_map(pin)?;
    let info = MapInfo::from_pin(pin);
    let info = info.map_err(|source| DumpError::Map { path: pin.into(), source })?;
    MappedArray::new(map.fd(), info.max_entries(), value_size).map_err(io_error(pin))
}

/// The folder with the maps: the only one there but for the links.
fn maps_folder(pins: &Path) -> Result<PathBuf, DumpError> {
    let folders = fs::read_dir(pins).map_err(io_error(pins))?.flatten().map(|entry| entry.path());
    let mut folders = folders.filter(|path| path.is_dir() && !path.ends_with("links"));
    match (folders.next(), folders.count()) {
        (Some(folder), 0) => Ok(folder),
        (first, rest) => {
            Err(DumpError::NotOne { path: pins.into(), count: usize::from(first.is_some()) + rest })
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
