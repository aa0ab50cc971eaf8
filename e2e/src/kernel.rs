//! What is in a node's kernel: neither the agent nor its tables are asked.

use std::{collections::BTreeSet, path::Path};

use mesh_dump::Dump;
pub use mesh_dump::{Destination, Entries, Entry, Services};

/// The services below a pin root.
pub fn services(pins: &Path) -> Services {
    open(pins).services().unwrap_or_else(|error| panic!("{error}"))
}

/// The services below a pin root, or why they cannot be read: the agent may not have made the tables yet.
pub fn try_services(pins: &Path) -> Result<Services, String> {
    let dump = Dump::open(pins).map_err(|error| error.to_string())?;
    dump.services().map_err(|error| error.to_string())
}

/// The services below a pin root, with their groups and settings.
pub fn entries(pins: &Path) -> Entries {
    open(pins).entries().unwrap_or_else(|error| panic!("{error}"))
}

/// How many backends have an entry.
pub fn backend_entries(pins: &Path) -> usize {
    open(pins).backend_entries()
}

/// The IDs of the clusters whose backends are out of use.
pub fn cut(pins: &Path) -> BTreeSet<u16> {
    open(pins).cut()
}

/// The state of the node itself that its agent gave to the programs.
pub fn local_state(pins: &Path) -> u32 {
    open(pins).local_state()
}

fn open(pins: &Path) -> Dump {
    Dump::open(pins).unwrap_or_else(|error| panic!("{error}"))
}
