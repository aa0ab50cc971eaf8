//! Moves `--context` from before a command to after it. clap accepts it before the command too, but where a command requires
//! it, clap looks for it only after the command.

use std::ffi::OsString;

use clap::Command;

/// Flags with a value that may come before a command.
const WITH_VALUE: [&str; 7] = [
    "--output",
    "-o",
    "--contexts",
    "--lab",
    "--kubeconfig",
    "--mesh-namespace",
    "--request-timeout",
];

/// The same arguments, with each `--context` before the command's name moved to after it.
pub(crate) fn context_after_command(command: &Command, arguments: Vec<OsString>) -> Vec<OsString> {
    let (mut before, mut moved) = (Vec::new(), Vec::new());
    let mut arguments = arguments.into_iter().peekable();
    before.extend(arguments.next());
    let mut within = command;
    // Arguments after the full command stay where they are.
    while within.has_subcommands()
        && let Some(argument) = arguments.peek().and_then(|argument| argument.to_str())
    {
        let (is_context, has_value) = (argument == "--context", WITH_VALUE.contains(&argument));
        if is_context || argument.starts_with("--context=") {
            moved.extend(arguments.next());
            moved.extend(arguments.next_if(|_| is_context));
        } else if argument.starts_with('-') {
            before.extend(arguments.next());
            before.extend(arguments.next_if(|_| has_value));
        } else if let Some(found) = within.find_subcommand(argument) {
            within = found;
            before.extend(arguments.next());
        } else {
            break;
        }
    }
    before.into_iter().chain(moved).chain(arguments).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Args;

    #[test]
    fn the_context_may_stand_anywhere() {
        for (given, wanted) in [
            ("--context a status", "status --context a"),
            ("--context=a -o json etcd dump", "-o json etcd dump --context=a"),
            (
                "--lab demo --context a certs rotate --ca",
                "--lab demo certs rotate --context a --ca",
            ),
            ("status --context a", "status --context a"),
            (
                "connect --context a --destination-context b",
                "connect --context a --destination-context b",
            ),
            ("svc --context a show x", "svc show --context a x"),
            ("lab exec a/x -- --context a", "lab exec a/x -- --context a"),
            ("--context", "--context"),
        ] {
            let words = |text: &str| -> Vec<OsString> {
                ["clustermesh"].into_iter().chain(text.split(' ')).map(OsString::from).collect()
            };
            let found = context_after_command(&Args::command(), words(given));
            assert_eq!(found, words(wanted), "{given}");
        }
    }
}
