//! Daemons and pods' processes: started detached, known by number and start time, stopped for sure.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::{
    command::{detach, enter},
    error::LabError,
    state::ProcessState,
};

/// Whether a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It runs.
    Running,
    /// It was stopped, or never started.
    Stopped,
    /// It ended by itself.
    Died,
}

/// How long a process may take to end when asked.
const ASKED: Duration = Duration::from_secs(8);

impl ProcessState {
    /// Starts the process, which must not run.
    pub(crate) fn start(&mut self) -> Result<(), LabError> {
        let (program, arguments) =
            self.command.split_first().ok_or(LabError::Missing(self.name.clone()))?;
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().cloned());
        command.env("RUST_BACKTRACE", "1");
        detach(&mut command, &self.log)?;
        enter(&mut command, &self.netns, &self.cgroup)?;
        let child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => LabError::Missing(program.clone()),
            _ => LabError::Command { command: self.command.join(" "), reason: e.to_string() },
        })?;
        self.pid = i32::try_from(child.id()).unwrap_or_default();
        self.start_time = start_time(self.pid).unwrap_or_default();
        Ok(())
    }

    /// Whether it runs.
    pub fn liveness(&self) -> Liveness {
        match self.pid {
            0 => Liveness::Stopped,
            pid if start_time(pid) == Some(self.start_time) => Liveness::Running,
            _ => Liveness::Died,
        }
    }

    /// Sends a signal, if it is still the same process.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.liveness() == Liveness::Running {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Ends the process: asked first, unless `signal` is one that does not ask.
    pub(crate) fn stop(&mut self, signal: Signal) {
        let deadline = Instant::now() + ASKED;
        self.signal(signal);
        while self.liveness() == Liveness::Running {
            if Instant::now() >= deadline {
                self.signal(Signal::SIGKILL);
            }
            self.reap();
            thread::sleep(Duration::from_millis(2));
        }
        self.reap();
        self.pid = 0;
    }

    /// The end of what it wrote.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }

    /// Takes note of the end of a child of ours; others' children are others' business.
    fn reap(&self) {
        if self.pid > 0 {
            let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// When a process was started, in clock ticks since boot; `None` if there is none, or it has ended and only waits to be
/// noticed. proc_pid_stat(5), field 22.
fn start_time(pid: i32) -> Option<u64> {
    let process = Path::new("/proc").join(pid.to_string());
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    match fields.next()? {
        // A killed process's first thread is dead before its others, which keep its locks and ports until they are too.
        "Z" if fs::read_dir(process.join("task")).ok()?.count() > 1 => {}
        "Z" | "X" => return None,
        _ => {}
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself_and_no_other_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = |pid, start_time| ProcessState {
            name: "x".into(),
            command: vec![],
            netns: String::new(),
            cgroup: "/".into(),
            environment: vec![],
            log: "/dev/null".into(),
            pid,
            start_time,
        };
        assert_eq!(process(own, start_time(own).unwrap()).liveness(), Liveness::Running);
        assert_eq!(process(own, 1).liveness(), Liveness::Died);
        assert_eq!(process(0, 0).liveness(), Liveness::Stopped);
    }
}
