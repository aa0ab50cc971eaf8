//! Takes over a node from a previous agent: no connection meets a table that lacks known entries.
//!
//! Tables of other sizes are filled from the ones that programs read, before the programs are replaced. Tables of
//! another layout cannot be read: there the programs stay until the new tables were filled by other means
//! (`docs/adr/0012`). Other groups of maps are taken over as they are, or begin empty where their layout is another
//! (`docs/adr/0027`).

use std::{fmt, path::Path, time::Instant};

use crate::{
    error::ProgramsError,
    kernel::Sizes,
    maps::KernelMaps,
    pinned::{find_attached, sizes_of},
    pins::PinRoot,
    programs::Programs,
    tables::{Shortage, Tables, TablesError},
    ungrouped,
};

/// A node's tables, and the programs that are to be attached.
#[derive(Debug)]
pub struct TakenOver {
    /// The programs, loaded onto the tables.
    pub programs: Programs,
    /// The tables, with all that could be taken over.
    pub tables: Tables<KernelMaps>,
    /// The agent whose programs are attached.
    pub former: Former,
}

/// The former state of the node, which decides when the programs may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// Nothing: the programs may be attached immediately.
    Nothing,
    /// Tables of this layout and these sizes: immediately.
    Same,
    /// Tables of this layout and other sizes, whose content is taken over: immediately.
    Resized(Sizes),
    /// Tables of another layout: when these were filled.
    OtherLayout,
}

/// Why a node cannot be taken over. Its state is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// Programs, maps or pins.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The tables.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// Tables of the wanted sizes do not hold what is in use.
    #[error("the tables cannot become smaller than what is in use: {}", Listed(.0))]
    TooSmall(Vec<Shortage>),
}

/// Several, as text.
struct Listed<'a, T>(&'a [T]);

/// Takes over a node. Nothing is attached yet; attached programs go on as they were until [`Programs::attach`]. The
/// caller has the pins' lock.
pub fn take_over(pins: PinRoot, sizes: Sizes, now: Instant) -> Result<TakenOver, TakeOverError> {
    take_over_step_by_step(pins, sizes, now, || ())
}

/// The same, and has a function called after each write and each exchange of a hook, from the beginning: a test's way to
/// die there.
pub fn take_over_step_by_step(
    pins: PinRoot,
    sizes: Sizes,
    now: Instant,
    written: fn(),
) -> Result<TakenOver, TakeOverError> {
    ungrouped::adopt(&pins)?;
    let target = pins.tables(sizes);
    let attached = find_attached(&pins)?;
    // After an upgrade that was interrupted both tables are complete.
    if attached.tables.contains(&target) {
        return onto(pins, sizes, now, written, Former::Same);
    }
    if !attached.any {
        // Tables that no program reads any more: their cgroup is gone.
        let former = if target.exists() { Former::Same } else { Former::Nothing };
        return onto(pins, sizes, now, written, former);
    }
    // Tables that an agent began to fill before it died.
    pins.forget(&target).map_err(ProgramsError::from)?;
    match attached.tables.iter().find(|tables| pins.is_of_this_layout(tables)) {
        Some(former) => resize(pins, former, sizes, now, written),
        None => onto(pins, sizes, now, written, Former::OtherLayout),
    }
}

fn onto(
    pins: PinRoot,
    sizes: Sizes,
    now: Instant,
    written: fn(),
    former: Former,
) -> Result<TakenOver, TakeOverError> {
    let (programs, maps) = load(pins, sizes, written)?;
    Ok(TakenOver { programs, tables: Tables::restore(maps, now)?, former })
}

fn resize(
    pins: PinRoot,
    former: &Path,
    sizes: Sizes,
    now: Instant,
    written: fn(),
) -> Result<TakenOver, TakeOverError> {
    let former_sizes = sizes_of(former).map_err(ProgramsError::from)?;
    let mut maps = KernelMaps::open(&pins, former_sizes)?;
    maps.after_each_write(written);
    let tables = Tables::restore(maps, now)?;
    let shortages = tables.shortages(sizes);
    if !shortages.is_empty() {
        return Err(TakeOverError::TooSmall(shortages));
    }
    let (programs, maps) = load(pins, sizes, written)?;
    let tables = Tables::adopt(tables, maps, now)?;
    Ok(TakenOver { programs, tables, former: Former::Resized(former_sizes) })
}

fn load(
    pins: PinRoot,
    sizes: Sizes,
    written: fn(),
) -> Result<(Programs, KernelMaps), ProgramsError> {
    let (mut programs, mut maps) = Programs::load(pins, sizes)?;
    programs.after_each_exchange(written);
    maps.after_each_write(written);
    Ok((programs, maps))
}

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, one) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{one}")?;
        }
        Ok(())
    }
}
