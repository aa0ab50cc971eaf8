//! Runs other programs, in network namespaces and cgroups.
#![expect(
    unsafe_code,
    reason = "a child enters its namespace between fork and exec; each use says why it is sound"
)]

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    panic,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use mesh_model::excerpt;
use nix::{
    sched::{CloneFlags, setns},
    unistd::{setsid, write},
};
use serde::Deserialize;

use crate::error::LabError;

/// How much of another program's output a message repeats, in characters.
const SHOWN: usize = 200;

/// Where `ip netns` keeps its names.
pub(crate) const NETNS: &str = "/run/netns";

/// Runs a program with an input, and returns its standard output if it succeeds.
pub(crate) fn run(mut command: Command, input: &str) -> Result<Vec<u8>, LabError> {
    let shown = command_line(&command);
    let failed = |reason: String| LabError::Command { command: shown.clone(), reason };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            LabError::Missing(shown.split(' ').next().unwrap_or_default().into())
        }
        _ => failed(e.to_string()),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that exits before it has read everything prints its error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } =
        child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if status.success() {
        return Ok(stdout);
    }
    let printed = [stdout, stderr].concat();
    Err(failed(format!("{status}: {}", String::from_utf8_lossy(&printed).trim())))
}

/// Runs a batch of `ip` commands, one a line.
pub(crate) fn ip_batch(lines: &[String]) -> Result<(), LabError> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    run(command, &(lines.join("\n") + "\n")).map(|_| ())
}

/// Makes a command run in a network namespace and a cgroup.
pub(crate) fn enter(command: &mut Command, netns: &str, cgroup: &Path) -> Result<(), LabError> {
    enter_netns(command, netns)?;
    let path = cgroup.join("cgroup.procs");
    let procs = OpenOptions::new().write(true).open(&path).map_err(LabError::io(path))?;
    let join = move || write(&procs, b"0").map(|_| ()).map_err(io::Error::from);
    // SAFETY: between fork and exec the child only calls write(2) on a descriptor that was opened before.
    unsafe { command.pre_exec(join) };
    Ok(())
}

/// Makes a command run in a network namespace.
pub(crate) fn enter_netns(command: &mut Command, netns: &str) -> Result<(), LabError> {
    let path = Path::new(NETNS).join(netns);
    let file: OwnedFd = File::open(&path).map_err(LabError::io(path))?.into();
    let enter = move || setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    // SAFETY: between fork and exec the child only calls setns(2) on a descriptor that was opened before.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

/// Runs a function in a network namespace: sockets that it opens belong to the namespace.
pub fn within_netns<T: Send>(netns: &str, ask: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    let path = Path::new(NETNS).join(netns);
    let file = File::open(&path).map_err(LabError::io(&path))?;
    // On a thread of its own, which stays in the namespace.
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| LabError::io(&path)(errno.into()))?;
            Ok(ask())
        });
        asking.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Makes a command independent of its parent and the parent's terminal.
pub(crate) fn detach(command: &mut Command, log: &Path) -> Result<(), LabError> {
    let open = || OpenOptions::new().create(true).append(true).open(log).map_err(LabError::io(log));
    command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
    // SAFETY: between fork and exec the child only calls setsid(2).
    unsafe { command.pre_exec(|| setsid().map(|_| ()).map_err(io::Error::from)) };
    Ok(())
}

/// A command as one would type it, without its environment.
pub fn command_line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let arguments = command.get_args().map(|a| a.to_string_lossy());
    [program].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

/// What a command of this program printed as JSON.
///
/// # Errors
/// It printed something else; as a sentence that names the command, without `clustermesh`, and repeats some of it.
pub fn printed_json<'a, T: Deserialize<'a>>(command: &str, text: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|_| {
        let text = String::from_utf8_lossy(text);
        match text.trim() {
            "" => format!("`clustermesh {command}` printed nothing: it was ended before it was done"),
            text => format!(
                "`clustermesh {command}` printed {:?}, which is not its JSON: is it of another release?",
                excerpt(text, SHOWN)
            ),
        }
    })
}

/// Bytes as Go reads them between double quotes, which is how `etcdctl txn` takes keys and values.
pub fn go_quoted(bytes: &[u8]) -> String {
    let byte = |byte: &u8| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(*byte)),
        b' '..=b'~' => char::from(*byte).into(),
        other => format!("\\x{other:02x}"),
    };
    format!("\"{}\"", bytes.iter().map(byte).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_as_one_types_it() {
        let mut command = Command::new("/bin/ip");
        command.args(["netns", "exec", "n1", "true"]).env("X", "y");
        assert_eq!(command_line(&command), "/bin/ip netns exec n1 true");
    }

    #[test]
    fn a_command_that_prints_no_json_is_named_with_what_it_printed() {
        assert_eq!(printed_json::<u32>("lab status", b"7\n"), Ok(7));
        let long = "x".repeat(SHOWN + 1);
        let begin = format!("\"{}…\"", "x".repeat(SHOWN));
        for (text, says) in [
            ("", "printed nothing"),
            ("error: no", "\"error: no\""),
            (long.as_str(), begin.as_str()),
        ] {
            let error = printed_json::<u32>("lab status", text.as_bytes()).unwrap_err();
            assert!(error.starts_with("`clustermesh lab status` printed "), "{error}");
            assert!(error.contains(says), "{error}");
        }
    }
}
