//! Removes what a benchmark created, by its names: also after the process was killed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::{Duration, Instant},
};

use mesh_files::MOUNT_CGROUP2;
use mesh_lab::Lab;

use crate::{
    command::run,
    error::{BenchError, file},
};

/// The prefix of a process's cgroups and pins; its PID follows.
pub(crate) const SANDBOX: &str = "clustermesh-bench-";
/// The prefix of its network namespaces; its PID and a number follow.
pub(crate) const NETNS: &str = "cmbench-";
/// The folder for pinned programs and tables.
pub(crate) const PINS: &str = "/sys/fs/bpf";
/// The folder in which `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// The longest time for a killed process to leave its cgroup.
const ENDING: Duration = Duration::from_secs(5);

/// Removes what this process's benchmarks created: the lab of this name, cgroups with their processes, network namespaces
/// and pins. It is no error if some of it does not exist.
pub fn clean_up(lab: &str) -> Result<(), BenchError> {
    sandbox_of(process::id())?;
    Lab::down(lab)?;
    Ok(())
}

/// Does the same for processes that do not run any more.
pub(crate) fn left_behind() -> Result<(), BenchError> {
    let cgroups = cgroup2()?;
    let named = |folder: &Path, prefix: &str| -> Vec<u32> {
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let id = |name: String| name.strip_prefix(prefix)?.split('-').next()?.parse().ok();
        names.filter_map(id).collect()
    };
    let mut processes = named(&cgroups, SANDBOX);
    processes.extend(named(Path::new(PINS), SANDBOX));
    processes.extend(named(Path::new(NAMES), NETNS));
    processes.sort_unstable();
    processes.dedup();
    let is_gone = |id: &u32| !Path::new("/proc").join(id.to_string()).exists();
    processes.into_iter().filter(is_gone).try_for_each(sandbox_of)
}

/// The path of the first cgroup2 mount.
pub(crate) fn cgroup2() -> Result<PathBuf, BenchError> {
    mesh_files::first_cgroup2()
        .ok_or_else(|| BenchError::Unexpected(format!("no cgroup2 is mounted: {MOUNT_CGROUP2}")))
}

/// Removes the sandbox of a process.
fn sandbox_of(id: u32) -> Result<(), BenchError> {
    let cgroup = cgroup2()?.join(format!("{SANDBOX}{id}"));
    if cgroup.exists() {
        let kill = cgroup.join("cgroup.kill");
        fs::write(&kill, "1").map_err(file(kill))?;
        let began = Instant::now();
        while let Err(error) = fs::remove_dir(&cgroup) {
            if error.raw_os_error() != Some(nix::libc::EBUSY) || began.elapsed() > ENDING {
                return Err(file(cgroup)(error));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    let prefix = format!("{NETNS}{id}-");
    let names = fs::read_dir(NAMES).into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        if name.starts_with(&prefix) {
            run(Command::new("ip").args(["netns", "delete", &name]))?;
        }
    }
    let pins = Path::new(PINS).join(format!("{SANDBOX}{id}"));
    match fs::remove_dir_all(&pins) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(pins)(error)),
        _ => Ok(()),
    }
}
