//! The proof that the attached programs run for other processes than the agent: that a call to attach them succeeded says
//! nothing about it.
//!
//! Two things are seen. The programs are effective in cgroups of others: of a pod, and of the container runtime or another
//! service of the node. And they have counted a call of `connect` by another process. On a host the agent makes one, by a
//! child in a cgroup beside its own. A container may not leave its cgroup: there, the kubelet calls with its next probe.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mesh_dataplane::{ForeignCgroups, NoEffect, Programs, ProgramsError, is_container};
use mesh_layout::Counter;

/// The state of the proof, for programs that were attached.
#[derive(Debug)]
pub(crate) struct Effect {
    root: PathBuf,
    foreign: ForeignCgroups,
    found: Instant,
    /// How many calls had been counted when the programs were attached.
    before: u64,
    call: Call,
}

/// A call of `connect` by another process.
#[derive(Debug)]
enum Call {
    /// The programs have counted one.
    Counted,
    /// They have not yet, and the agent has not made one.
    Due,
    /// They have not yet, and the agent made one, or why it cannot.
    Awaited(Result<(), String>),
}

/// How often cgroups of others are looked for where there were none of a kind.
const LOOK: Duration = Duration::from_secs(30);
/// The cgroup of the child that calls.
const CALLER: &str = "clustermesh-agent-proof";
/// The command of this program that calls.
pub(crate) const CALL: &str = "connect-once";

// === impl Effect ===

impl Effect {
    /// Of programs that were attached just now, with the cgroups that were found before.
    pub(crate) fn new(root: &Path, foreign: ForeignCgroups, programs: &Programs) -> Self {
        Self {
            root: root.into(),
            foreign,
            found: Instant::now(),
            before: calls(programs).unwrap_or_default(),
            call: Call::Due,
        }
    }

    /// Checks it again.
    ///
    /// # Errors
    /// Why it is not proved, as a message.
    pub(crate) fn check(&mut self, programs: &mut Programs) -> Result<(), String> {
        self.look().map_err(|error| error.to_string())?;
        for cgroup in [&self.foreign.pod, &self.foreign.node].into_iter().flatten() {
            match programs.missing_at(cgroup) {
                Ok(missing) if missing.is_empty() => {}
                Ok(missing) => {
                    return Err(format!(
                        "in {}, another process's cgroup, these programs do not run: {}",
                        cgroup.display(),
                        missing.join(", ")
                    ));
                }
                // It is gone; the next check has another.
                Err(ProgramsError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        self.check_calls(programs)
    }

    /// Looks for cgroups of others where those that were found are gone, and from time to time where there were none.
    fn look(&mut self) -> Result<(), NoEffect> {
        let ForeignCgroups { pod, node } = &self.foreign;
        let is_gone = [pod, node].into_iter().flatten().any(|cgroup| !is_populated(cgroup));
        let is_due = (pod.is_none() || node.is_none()) && self.found.elapsed() >= LOOK;
        if is_gone || is_due {
            self.foreign = ForeignCgroups::find(&self.root)?;
            self.found = Instant::now();
        }
        Ok(())
    }

    fn check_calls(&mut self, programs: &Programs) -> Result<(), String> {
        if matches!(self.call, Call::Counted) {
            return Ok(());
        }
        let counted = || Ok::<_, String>(calls(programs)? > self.before);
        if !counted()? && matches!(self.call, Call::Due) {
            let made = match is_container() {
                true => Err("a container may not leave its cgroup".into()),
                false => call(&self.root).map_err(|error| error.to_string()),
            };
            self.call = Call::Awaited(made);
        }
        if counted()? {
            self.call = Call::Counted;
            return Ok(());
        }
        let root = self.root.display();
        Err(match &self.call {
            Call::Awaited(Err(why)) => format!(
                "the programs at {root} have not run for another process than the agent yet: waiting for any to connect ({why})"
            ),
            _ => format!("the programs at {root} did not run for a process in a cgroup below it"),
        })
    }
}

/// The calls of `connect` by other processes that programs counted, those of former agents included.
fn calls(programs: &Programs) -> Result<u64, String> {
    let counters = programs.counters().map_err(|error| error.to_string())?;
    Ok(counters.get(Counter::Called as usize).copied().unwrap_or_default())
}

fn is_populated(cgroup: &Path) -> bool {
    let events = fs::read_to_string(cgroup.join("cgroup.events"));
    events.is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// Has a child call `connect` in a cgroup of its own below `root`, which goes again.
fn call(root: &Path) -> io::Result<()> {
    let cgroup = root.join(CALLER);
    match fs::create_dir(&cgroup) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let called = call_in(&cgroup);
    // The child has ended, and no other process is in it.
    let removed = fs::remove_dir(&cgroup);
    called.and(removed)
}

fn call_in(cgroup: &Path) -> io::Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .arg(CALL)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let moved = fs::write(cgroup.join("cgroup.procs"), child.id().to_string());
    // It waits for the end of its input; where it was not moved, its call is the agent's and is not counted.
    drop(child.stdin.take());
    child.wait()?;
    moved
}
