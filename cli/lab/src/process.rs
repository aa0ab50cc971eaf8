//! Daemons and pods' processes: started detached, known by ID and start time, stopped for sure.
//!
//! Each is the child of a shell that outlives the command that starts it, and writes down how its child ended.

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

/// How a process ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Killed(Signal),
}

/// How long a process may take to end when asked.
const ASKED: Duration = Duration::from_secs(8);
/// How long the shell may take to write down how its child ended.
const RECORDING: Duration = Duration::from_millis(200);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// Starts a program in the background, in the cgroup of the file `$1`; writes its ID to the shell's standard input, and its
/// exit code to the file `$0`.
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
    /// Starts the process, which must not run.
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
        // The shell stays outside: an agent has a cgroup of its own.
        enter(&mut command, &self.netns, self.cgroup.parent().unwrap_or(&self.cgroup))?;
        self.pid = run_recorder(command).map_err(|reason| LabError::Command {
            command: self.command.join(" "),
            reason: reason.to_string(),
        })?;
        self.start_time = start_time(self.pid).unwrap_or_default();
        Ok(())
    }

    /// How it ended by itself; `None` of one that runs or was stopped, and where that is not known.
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

    /// Where the shell writes how it ended.
    fn record(&self) -> PathBuf {
        self.log.with_extension("exit")
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

/// Starts the shell, and returns the ID of its child.
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

/// Whether a program can be run: a file, or one by that name in a folder of `$PATH`.
fn is_there(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&paths);
    match program.contains('/') {
        true => Path::new(program).is_file(),
        false => folders.any(|folder| folder.join(program).is_file()),
    }
}

impl Ending {
    /// What a shell's `wait` says: 128 and the signal's number where it was one.
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

    /// The script alone, without namespaces: the ID that it writes is that of the program, and the code is the program's.
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

    /// Each ends when it has seen that all were asked. One after another, the first would wait until it is killed.
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
