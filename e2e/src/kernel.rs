//! Reads the pinned maps of a node, without its agent.

use std::{collections::BTreeSet, path::Path};

use mesh_dump::Dump;
pub use mesh_dump::{Destination, Entries, Entry, Services};

/// The services below a pin root.
pub fn services(pins: &Path) -> Services {
    open(pins).services().unwrap_or_else(|error| panic!("{error}"))
}

/// The same, or the error: the agent may not have made the tables yet.
pub fn try_services(pins: &Path) -> Result<Services, String> {
    let dump = Dump::open(pins).map_err(|error| error.to_string())?;
    dump.services().map_err(|error| error.to_string())
}

/// The services below a pin root, with their groups and settings.
pub fn entries(pins: &Path) -> Entries {
    open(pins).entries().unwrap_or_else(|error| panic!("{error}"))
}

/// The number of entries of backends.
pub fn backend_entries(pins: &Path) -> usize {
    open(pins).backend_entries()
}

/// The IDs of the clusters whose backends are not used because they are unreachable.
pub fn cut(pins: &Path) -> BTreeSet<u16> {
    open(pins).cut()
}

/// The state word of the local cluster, which the agent sets for the programs.
pub fn local_state(pins: &Path) -> u32 {
    open(pins).local_state()
}

fn open(pins: &Path) -> Dump {
    Dump::open(pins).unwrap_or_else(|error| panic!("{error}"))
}
