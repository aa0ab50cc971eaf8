//! The tables in the running kernel.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::maps::{HashMap, Map, MapData, MapError};
use mesh_layout::{
    Backend, FrontendKey, GROUPS_OF_A_SERVICE, GroupSet, Header, MAPS, ServiceEntry, ServiceRef,
    Settings, SlotPair, default_sizes,
};
use mesh_sys::MmapArray;

use crate::{
    error::{MapsError, ProgramsError},
    kernel::{Kernel, Listed, Sizes},
    pinned::check,
    pins::PinRoot,
};

mod own;
mod state;

pub(crate) use own::{counters, set_bypass};
pub use state::PeerStates;

/// The tables in the running kernel: two hash maps, and arrays as memory.
#[derive(Debug)]
pub struct KernelMaps {
    services: HashMap<MapData, FrontendKey, ServiceRef>,
    /// The same map, for batches.
    services_fd: OwnedFd,
    unbalanced: HashMap<MapData, u64, u32>,
    headers: MmapArray,
    groups: MmapArray,
    slots: MmapArray,
    backends: MmapArray,
    /// Shared with the writers of the clusters' states.
    peer_state: Arc<MmapArray>,
    sizes: Sizes,
    /// Called after each write: a test's way to die there, and to count.
    written: Option<fn()>,
    /// How often a table was written, including by the writers of the clusters' states.
    writes: Arc<AtomicU64>,
}

// === impl KernelMaps ===

impl KernelMaps {
    /// Takes the maps out of a loaded object.
    pub(crate) fn take(ebpf: &mut aya::Ebpf, sizes: Sizes) -> Result<Self, MapsError> {
        Self::new(sizes, |map| match ebpf.take_map(map) {
            Some(Map::HashMap(data) | Map::Array(data)) => Ok(data),
            _ => Err(MapsError::Missing(map)),
        })
    }

    /// Opens tables that were pinned before, without the programs.
    pub fn open(pins: &PinRoot, sizes: Sizes) -> Result<Self, ProgramsError> {
        let data = |map: &'static str| {
            let layout = MAPS.iter().find(|layout| layout.name == map);
            let layout = layout.ok_or(MapsError::Missing(map))?;
            let pin = pins.group(sizes, layout.group).join(map);
            check(&pin, layout, sizes)?;
            MapData::from_pin(pin).map_err(|source| MapsError::Map { map, source })
        };
        Ok(Self::new(sizes, data)?)
    }

    fn new(
        sizes: Sizes,
        mut data: impl FnMut(&'static str) -> Result<MapData, MapsError>,
    ) -> Result<Self, MapsError> {
        let map = "cm_services";
        let services = data(map)?;
        let services_fd = services.fd().as_fd().try_clone_to_owned();
        let services_fd = services_fd.map_err(|source| MapsError::Memory { map, source })?;
        let services = HashMap::try_from(Map::HashMap(services));
        let services = services.map_err(|source| MapsError::Map { map, source })?;
        let map = "cm_unbalanced";
        let unbalanced = HashMap::try_from(Map::HashMap(data(map)?));
        let unbalanced = unbalanced.map_err(|source| MapsError::Map { map, source })?;
        let peers = u32::try_from(default_sizes::PEERS).unwrap_or(u32::MAX);
        let mut mapped = |map, entries, value| {
            let data = data(map)?;
            MmapArray::new(data.fd(), entries, value)
                .map_err(|source| MapsError::Memory { map, source })
        };
        Ok(Self {
            services,
            services_fd,
            unbalanced,
            headers: mapped("cm_headers", sizes.services, size_of::<ServiceEntry>())?,
            groups: mapped("cm_groups", sizes.groups, size_of::<GroupSet>())?,
            slots: mapped("cm_slots", sizes.slots / 2, size_of::<SlotPair>())?,
            backends: mapped("cm_backends", sizes.backends, size_of::<Backend>())?,
            peer_state: Arc::new(mapped("cm_peer_state", peers, size_of::<u32>())?),
            sizes,
            written: None,
            writes: Arc::default(),
        })
    }

    /// Has a function called after each single write to a table, stores and system calls alike. Whatever it does, it may
    /// not come back: the tables are usable after each write.
    pub fn after_each_write(&mut self, hook: fn()) {
        self.written = Some(hook);
    }

    /// How often a table was written to, stores and system calls alike.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn written(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if let Some(hook) = self.written {
            hook();
        }
    }
}

