//! The pinned state: which tables exist, their sizes, and which of them programs read.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use mesh_layout::{MAPS, MapLayout};
use mesh_sys::{Link, MapInfo, Program};

use crate::{
    error::{MapsError, ProgramsError},
    hooks::{FORMER, HOOKS, is_reverse},
    kernel::Sizes,
    pins::{PinRoot, entries},
    shape::Shape,
};

/// What attached programs read. Programs of a cgroup that is gone do not count.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    /// There are some.
    pub(crate) any: bool,
    /// The folders with their tables, as far as they are pinned; several, if an exchange did not come to its end.
    pub(crate) tables: Vec<PathBuf>,
}

/// Refuses a pinned map that differs from the layout: two programs must not read one memory in two ways.
pub(crate) fn check(pin: &Path, layout: &MapLayout, sizes: Sizes) -> Result<(), MapsError> {
    compare(pin, layout.name, Shape::of_layout(layout, sizes))
}

/// The same of a map whose size is not configured.
pub(crate) fn check_fixed(pin: &Path, layout: &MapLayout) -> Result<(), MapsError> {
    compare(pin, layout.name, Shape::of_layout(layout, Sizes::default()))
}

fn compare(pin: &Path, map: &'static str, expected: Shape) -> Result<(), MapsError> {
    let found = Shape::of_pin(pin).map_err(|source| MapsError::Memory { map, source })?;
    match found {
        Some(found) if found != expected => {
            Err(MapsError::Foreign { pin: pin.into(), found, expected })
        }
        _ => Ok(()),
    }
}

/// The sizes of the tables in a folder.
pub(crate) fn sizes_of(tables: &Path) -> Result<Sizes, MapsError> {
    let entries = |map| Ok(info(&tables.join(map), map)?.entries);
    Ok(Sizes {
        services: entries("cm_services")?,
        backends: entries("cm_backends")?,
        slots: entries("cm_slots")?.saturating_mul(2),
        groups: entries("cm_groups")?,
    })
}

/// Finds what attached programs read, those of the hooks in their order first.
pub(crate) fn find_attached(pins: &PinRoot) -> Result<Attached, ProgramsError> {
    let folder = pins.links()?;
    let mut links: Vec<PathBuf> = HOOKS.iter().map(|hook| folder.join(hook.program)).collect();
    let unknown = entries(&folder)?.into_iter().filter(|link| !links.contains(link));
    links.extend(unknown.collect::<Vec<_>>());
    let mut tables = Vec::new();
    for folder in pins.all_tables()? {
        tables.push((info(&folder.join("cm_services"), "cm_services")?.id, folder));
    }
    let mut attached = Attached::default();
    for path in links.into_iter().filter(|link| link.exists() && !is_reverse(link)) {
        let io = |source| ProgramsError::Io { path: path.clone(), source };
        let link = Link::open(&path).and_then(|link| link.info()).map_err(io)?;
        if link.cgroup == 0 {
            continue;
        }
        attached.any = true;
        let ids = Program::by_id(link.program).and_then(|program| program.maps()).map_err(io)?;
        for (_, folder) in tables.iter().filter(|(id, _)| ids.contains(id)) {
            if !attached.tables.contains(folder) {
                attached.tables.push(folder.clone());
            }
        }
    }
    Ok(attached)
}

/// Whether a hook shows sockets the address that they asked for, and knows it for sockets that another release
/// connected.
pub(crate) fn knows_others(
    pins: &PinRoot,
    sizes: Sizes,
    pin: &Path,
    link: &Link,
) -> Result<bool, ProgramsError> {
    let io = |source| ProgramsError::Io { path: pin.into(), source };
    let sockets = MAPS.iter().find(|layout| layout.name == "cm_sockets");
    let sockets = sockets.ok_or(MapsError::Missing("cm_sockets"))?;
    let ours = info(&pins.map(sizes, sockets)?, sockets.name)?.id;
    let program = link.info().and_then(|link| Program::by_id(link.program)).map_err(io)?;
    Ok(is_reverse(pin) && !program.maps().map_err(io)?.contains(&ours))
}

/// Detaches a hook that another program replaces, or that has no successor. If it shows sockets the service that they
/// asked for, and knows it for sockets that another release connected, it stays attached beside ours.
pub(crate) fn make_way(
    pins: &PinRoot,
    sizes: Sizes,
    link: &Path,
    cgroup_id: u64,
) -> Result<(), ProgramsError> {
    let io = |source| ProgramsError::Io { path: link.into(), source };
    let open = Link::open(link).map_err(io)?;
    let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_here = open.info().map_err(io)?.cgroup == cgroup_id;
    match name.starts_with(FORMER) {
        _ if !is_here || !knows_others(pins, sizes, link, &open)? => {
            fs::remove_file(link).map_err(io)
        }
        true => Ok(()),
        false => {
            let former = link.with_file_name(format!("{FORMER}{name}"));
            match fs::remove_file(&former) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
                _ => {}
            }
            fs::rename(link, former).map_err(io)
        }
    }
}

fn info(pin: &Path, map: &'static str) -> Result<MapInfo, MapsError> {
    MapInfo::of_pin(pin).map_err(|source| MapsError::Memory { map, source })
}
