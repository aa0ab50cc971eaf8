//! The processes of daemons and pods. They are started detached, and identified by PID and start time.
//!
//! Each is the child of a shell, which outlives the command that started it and records how its child ended.

use std::{
    env, fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    command::{detach, enter},
    error::LabError,
    state::ProcessState,
};

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It runs.
    Running,
    /// It was stopped, or never started.
    Stopped,
    /// It ended without being stopped.
    Died,
}

/// How a process ended without being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this code.
    Exited(i32),
    /// It was killed by this signal.
    Killed(Signal),
}

/// The longest time for a process to end after the first signal.
const ASKED: Duration = Duration::from_secs(8);
/// The longest time for the shell to record how its child ended.
const RECORDING: Duration = Duration::from_millis(200);
/// The interval of checks.
const LOOK: Duration = Duration::from_millis(2);
/// Starts a program in the background, in the cgroup whose `cgroup.procs` is `$1`. Writes its PID to the pipe on standard
/// input, and its exit code to the file `$0`.
const RECORDER: &str = r#"exec 3>&0 0</dev/null
{
    procs="$1"
    shift
    { echo 0 >"$procs" && exec "$@" 3>&-; } &
    echo "$!" >&3
    exec 3>&-
    wait "$!"
    echo "$?" >"$0"
} &"#;

impl ProcessState {
    /// Starts the process, which must not be running.
    pub(crate) fn start(&mut self) -> Result<(), LabError> {
        let (program, arguments) =
            self.command.split_first().ok_or(LabError::Missing(self.name.clone()))?;
        if !is_there(program) {
            return Err(LabError::Missing(program.clone()));
        }
        let record = self.record();
        let _ = fs::remove_file(&record);
        let mut command = recorder(&record, &self.cgroup.join("cgroup.procs"));
        command.arg(program).args(arguments);
        command.envs(self.environment.iter().cloned()).env("RUST_BACKTRACE", "1");
        detach(&mut command, &self.log)?;
        // The shell is in the parent cgroup: an agent has a cgroup of its own.
        enter(&mut command, &self.netns, self.cgroup.parent().unwrap_or(&self.cgroup))?;
        self.pid = run_recorder(command).map_err(|reason| LabError::Command {
            command: self.command.join(" "),
            reason: reason.to_string(),
        })?;
        self.start_time = start_time(self.pid).unwrap_or_default();
        Ok(())
    }

    /// How it ended. `None` if it runs, if it was stopped, or if that is not known.
    pub fn ending(&self) -> Option<Ending> {
        let deadline = Instant::now() + RECORDING;
        while self.liveness() == Liveness::Died {
            let text = fs::read_to_string(self.record()).unwrap_or_default();
            match text.strip_suffix('\n').and_then(|code| code.parse().ok()) {
                Some(code) => return Some(Ending::of_shell(code)),
                None if Instant::now() >= deadline => return None,
                None => thread::sleep(LOOK),
            }
        }
        None
    }

    /// The file with the exit code.
    fn record(&self) -> PathBuf {
        self.log.with_extension("exit")
    }

    /// Whether it runs, by its PID and start time.
    pub fn liveness(&self) -> Liveness {
        match self.pid {
            0 => Liveness::Stopped,
            pid if start_time(pid) == Some(self.start_time) => Liveness::Running,
            _ => Liveness::Died,
        }
    }

    /// Sends a signal, unless the PID belongs to another process by now.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.liveness() == Liveness::Running {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// The end of what it wrote.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }
}

/// Ends processes side by side: asked first, unless `signal` is one that does not ask. `waiting` gets the names of those that
/// still run, in order: before they are asked, and at each look.
pub(crate) fn stop_all(
    processes: &mut [&mut ProcessState],
    signal: Signal,
    waiting: &mut dyn FnMut(&[&str]),
) {
    let deadline = Instant::now() + ASKED;
    are_waited_for(processes, waiting);
    processes.iter().for_each(|process| process.signal(signal));
    while are_waited_for(processes, waiting) {
        if Instant::now() >= deadline {
            processes.iter().for_each(|process| process.signal(Signal::SIGKILL));
        }
        thread::sleep(LOOK);
    }
    processes.iter_mut().for_each(|process| process.pid = 0);
}

/// Whether any process still runs; `waiting` gets the names of those that do.
fn are_waited_for(processes: &[&mut ProcessState], waiting: &mut dyn FnMut(&[&str])) -> bool {
    let left = processes.iter().filter(|process| process.liveness() == Liveness::Running);
    let left: Vec<&str> = left.map(|process| process.name.as_str()).collect();
    if !left.is_empty() {
        waiting(&left);
    }
    !left.is_empty()
}

/// The shell, without the program that it is to start: its exit code goes to `record`, and `procs` is its cgroup's file.
fn recorder(record: &Path, procs: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(RECORDER).arg(record).arg(procs);
    command
}

