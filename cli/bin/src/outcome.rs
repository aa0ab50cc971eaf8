//! The outcome of a command: its exit code, warnings and errors.

use std::{io, process::ExitCode};

use mesh_admin::plain;

use crate::{contexts, output};

/// The outcome of a command that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Success: exit code 0.
    Done,
    /// Something is not ready, or not as it should be: exit code 3.
    NotReady,
    /// A wait took too long: exit code 4.
    Timeout,
    /// An input is refused, and nothing was done: exit code 2.
    Refused,
}

impl Outcome {
    /// The first of two outcomes that is not [`Self::Done`].
    pub(crate) fn and(self, other: Self) -> Self {
        if self == Self::Done { other } else { self }
    }

    /// The exit code of a command. An error is printed, and has exit code 1; clap's usage errors have 2.
    #[allow(clippy::print_stderr, reason = "this is where errors go")]
    pub(crate) fn exit(done: anyhow::Result<Self>) -> ExitCode {
        match done {
            Ok(Self::Done) => ExitCode::SUCCESS,
            Ok(Self::NotReady) => ExitCode::from(3),
            Ok(Self::Timeout) => ExitCode::from(4),
            Ok(Self::Refused) => ExitCode::from(2),
            // The reader closed the pipe early.
            Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
            Err(error) => {
                let message = contexts::hint(&plain(&in_full(&error)));
                // Writing to standard output may have been what failed.
                let _ = output::error(1, &message);
                eprintln!("error: {message}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Exits because of the arguments: with 2 after a usage error, and with 0 after help.
pub(crate) fn usage(error: &clap::Error) -> ! {
    if error.use_stderr() {
        let text = error.render().to_string();
        // Standard output may be closed.
        let _ = output::error(2, &first_sentence(&text));
    }
    error.exit()
}

/// The message of a clap error: everything up to the first empty line, without lists of possible values.
fn first_sentence(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with('[')).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

/// Prints progress.
#[allow(clippy::print_stderr, reason = "progress is no data")]
pub(crate) fn note(what: &str) {
    eprintln!("{what}");
}

/// Prints a warning.
#[allow(clippy::print_stderr, reason = "this is where warnings go")]
pub(crate) fn warn(what: String) {
    eprintln!("warning: {}", plain(&what));
}

/// Prints problems that do not stop the command as warnings.
pub(crate) fn complain(problems: impl IntoIterator<Item = String>) -> Outcome {
    let mut outcome = Outcome::Done;
    for problem in problems {
        warn(problem);
        outcome = Outcome::NotReady;
    }
    outcome
}

/// An error with its causes, without those that its message contains.
fn in_full(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for error in error.chain() {
        let cause = error.to_string();
        match text.is_empty() {
            true => text = cause,
            false if text.contains(&cause) => {}
            false => text.extend([": ", &cause]),
        }
        // Its message explains the cause; the transport's message adds nothing.
        if error.is::<mesh_admin::SocketError>() {
            break;
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_says_what_is_wrong_without_the_transports_words() {
        let path = std::path::PathBuf::from("/run/x.sock");
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = mesh_admin::SocketError::Io { path, source };
        let sentence = error.to_string();
        let error = anyhow::Error::from(error).context("nothing was changed");
        assert_eq!(in_full(&error), format!("nothing was changed: {sentence}"));
    }

    #[test]
    fn a_usage_error_names_what_is_missing() {
        let text = "error: the following required arguments were not provided:\n  <A>\n  <B>...\n\nUsage: x\n";
        let wanted = "the following required arguments were not provided: <A> <B>...";
        assert_eq!(first_sentence(text), wanted);
        let text = "error: a command is missing\n  [subcommands: a, b]\n\nUsage: x";
        assert_eq!(first_sentence(text), "a command is missing");
    }

    #[test]
    fn a_cause_is_named_once() {
        let gone = || anyhow::Error::from(io::Error::new(io::ErrorKind::NotFound, "it is gone"));
        for (error, message) in [
            (gone(), "it is gone"),
            (gone().context("a.yaml"), "a.yaml: it is gone"),
            (gone().context("a.yaml: it is gone").context("b"), "b: a.yaml: it is gone"),
        ] {
            assert_eq!(in_full(&error), message);
        }
    }
}
