//! A place to measure in, apart from the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use crate::{
    clean_up::{PINS, SANDBOX, cgroup2, left_behind},
    command::run,
    error::{BenchError, file, io},
};

/// A network namespace that the calling thread, and what it starts, is in; a cgroup for the processes that are measured
/// with programs; and a folder for pins. Cgroup and pins go with it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) cgroup: PathBuf,
    pub(crate) pins: PathBuf,
}

impl Sandbox {
    /// Takes this thread out of the machine's network.
    pub(crate) fn new() -> Result<Self, BenchError> {
        left_behind()?;
        let name = format!("{SANDBOX}{}", process::id());
        let sandbox = Self { cgroup: cgroup2()?.join(&name), pins: Path::new(PINS).join(name) };
        fs::create_dir(&sandbox.cgroup).map_err(file(&sandbox.cgroup))?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|errno| io("a network namespace (this needs root)")(errno.into()))?;
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        Ok(sandbox)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.pins);
        let _ = fs::remove_dir(&self.cgroup);
    }
}
