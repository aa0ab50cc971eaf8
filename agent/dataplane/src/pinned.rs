//! What is pinned: which tables there are, of what sizes, and which of them programs read.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapError, MapInfo};
use mesh_layout::{Kept, MAPS, MapLayout};
use mesh_sys::Link;

use crate::{
    kernel::Sizes,
    maps::MapsError,
    pins::{PinRoot, entries},
    programs::ProgramsError,
};

/// What a map's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// How many there can be; `None` where that does not matter.
    pub entries: Option<u32>,
}

/// What attached programs read. Those of a cgroup that is gone are none.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    /// There are some.
    pub(crate) any: bool,
    /// The folders with their tables, as far as they are pinned; several, if an exchange did not come to its end.
    pub(crate) tables: Vec<PathBuf>,
}

/// How many entries a map has whose size is configured.
pub(crate) fn entries_of(map: &str, sizes: Sizes) -> Option<u32> {
    match map {
        "cm_services" | "cm_headers" => Some(sizes.services),
        "cm_groups" => Some(sizes.groups),
        // In pairs.
        "cm_slots" => Some(sizes.slots / 2),
        "cm_backends" => Some(sizes.backends),
        _ => None,
    }
}

/// The sizes of the tables in a folder.
pub(crate) fn sizes_of(tables: &Path) -> Result<Sizes, MapsError> {
    let entries = |map| Ok(info(&tables.join(map), map)?.max_entries());
    Ok(Sizes {
        services: entries("cm_services")?,
        backends: entries("cm_backends")?,
        slots: entries("cm_slots")?.saturating_mul(2),
        groups: entries("cm_groups")?,
    })
}

/// Finds what attached programs read. `hooks` are looked at first, in this order.
pub(crate) fn find_attached(
    pins: &PinRoot,
    hooks: impl Iterator<Item = &'static str>,
) -> Result<Attached, ProgramsError> {
    let folder = pins.links()?;
    let mut links: Vec<PathBuf> = hooks.map(|hook| folder.join(hook)).collect();
    let unknown = entries(&folder)?.into_iter().filter(|link| !links.contains(link));
    links.extend(unknown.collect::<Vec<_>>());
    let mut tables = Vec::new();
    for folder in pins.all_tables()? {
        tables.push((info(&folder.join("cm_services"), "cm_services")?.id(), folder));
    }
    let mut attached = Attached::default();
    for path in links.into_iter().filter(|link| link.exists() && !is_reverse(link)) {
        let io = |source| ProgramsError::Io { path: path.clone(), source };
        let link = Link::open(&path).map_err(io)?;
        if link.cgroup_id().map_err(io)? == 0 {
            continue;
        }
        attached.any = true;
        let ids = link.map_ids().map_err(io)?;
        for (_, folder) in tables.iter().filter(|(id, _)| ids.contains(id)) {
            if !attached.tables.contains(folder) {
                attached.tables.push(folder.clone());
            }
        }
    }
    Ok(attached)
}

/// Whether a hook only shows what was asked for: those read no tables.
fn is_reverse(link: &Path) -> bool {
    let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("cm_getpeername") || name.starts_with("cm_recvmsg")
}

/// Pins the maps whose size is never another beside the tables of other sizes: they go on with what they have.
pub(crate) fn carry_over(pins: &PinRoot, from: &Path, to: Sizes) -> Result<(), ProgramsError> {
    for layout in MAPS.iter().filter(|layout| layout.kept == Kept::Whole) {
        let error = |source| MapsError::Map { map: layout.name, source };
        let map = MapData::from_pin(from.join(layout.name)).map_err(error)?;
        let pinned = map.pin(pins.map(to, layout)?);
        pinned.map_err(|source| error(MapError::PinError { name: None, error: source }))?;
    }
    Ok(())
}

fn info(pin: &Path, map: &'static str) -> Result<MapInfo, MapsError> {
    MapInfo::from_pin(pin).map_err(|source| MapsError::Map { map, source })
}

// === impl Shape ===

impl Shape {
    /// Refuses a pinned map that is not what the layout says: two programs must not read one memory in two ways.
    pub(crate) fn check(pin: &Path, layout: &MapLayout, sizes: Sizes) -> Result<(), MapsError> {
        if !pin.exists() {
            return Ok(());
        }
        let info = info(pin, layout.name)?;
        let entries = entries_of(layout.name, sizes);
        let found = Self {
            key: info.key_size(),
            value: info.value_size(),
            entries: entries.map(|_| info.max_entries()),
        };
        let bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let expected = Self { key: bytes(layout.key), value: bytes(layout.value), entries };
        match found == expected {
            true => Ok(()),
            false => Err(MapsError::Foreign { pin: pin.into(), found, expected }),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} and value {} bytes", self.key, self.value)?;
        self.entries.map_or(Ok(()), |entries| write!(f, " and {entries} entries"))
    }
}
