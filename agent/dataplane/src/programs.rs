//! Loading the programs onto their tables, and attaching them so that they outlive the agent.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};
use mesh_layout::{COUNTERS, MAPS, MapGroup, MapLayout};
use mesh_sys::Link;

use crate::{
    error::{MapsError, ProgramsError},
    hooks::{HOOKS, Hook},
    kernel::Sizes,
    maps::{self, KernelMaps},
    pinned::{check, knows_others, make_way},
    pins::{PinRoot, entries},
    shape::entries_of,
    socket_list::SocketList,
};

mod audit;

pub use audit::{HookAudit, OtherProgram};

/// The loaded programs.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    sockets: Option<Result<SocketList, ProgramsError>>,
    pins: PinRoot,
    sizes: Sizes,
    /// The pinned maps, in the order of [`layouts`].
    maps: Vec<OwnedFd>,
    /// Where they are attached.
    cgroup: Option<PathBuf>,
    /// Called after each hook's exchange: a test's way to die there.
    exchanged: Option<fn()>,
}

/// What the kernel calls itself.
const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// What is there where the kernel has MPTCP.
const MPTCP: &str = "/proc/sys/net/mptcp";

/// The pinned maps of the object.
fn layouts() -> impl Iterator<Item = &'static MapLayout> {
    MAPS.iter().filter(|layout| layout.group != MapGroup::Health)
}

/// The release of the running kernel, as in `6.12.0`; empty where it cannot be read.
pub fn kernel_release() -> String {
    fs::read_to_string(RELEASE).unwrap_or_default().trim().to_owned()
}

// === impl Programs ===

impl Programs {
    /// Loads the programs onto the pinned tables, which are made where they are missing. Nothing is attached yet.
    pub fn load(pins: PinRoot, sizes: Sizes) -> Result<(Self, KernelMaps), ProgramsError> {
        Self::load_onto(pins, sizes).map_err(|error| error.on(&kernel_release()))
    }

    fn load_onto(pins: PinRoot, sizes: Sizes) -> Result<(Self, KernelMaps), ProgramsError> {
        // Reading the kernel's types takes longer than everything else here: once for all.
        let types = Btf::from_sys_fs();
        let mut loader = EbpfLoader::new();
        loader.btf(types.as_ref().ok());
        for layout in layouts() {
            let pin = pins.map(sizes, layout)?;
            check(&pin, layout, sizes)?;
            loader.map_pin_path(layout.name, pin);
            loader.map_max_entries(layout.name, entries_of(layout, sizes));
        }
        let backend_mask = sizes.backends - 1;
        let has_mptcp = u32::from(Path::new(MPTCP).exists());
        let mut ebpf = loader
            .override_global("BACKEND_MASK", &backend_mask, true)
            .override_global("HAS_MPTCP", &has_mptcp, true)
            .load(mesh_objects::SERVICES)?;
        let mut maps = Vec::with_capacity(MAPS.len());
        for layout in layouts() {
            // What was made just now is as the object has it.
            let pin = pins.map(sizes, layout)?;
            check(&pin, layout, sizes)?;
            let error = |source| MapsError::Memory { map: layout.name, source };
            maps.push(mesh_sys::open(&pin).map_err(error)?);
        }
        for Hook { program, .. } in HOOKS {
            find(&mut ebpf, program)?
                .load()
                .map_err(|source| ProgramsError::Program { program, source })?;
        }
        let sockets = Some(SocketList::load(&mut ebpf, types));
        let tables = KernelMaps::take(&mut ebpf, sizes)?;
        let programs = Self { ebpf, sockets, pins, sizes, maps, cgroup: None, exchanged: None };
        Ok((programs, tables))
    }

    /// Attaches the programs to a cgroup, for all processes in it and below. Where a predecessor's are, they are
    /// exchanged without a moment in between.
    pub fn attach(&mut self, cgroup: &Path) -> Result<(), ProgramsError> {
        let io = |source| ProgramsError::Io { path: cgroup.into(), source };
        let directory = File::open(cgroup).map_err(io)?;
        // A cgroup's id is its directory's inode.
        let cgroup_id = directory.metadata().map_err(io)?.ino();
        let links = self.pins.links()?;
        for hook in &HOOKS {
            self.attach_hook(hook, &directory, cgroup_id)?;
            self.exchanged.into_iter().for_each(|hook| hook());
        }
        // Hooks of another release, which would read its tables forever.
        let unknown = entries(&links)?
            .into_iter()
            .filter(|pin| !HOOKS.iter().any(|h| pin.ends_with(h.program)));
        for pin in unknown {
            make_way(&self.pins, self.sizes, &pin, cgroup_id)?;
        }
        self.pins.forget_others(self.sizes)?;
        self.cgroup = Some(cgroup.into());
        Ok(())
    }

    fn attach_hook(
        &mut self,
        hook: &Hook,
        directory: &File,
        cgroup_id: u64,
    ) -> Result<(), ProgramsError> {
        let name = hook.program;
        let error = |source| ProgramsError::Program { program: name, source };
        let pin = self.pins.links()?.join(name);
        let program = find(&mut self.ebpf, name)?;
        if take_over(&self.pins, self.sizes, &pin, program, cgroup_id)? {
            return Ok(());
        }
        let id = program.attach(directory, CgroupAttachMode::Single).map_err(error)?;
        let link = program.take_link(id).map_err(error)?;
        let link = FdLink::try_from(link);
        let link = link.map_err(|source| ProgramsError::Link { program: name, source })?;
        let pinned = link.pin(&pin);
        pinned.map_err(|source| ProgramsError::Pin { program: name, source })?;
        Ok(())
    }

    /// Has a function called after each hook that [`Programs::attach`] exchanged. Whatever it does, it may not come back:
    /// the next agent finds tables that are whole.
    pub fn after_each_exchange(&mut self, hook: fn()) {
        self.exchanged = Some(hook);
    }

    /// Lets the sockets of these cgroups, by their ids, pass untouched, and of no others. A cgroup below one of them is
    /// another. The map ends with these programs: a previous agent's cgroup is gone with that agent's.
    pub fn set_bypass(&mut self, cgroups: &[u64]) -> Result<(), ProgramsError> {
        Ok(maps::set_bypass(&mut self.ebpf, cgroups)?)
    }

    /// The list of the sockets that the programs connect to backends; once. Its owner may outlive this.
    ///
    /// # Errors
    /// When the kernel has no such list: then everything else works.
    pub fn take_sockets(&mut self) -> Result<SocketList, ProgramsError> {
        self.sockets.take().unwrap_or(Err(ProgramsError::Missing("cm_list_tcp")))
    }

    /// What programs counted on this node since the counters were made, by [`mesh_layout::Counter`]: those of previous
    /// agents and releases with the same layout of counters included.
    pub fn counters(&self) -> Result<[u64; COUNTERS], ProgramsError> {
        Ok(maps::counters(&self.ebpf)?)
    }
}

/// Puts the program behind a pinned link of the same cgroup, unless it lacks what the present program knows of sockets.
/// A link of another cgroup, or of one that is gone, is of no use: it is removed.
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
    if link.info().map_err(io)?.cgroup == cgroup_id
        && !knows_others(pins, sizes, pin, &link)?
        && link.update(fd).is_ok()
    {
        return Ok(true);
    }
    make_way(pins, sizes, pin, cgroup_id)?;
    Ok(false)
}

fn find<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSockAddr, ProgramsError> {
    let program = ebpf.program_mut(name).ok_or(ProgramsError::Missing(name))?;
    program.try_into().map_err(|source| ProgramsError::Program { program: name, source })
}
