//! A map's properties, to distinguish one of ours from another under its name.

use std::{fmt, io, path::Path};

use mesh_layout::{MapKind, MapLayout, MapSize};
use mesh_sys::MapInfo;

use crate::kernel::Sizes;

/// What a map's entries are, and how many there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The kernel's `bpf_map_type`.
    kind: u32,
    flags: u32,
    key: u32,
    value: u32,
    entries: u32,
}

/// How many entries a map has with tables of these sizes.
pub(crate) fn entries_of(layout: &MapLayout, sizes: Sizes) -> u32 {
    match (layout.size, layout.name) {
        (MapSize::Fixed(entries), _) => u32::try_from(entries).unwrap_or(u32::MAX),
        (MapSize::Configured, "cm_groups") => sizes.groups,
        // In pairs.
        (MapSize::Configured, "cm_slots") => sizes.slots / 2,
        (MapSize::Configured, "cm_backends") => sizes.backends,
        (MapSize::Configured, _) => sizes.services,
    }
}

// === impl Shape ===

impl Shape {
    /// What a map should be.
    pub(crate) fn of_layout(layout: &MapLayout, sizes: Sizes) -> Self {
        let bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            kind: layout.kind.number(),
            flags: layout.kind.flags(),
            key: bytes(layout.key),
            value: bytes(layout.value),
            entries: entries_of(layout, sizes),
        }
    }

    /// What the map is that is pinned at a path; `None` where nothing is.
    pub(crate) fn of_pin(pin: &Path) -> io::Result<Option<Self>> {
        match MapInfo::of_pin(pin) {
            Ok(MapInfo { id: _, kind, flags, key, value, entries }) => {
                Ok(Some(Self { kind, flags, key, value, entries }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, flags, key, value, entries } = *self;
        let known = [
            (MapKind::Hash, "a hash"),
            (MapKind::LruHash, "an LRU hash"),
            (MapKind::MmapArray, "an array"),
            (MapKind::PerCpuArray, "an array for each processor"),
            (MapKind::SocketStorage, "the storage of sockets"),
        ];
        match known.iter().find(|(known, _)| known.number() == kind) {
            Some((_, name)) => write!(f, "{name}")?,
            None => write!(f, "a map of type {kind}")?,
        }
        write!(f, " with flags {flags:#x}, {entries} entries, key {key} and value {value} bytes")
    }
}