impl Kernel for KernelMaps {
    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn services(&self) -> io::Result<Vec<(FrontendKey, ServiceRef)>> {
        mesh_sys::lookup_all(&self.services_fd)
    }

    fn services_from(&self, position: Option<u32>, about: usize) -> io::Result<Listed> {
        mesh_sys::lookup_some(&self.services_fd, position, about)
    }

    fn service(&self, key: &FrontendKey) -> io::Result<Option<ServiceRef>> {
        match self.services.get(key, 0) {
            Ok(found) => Ok(Some(found)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_io(error)),
        }
    }

    fn header(&self, index: u32) -> Header {
        let word = self.headers.u64(index, ServiceEntry::HEADER_WORD);
        Header::from_word(word.map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    fn settings(&self, index: u32) -> Settings {
        let word = self.headers.u64(index, ServiceEntry::SETTINGS_WORD);
        Settings::from_word(word.map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    fn group_set(&self, set: u32) -> GroupSet {
        let cumulative = |group| {
            let word = self.groups.u32(set, GroupSet::cumulative_word(group));
            word.map_or(0, |word| word.load(Ordering::Relaxed))
        };
        let header = |group| {
            let word = self.groups.u64(set, GroupSet::header_word(group));
            Header::from_word(word.map_or(0, |word| word.load(Ordering::Relaxed)))
        };
        GroupSet::new(std::array::from_fn(cumulative), std::array::from_fn(header))
    }

    fn slot(&self, slot: u32) -> u32 {
        let word = self.slots.u32(slot / 2, slot_word(slot));
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn backend(&self, index: u32) -> Backend {
        let word = |n| self.backends.u64(index, n).map_or(0, |word| word.load(Ordering::Relaxed));
        Backend::from_words([word(0), word(1), word(2), word(3)])
    }

    fn put_service(&mut self, key: &FrontendKey, service: ServiceRef) -> io::Result<()> {
        self.services.insert(key, service, 0).map_err(map_io)?;
        self.written();
        Ok(())
    }

    fn delete_service(&mut self, key: &FrontendKey) -> io::Result<()> {
        match self.services.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(map_io(error)),
        }
        self.written();
        Ok(())
    }

    fn set_header(&mut self, index: u32, header: Header) {
        if let Some(word) = self.headers.u64(index, ServiceEntry::HEADER_WORD) {
            word.store(header.to_word(), Ordering::Release);
            self.written();
        }
    }

    fn set_settings(&mut self, index: u32, settings: Settings) {
        if let Some(word) = self.headers.u64(index, ServiceEntry::SETTINGS_WORD) {
            word.store(settings.to_word(), Ordering::Release);
            self.written();
        }
    }

    fn set_group_header(&mut self, set: u32, group: usize, header: Header) {
        let word = self.groups.u64(set, GroupSet::header_word(group));
        if let Some(word) = word.filter(|_| group < GROUPS_OF_A_SERVICE) {
            word.store(header.to_word(), Ordering::Release);
            self.written();
        }
    }

    fn set_group_cumulative(&mut self, set: u32, group: usize, cumulative: u32) {
        let word = self.groups.u32(set, GroupSet::cumulative_word(group));
        if let Some(word) = word.filter(|_| group < GROUPS_OF_A_SERVICE) {
            word.store(cumulative, Ordering::Release);
            self.written();
        }
    }

    fn set_slot(&mut self, slot: u32, id: u32) {
        if let Some(word) = self.slots.u32(slot / 2, slot_word(slot)) {
            word.store(id, Ordering::Release);
            self.written();
        }
    }

    fn set_backend(&mut self, backend: Backend) {
        let index = backend.id() % self.sizes.backends;
        let [first, rest @ ..] = backend.to_words();
        for (n, content) in (1..).zip(rest) {
            if let Some(word) = self.backends.u64(index, n) {
                word.store(content, Ordering::Release);
                self.written();
            }
        }
        // With the id, which makes the rest valid.
        if let Some(word) = self.backends.u64(index, 0) {
            word.store(first, Ordering::Release);
            self.written();
        }
    }

    fn clear_backend(&mut self, id: u32) {
        if let Some(word) = self.backends.u32(id % self.sizes.backends, 0) {
            word.store(0, Ordering::Release);
            self.written();
        }
    }
}

fn slot_word(slot: u32) -> usize {
    usize::from(!slot.is_multiple_of(2))
}

fn map_io(error: MapError) -> io::Error {
    if let MapError::SyscallError(error) = error { error.io_error } else { io::Error::other(error) }
}
