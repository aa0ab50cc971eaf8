//! Tries whether the node's kernel accepts the programs, and leaves nothing of them.
//!
//! A thread tries it, in a mount namespace with a BPF file system of its own: whatever becomes of the process, what was
//! pinned there ends with the thread, and so does what was attached by it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process, thread,
};

use mesh_files::{BPF_FS, first_cgroup2};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{
    error::ProgramsError,
    kernel::Sizes,
    pins::PinRoot,
    probe_answer::{ProbeAnswer, ProbeAnswerError},
    programs::Programs,
};

/// What the kernel accepts.
#[derive(Debug)]
pub struct KernelTrial {
    /// The socket programs were loaded onto tables, and attached to a cgroup.
    pub programs: Result<(), TrialError>,
    /// It lists sockets with their backends; `None` where the programs could not be loaded.
    pub socket_list: Option<Result<(), ProgramsError>>,
    /// It can answer probes. Nothing was attached.
    pub probe_answer: Result<(), ProbeAnswerError>,
}

/// Why it cannot be tried, or what is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// No thread with a mount namespace of its own, or no BPF file system in it.
    #[error("no BPF file system can be mounted: {0}")]
    Room(io::Error),
    /// No cgroup2.
    #[error("no cgroup2 is mounted")]
    NoCgroup2,
    /// No cgroup can be made.
    #[error("no cgroup can be made to attach the programs to: {}: {source}", path.display())]
    Cgroup {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Programs, maps or pins.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
}

/// As small as tables may be: nothing is written to them.
const SIZES: Sizes = Sizes { services: 64, backends: 64, slots: 64, groups: 16 };

/// Tries it. Takes less than a second.
///
/// # Errors
/// Where it cannot be tried.
pub fn try_kernel() -> Result<KernelTrial, TrialError> {
    let trial = thread::Builder::new().name("kernel-trial".into()).spawn(in_own_room);
    let ended = trial.map_err(TrialError::Room)?.join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The same on a thread that does not come back from its namespace.
fn in_own_room() -> Result<KernelTrial, TrialError> {
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, private, none))
        .and_then(|()| mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), none))
        .map_err(|errno| TrialError::Room(errno.into()))?;
    let pins = PinRoot::open(&Path::new(BPF_FS).join("clustermesh-check"));
    let pins = pins.map_err(ProgramsError::from)?;
    let probe_answer = ProbeAnswer::load(pins.clone()).map(drop);
    let (programs, socket_list) = match Programs::load(pins, SIZES) {
        Ok((mut programs, _tables)) => {
            let socket_list = programs.take_sockets().map(drop);
            (attach(&mut programs), Some(socket_list))
        }
        Err(error) => (Err(error.into()), None),
    };
    Ok(KernelTrial { programs, socket_list, probe_answer })
}

/// Attaches the programs to a cgroup that no process is in, and that goes again.
fn attach(programs: &mut Programs) -> Result<(), TrialError> {
    let root = first_cgroup2().ok_or(TrialError::NoCgroup2)?;
    let path = root.join(format!("clustermesh-check-{}", process::id()));
    fs::create_dir(&path).map_err(|source| TrialError::Cgroup { path: path.clone(), source })?;
    let attached = programs.attach(&path);
    // The programs go with the cgroup, or with the thread.
    let removed = fs::remove_dir(&path);
    attached?;
    removed.map_err(|source| TrialError::Cgroup { path, source })
}
