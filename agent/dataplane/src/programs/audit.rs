//! Checks whether the programs are where they were attached. Any process of root's can remove a link or replace its
//! program; no event reports it, and connections would pass untranslated.

use std::{fs::File, io, os::unix::fs::MetadataExt as _, path::Path};

use mesh_sys::{Link, Program, programs_at};

use super::{Programs, find, layouts};
use crate::{
    error::ProgramsError,
    hooks::{HOOKS, Hook},
    pins::entries,
};

/// What a look at the hooks found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookAudit {
    /// Programs that were not at their hook any more, and are again.
    pub attached: Vec<&'static str>,
    /// Maps that were not pinned any more, and are again.
    pub pinned: Vec<&'static str>,
    /// Programs at our hooks that are not the mesh's.
    pub others: Vec<OtherProgram>,
}

/// A program that is not the mesh's, at a hook of the mesh's: another load balancer of sockets, perhaps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtherProgram {
    /// The mesh's program at the same hook.
    pub beside: &'static str,
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// It runs before the mesh's: of a connection that it leads to a backend the mesh sees no service.
    pub is_first: bool,
}

impl HookAudit {
    /// How much was otherwise than it should be.
    pub fn repairs(&self) -> u64 {
        u64::try_from(self.attached.len() + self.pinned.len()).unwrap_or(u64::MAX)
    }
}

impl Programs {
    /// Restores what is not attached or pinned as it was, and finds which other programs are at the hooks. Costs some
    /// hundred microseconds where nothing is to be done. Before [`Programs::attach`] nothing is ours, and nothing is
    /// found.
    ///
    /// # Errors
    /// Where something cannot be restored. The rest was.
    pub fn audit(&mut self) -> Result<HookAudit, ProgramsError> {
        let mut found = HookAudit::default();
        let Some(cgroup) = self.cgroup.clone() else { return Ok(found) };
        let io = |source| ProgramsError::Io { path: cgroup.clone(), source };
        let directory = File::open(&cgroup).map_err(io)?;
        let cgroup_id = directory.metadata().map_err(io)?.ino();
        let mut failed = self.audit_pins(&mut found).err();
        for hook in &HOOKS {
            match self.audit_hook(hook, &directory, cgroup_id) {
                Ok(true) => {}
                Ok(false) => found.attached.push(hook.program),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match self.others(&directory).map_err(io) {
            Ok(others) => found.others = others,
            Err(error) => failed = failed.or(Some(error)),
        }
        failed.map_or(Ok(found), Err)
    }

    /// Which of the programs do not run for processes in a cgroup, whatever was attached above it. None before
    /// [`Programs::attach`].
    ///
    /// # Errors
    /// Where that cannot be asked, as of a cgroup that is gone.
    pub fn missing_at(&mut self, cgroup: &Path) -> Result<Vec<&'static str>, ProgramsError> {
        if self.cgroup.is_none() {
            return Ok(Vec::new());
        }
        let io = |source| ProgramsError::Io { path: cgroup.into(), source };
        let directory = File::open(cgroup).map_err(io)?;
        let mut missing = Vec::new();
        for Hook { program, at } in HOOKS {
            let ours = id(&mut self.ebpf, program)?;
            if !programs_at(&directory, at).map_err(io)?.contains(&ours) {
                missing.push(program);
            }
        }
        Ok(missing)
    }

    /// Whether a hook runs our program; else it does now.
    fn audit_hook(
        &mut self,
        hook: &Hook,
        directory: &File,
        cgroup_id: u64,
    ) -> Result<bool, ProgramsError> {
        let pin = self.pins.links()?.join(hook.program);
        let ours = id(&mut self.ebpf, hook.program)?;
        let is_there = Link::open(&pin)
            .and_then(|link| link.info())
            .is_ok_and(|link| (link.cgroup, link.program) == (cgroup_id, ours));
        if !is_there {
            self.attach_hook(hook, directory, cgroup_id)?;
        }
        Ok(is_there)
    }

    /// Pins the maps that are not: the next agent finds them.
    fn audit_pins(&self, found: &mut HookAudit) -> Result<(), ProgramsError> {
        for (layout, map) in layouts().zip(&self.maps) {
            let pin = self.pins.map(self.sizes, layout)?;
            if !pin.exists() {
                let io = |source| ProgramsError::Io { path: pin.clone(), source };
                mesh_sys::pin(map, &pin).map_err(io)?;
                found.pinned.push(layout.name);
            }
        }
        Ok(())
    }

    fn others(&mut self, directory: &File) -> io::Result<Vec<OtherProgram>> {
        let links = self.pins.links().map_err(io::Error::other)?;
        // Hooks of another release that stay beside ours.
        let pinned = entries(&links).map_err(io::Error::other)?;
        let pinned: Vec<u32> = pinned.iter().filter_map(|pin| program_of(pin).ok()).collect();
        let mut others = Vec::new();
        for Hook { program, at } in HOOKS {
            let ids = programs_at(directory, at)?;
            let ours = ids.iter().position(|id| pinned.contains(id));
            let strangers = ids.iter().enumerate().filter(|(_, id)| !pinned.contains(id));
            for (place, id) in strangers {
                // It may be gone by now.
                let Ok(name) = Program::by_id(*id).and_then(|program| program.name()) else {
                    continue;
                };
                let is_first = ours.is_some_and(|ours| place < ours);
                others.push(OtherProgram { beside: program, name, is_first });
            }
        }
        Ok(others)
    }
}

fn id(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<u32, ProgramsError> {
    let error = |source| ProgramsError::Program { program: name, source };
    Ok(find(ebpf, name)?.info().map_err(error)?.id())
}

fn program_of(pin: &Path) -> io::Result<u32> {
    Ok(Link::open(pin)?.info()?.program)
}
