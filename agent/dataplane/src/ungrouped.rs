//! Pins of the release before groups had layouts of their own (6120241 and its minor): one folder has all maps but
//! those of sockets. Their formats are the groups' first ones, so they are taken over as they are: pinned once more,
//! where the groups have them, before anything is loaded. To be removed with the minor after next.

use std::{fs, io};

use aya::maps::{MapData, MapError};
use mesh_layout::{MAPS, MapGroup};

use crate::{
    error::{MapsError, ProgramsError},
    pinned::{check, find_attached, sizes_of},
    pins::PinRoot,
};

/// How that release named the folder: its hash of all these maps.
const FOLDER: &str = "691c730a-";
/// The groups that were in it, and what they are called as long as their formats are those.
const GROUPS: [(MapGroup, u32); 3] = [
    (MapGroup::LoadBalancer, 0xe110_1932),
    (MapGroup::State, 0x6cab_5be7),
    (MapGroup::Affinity, 0xab7a_1039),
];

/// Pins the maps that attached programs of that release read where this release looks for them. It may end anywhere,
/// and the next run begins again.
pub(crate) fn adopt(pins: &PinRoot) -> Result<(), ProgramsError> {
    let attached = find_attached(pins)?.tables;
    let name = |path: &std::path::Path| path.file_name()?.to_str().map(str::to_owned);
    let is_theirs =
        |path: &&std::path::PathBuf| name(path).is_some_and(|name| name.starts_with(FOLDER));
    let Some(former) = attached.iter().find(is_theirs) else { return Ok(()) };
    let sizes = sizes_of(former)?;
    // `cm_services` comes last: the folder that has it has all.
    for layout in MAPS.iter().rev() {
        if !GROUPS.contains(&(layout.group, layout.group.layout_hash())) {
            continue;
        }
        let pin = former.join(layout.name);
        check(&pin, layout, sizes)?;
        let to = pins.map(sizes, layout)?;
        match fs::remove_file(&to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ProgramsError::Io { path: to, source });
            }
            _ => {}
        }
        let error = |source| MapsError::Map { map: layout.name, source };
        let map = MapData::from_pin(&pin).map_err(error)?;
        let pinned = map.pin(to);
        pinned.map_err(|source| error(MapError::PinError { name: None, error: source }))?;
    }
    Ok(())
}
