//! An environment for measurements, apart from the rest of the machine.

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

/// A network namespace for the calling thread and the processes that it starts, a cgroup for the processes whose connections
/// the programs handle, and a folder for pins. Cgroup and pins are removed when the value is dropped.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) cgroup: PathBuf,
    pub(crate) pins: PathBuf,
}

impl Sandbox {
    /// Moves this thread to a new network namespace.
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
