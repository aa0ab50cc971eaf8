//! The narrow interface to the kernel: [`Tables`](crate::Tables) writes through it, and reads back once at start.

use std::io;

use mesh_layout::{Backend, FrontendKey, GroupSet, Header, ServiceRef, Settings};

/// How many entries each table has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends.
    pub services: u32,
    /// Backends; a power of two.
    pub backends: u32,
    /// Slots; a power of two.
    pub slots: u32,
    /// Services with several groups.
    pub groups: u32,
}

impl Sizes {
    /// Of a table by its name.
    pub fn of(&self, map: &str) -> u32 {
        match map {
            "cm_services" => self.services,
            "cm_backends" => self.backends,
            "cm_groups" => self.groups,
            _ => self.slots,
        }
    }
}

/// Some frontends, and the position of the next.
pub type Listed = (Vec<(FrontendKey, ServiceRef)>, Option<u32>);

/// The tables as memory. Programs see every write immediately and whole; indices are below [`Sizes`].
pub trait Kernel {
    /// The tables' sizes.
    fn sizes(&self) -> Sizes;

    /// All frontends.
    fn services(&self) -> io::Result<Vec<(FrontendKey, ServiceRef)>>;
    /// Some frontends, about this many, from a position on (`None`: from the first), and the position of the next;
    /// `None` after the last. Entries that are written meanwhile may be present, missing or doubled.
    fn services_from(&self, position: Option<u32>, about: usize) -> io::Result<Listed>;
    /// The target of a frontend; `None` if it does not exist.
    fn service(&self, key: &FrontendKey) -> io::Result<Option<ServiceRef>>;
    /// A service's header.
    fn header(&self, index: u32) -> Header;
    /// A service's settings.
    fn settings(&self, index: u32) -> Settings;
    /// A service's groups, by the index that its header has.
    fn group_set(&self, set: u32) -> GroupSet;
    /// The backend id in a slot.
    fn slot(&self, slot: u32) -> u32;
    /// The backend at an index, whatever its id.
    fn backend(&self, index: u32) -> Backend;

    /// Adds or replaces a frontend. The one write that can fail.
    fn put_service(&mut self, key: &FrontendKey, service: ServiceRef) -> io::Result<()>;
    /// Removes a frontend, which may be missing.
    fn delete_service(&mut self, key: &FrontendKey) -> io::Result<()>;
    /// Sets a service's header.
    fn set_header(&mut self, index: u32, header: Header);
    /// Sets a service's settings.
    fn set_settings(&mut self, index: u32, settings: Settings);
    /// Sets the header of one of a service's groups, by an index below 8.
    fn set_group_header(&mut self, set: u32, group: usize, header: Header);
    /// Sets the weights of one of a service's groups and all before it.
    fn set_group_cumulative(&mut self, set: u32, group: usize, cumulative: u32);
    /// Sets a slot.
    fn set_slot(&mut self, slot: u32, id: u32);
    /// Writes a backend to its id's place, which is free: its id last.
    fn set_backend(&mut self, backend: Backend);
    /// Frees the place of a backend's id.
    fn clear_backend(&mut self, id: u32);
}
