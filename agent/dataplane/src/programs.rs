//! Loading the programs onto their tables, and attaching them so that they outlive the agent.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    pin::PinError as AyaPinError,
    programs::{
        CgroupAttachMode, CgroupSockAddr, ProgramError,
        links::{FdLink, LinkError},
    },
};
use mesh_layout::{COUNTERS, MAPS};
use mesh_sys::Link;

use crate::{
    kernel::Sizes,
    maps::{self, KernelMaps, MapsError},
    pinned::{Shape, entries_of, knows_others, make_way},
    pins::{PinError, PinRoot, entries},
    socket_list::SocketList,
};

/// The loaded programs.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    sockets: Option<Result<SocketList, ProgramsError>>,
    pins: PinRoot,
    sizes: Sizes,
    /// Called after each hook's exchange: a test's way to die there.
    exchanged: Option<fn()>,
}

/// Why the programs are not in place.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// Pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Tables cannot be used.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The object cannot be loaded.
    #[error("the programs do not load: {0}")]
    Load(#[from] EbpfError),
    /// The object lacks a program, or the kernel refuses it.
    #[error("{program}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// The object lacks a program.
    #[error("the object has no program {0}")]
    Missing(&'static str),
    /// The link cannot be made or kept.
    #[error("{program}: link: {source}")]
    Link {
        /// The program.
        program: &'static str,
        /// Why.
        source: LinkError,
    },
    /// The link cannot be pinned.
    #[error("{program}: pin: {source}")]
    Pin {
        /// The program.
        program: &'static str,
        /// Why.
        source: AyaPinError,
    },
    /// The cgroup, or a pinned link, cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The object that `build.rs` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-programs.o"));

/// What is there where the kernel has MPTCP.
const MPTCP: &str = "/proc/sys/net/mptcp";

/// The hooks. Those that reverse an address come first: nothing must be translated that could not be shown as asked.
pub(crate) const HOOKS: [&str; 8] = [
    "cm_getpeername4",
    "cm_getpeername6",
    "cm_recvmsg4",
    "cm_recvmsg6",
    "cm_connect4",
    "cm_connect6",
    "cm_sendmsg4",
    "cm_sendmsg6",
];

impl Programs {
    /// Loads the programs onto the pinned tables, which are made where they are missing. Nothing is attached yet.
    pub fn load(pins: PinRoot, sizes: Sizes) -> Result<(Self, KernelMaps), ProgramsError> {
        // Reading the kernel's types takes longer than everything else here: once for all.
        let types = Btf::from_sys_fs();
        let mut loader = EbpfLoader::new();
        loader.btf(types.as_ref().ok());
        for layout in &MAPS {
            let pin = pins.map(sizes, layout)?;
            Shape::check(&pin, layout, sizes)?;
            loader.map_pin_path(layout.name, pin);
            if let Some(entries) = entries_of(layout.name, sizes) {
                loader.map_max_entries(layout.name, entries);
            }
        }
        let backend_mask = sizes.backends - 1;
        let has_mptcp = u32::from(Path::new(MPTCP).exists());
        let mut ebpf = loader
            .override_global("BACKEND_MASK", &backend_mask, true)
            .override_global("HAS_MPTCP", &has_mptcp, true)
            .load(OBJECT)?;
        for hook in HOOKS {
            program(&mut ebpf, hook)?
                .load()
                .map_err(|source| ProgramsError::Program { program: hook, source })?;
        }
        let sockets = Some(SocketList::load(&mut ebpf, types));
        let tables = KernelMaps::take(&mut ebpf, sizes)?;
        Ok((Self { ebpf, sockets, pins, sizes, exchanged: None }, tables))
    }

    /// Attaches the programs to a cgroup, for all processes in it and below. Where a predecessor's are, they are
    /// exchanged without a moment in between.
    pub fn attach(&mut self, cgroup: &Path) -> Result<(), ProgramsError> {
        let io = |source| ProgramsError::Io { path: cgroup.into(), source };
        let directory = File::open(cgroup).map_err(io)?;
        // A cgroup's id is its directory's inode.
        let cgroup_id = directory.metadata().map_err(io)?.ino();
        let links = self.pins.links()?;
        for hook in HOOKS {
            let pin = links.join(hook);
            let program = program(&mut self.ebpf, hook)?;
            if !take_over(&self.pins, self.sizes, &pin, program, cgroup_id)? {
                let id = program
                    .attach(&directory, CgroupAttachMode::Single)
                    .map_err(|source| ProgramsError::Program { program: hook, source })?;
                let link = program
                    .take_link(id)
                    .map_err(|source| ProgramsError::Program { program: hook, source })?;
                let link = FdLink::try_from(link)
                    .map_err(|source| ProgramsError::Link { program: hook, source })?;
                link.pin(&pin).map_err(|source| ProgramsError::Pin { program: hook, source })?;
            }
            self.exchanged.into_iter().for_each(|hook| hook());
        }
        // Hooks of another release, which would read its tables for ever.
        let unknown =
            entries(&links)?.into_iter().filter(|pin| !HOOKS.iter().any(|h| pin.ends_with(h)));
        for pin in unknown {
            make_way(&self.pins, self.sizes, &pin, cgroup_id)?;
        }
        self.pins.forget_others(self.sizes)?;
        Ok(())
    }

    /// Has a function called after each hook that [`Programs::attach`] exchanged. Whatever it does, it may not come back:
    /// the next agent finds tables that are whole.
    pub fn after_each_exchange(&mut self, hook: fn()) {
        self.exchanged = Some(hook);
    }

    /// Lets the sockets of these cgroups, by their ids, pass untouched, and of no others. A cgroup below one of them is
    /// another. The map is this loading's own: a former agent's cgroup is gone with that agent's programs.
    pub fn set_bypass(&mut self, cgroups: &[u64]) -> Result<(), ProgramsError> {
        Ok(maps::set_bypass(&mut self.ebpf, cgroups)?)
    }

    /// The list of the sockets that the programs connect to backends; once. Whoever has it may outlive this.
    ///
    /// # Errors
    /// When the kernel has no such list: then everything else works.
    pub fn take_sockets(&mut self) -> Result<SocketList, ProgramsError> {
        self.sockets.take().unwrap_or(Err(ProgramsError::Missing(SocketList::PROGRAM)))
    }

    /// What the programs counted since they were loaded, by [`mesh_layout::Counter`].
    pub fn counters(&self) -> Result<[u64; COUNTERS], ProgramsError> {
        Ok(maps::counters(&self.ebpf)?)
    }
}

/// Puts the program behind a pinned link of the same cgroup, unless it does not know what the one that is there knows of
/// sockets. A link of another cgroup, or of one that is gone, is of no use: it is removed.
fn take_over(
    pins: &PinRoot,
    sizes: Sizes,
    pin: &Path,
    program: &CgroupSockAddr,
    cgroup_id: u64,
) -> Result<bool, ProgramsError> {
    let io = |source| ProgramsError::Io { path: pin.into(), source };
    if !pin.exists() {
        return Ok(false);
    }
    let link = Link::open(pin).map_err(io)?;
    let fd =
        program.fd().map_err(|source| ProgramsError::Program { program: "pinned link", source })?;
    if link.cgroup_id().map_err(io)? == cgroup_id
        && !knows_others(pins, sizes, pin, &link)?
        && link.update(fd).is_ok()
    {
        return Ok(true);
    }
    make_way(pins, sizes, pin, cgroup_id)?;
    Ok(false)
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSockAddr, ProgramsError> {
    let program = ebpf.program_mut(name).ok_or(ProgramsError::Missing(name))?;
    program.try_into().map_err(|source| ProgramsError::Program { program: name, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_is_attached_before_what_translates() {
        let translates = |hook: &str| hook.contains("connect") || hook.contains("sendmsg");
        let (show, translate) = HOOKS.split_at(4);
        assert!(!show.iter().any(|hook| translates(hook)));
        assert!(translate.iter().all(|hook| translates(hook)));
    }
}
