//! A place of our own to measure in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use crate::error::{BenchError, file, io};

/// A network namespace that this process, and what it starts, is in; a cgroup for those that are measured with programs;
/// and a folder for pins. Cgroup and pins go with it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) cgroup: PathBuf,
    pub(crate) pins: PathBuf,
}

impl Sandbox {
    /// Takes this thread out of the machine's network.
    pub(crate) fn new() -> Result<Self, BenchError> {
        let mounts = Path::new("/proc/mounts");
        let text = fs::read_to_string(mounts).map_err(file(mounts))?;
        let cgroup2 = text.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let path = words.next()?;
            (words.next()? == "cgroup2").then(|| PathBuf::from(path))
        });
        let cgroup2 = cgroup2.ok_or_else(|| {
            BenchError::Unexpected(
                "no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified".into(),
            )
        })?;
        let name = format!("clustermesh-bench-{}", process::id());
        let place = Self { cgroup: cgroup2.join(&name), pins: Path::new("/sys/fs/bpf").join(name) };
        fs::create_dir(&place.cgroup).map_err(file(&place.cgroup))?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|errno| io("a network namespace (this needs root)")(errno.into()))?;
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        Ok(place)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.pins);
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Runs a command, and returns what it wrote.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>, BenchError> {
    let words = format!("{command:?}");
    let failed = |said: String| BenchError::Command { command: words, said };
    match command.output() {
        Ok(output) if output.status.success() => Ok(output.stdout),
        Ok(output) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}