/// Runs the shell, and returns the PID of its child.
fn run_recorder(mut command: Command) -> io::Result<i32> {
    let (mut id, to_shell) = io::pipe()?;
    command.stdin(to_shell);
    let mut shell = command.spawn()?;
    // It holds the other end of the pipe.
    drop(command);
    let mut text = String::new();
    id.read_to_string(&mut text)?;
    let is_started = shell.wait()?.success();
    let id = text.trim().parse().ok().filter(|_| is_started);
    id.ok_or_else(|| io::Error::other("the shell did not start it"))
}

/// Whether a program exists: at a path with a slash, or by its name in a folder of `$PATH`.
fn is_there(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&paths);
    match program.contains('/') {
        true => Path::new(program).is_file(),
        false => folders.any(|folder| folder.join(program).is_file()),
    }
}

impl Ending {
    /// From the status of a shell's `wait`: 128 and the number of the signal, or the exit code.
    fn of_shell(code: i32) -> Self {
        match Signal::try_from(code - 128) {
            Ok(signal) => Self::Killed(signal),
            Err(_) => Self::Exited(code),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited({code})"),
            Self::Killed(signal) => write!(f, "killed({signal})"),
        }
    }
}

/// The time at which a process was started, in clock ticks since boot; `None` if it does not exist, or is a zombie.
/// proc_pid_stat(5), field 22.
fn start_time(pid: i32) -> Option<u64> {
    let process = Path::new("/proc").join(pid.to_string());
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name, in parentheses, may have spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    match fields.next()? {
        // The first thread of a killed process may end before others, which hold its locks and ports until they end.
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

    #[test]
    fn a_shell_says_how_a_process_ended() {
        for (code, ending) in [
            (0, "exited(0)"),
            (7, "exited(7)"),
            (127, "exited(127)"),
            (128, "exited(128)"),
            (137, "killed(SIGKILL)"),
            (255, "exited(255)"),
        ] {
            assert_eq!(Ending::of_shell(code).to_string(), ending);
        }
    }

    /// The script without namespaces: it writes the PID and the exit code of the program.
    #[test]
    fn the_recorder_names_its_child_and_writes_its_exit_code() {
        let folder = tempfile::tempdir().unwrap();
        for (script, code) in [("exit 7", "7\n"), ("kill -KILL $$", "137\n")] {
            let [record, pid] = ["record", "pid"].map(|name| folder.path().join(name));
            let _ = fs::remove_file(&record);
            let script = format!("echo $$ > {}; {script}", pid.display());
            let mut command = recorder(&record, &folder.path().join("procs"));
            command.args(["/bin/sh", "-c", &script]);
            let child = run_recorder(command).unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut recorded = String::new();
            while recorded != code {
                assert!(Instant::now() < deadline, "{script}: {recorded:?}");
                thread::sleep(LOOK);
                recorded = fs::read_to_string(&record).unwrap_or_default();
            }
            assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{child}\n"));
        }
    }

    /// Each process ends when all have received the signal. If they were stopped one after another, the first would be
    /// killed.
    #[test]
    fn processes_end_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let asked = folder.path().join("asked");
        fs::create_dir(&asked).unwrap();
        let script = "trap 'touch asked/$0; while [ $(ls asked | wc -l) -lt 3 ]; do sleep 0.01; done; exit 0' TERM
            touch up-$0; while :; do sleep 0.01; done";
        let mut processes: Vec<ProcessState> = ["a", "b", "c"]
            .map(|name| {
                let log = folder.path().join(name).with_extension("log");
                let procs = folder.path().join("procs");
                let mut command = recorder(&log.with_extension("exit"), &procs);
                command.args(["/bin/sh", "-c", script, name]).current_dir(folder.path());
                let pid = run_recorder(command).unwrap();
                ProcessState {
                    name: name.into(),
                    command: vec![],
                    netns: String::new(),
                    cgroup: "/".into(),
                    environment: vec![],
                    log,
                    pid,
                    start_time: start_time(pid).unwrap(),
                }
            })
            .into();
        let eventually = |what: &str, is: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(30);
            while !is() {
                assert!(Instant::now() < deadline, "{what}");
                thread::sleep(LOOK);
            }
        };
        for process in &processes {
            let up = folder.path().join(format!("up-{}", process.name));
            eventually("it is up", &|| up.exists());
        }
        let mut waited = Vec::new();
        let mut waiting = |left: &[&str]| waited.push(left.join(" "));
        stop_all(&mut processes.iter_mut().collect::<Vec<_>>(), Signal::SIGTERM, &mut waiting);
        assert_eq!(waited[0], "a b c");
        let in_order = ["a", "b", "c", "a b", "a c", "b c", "a b c"];
        assert!(waited.iter().all(|left| in_order.contains(&left.as_str())), "{waited:?}");
        for process in &processes {
            assert_eq!((process.pid, process.ending()), (0, None));
            let code = || fs::read_to_string(process.record()).unwrap_or_default();
            eventually("it ended by itself", &|| !code().is_empty());
            assert_eq!(code(), "0\n", "{}", process.name);
        }
    }

    #[test]
    fn a_program_is_a_path_or_in_one() {
        assert!(is_there("sh") && is_there("/bin/sh"));
        assert!(!is_there("nosuchprogram") && !is_there("/bin/nosuchprogram"));
    }
}
