//! The command line of a daemon.

use clap::{Arg, ArgMatches, Command, CommandFactory, Error, FromArgMatches, Parser, Subcommand};

/// The command line of a daemon that has commands beside it. These need none of the flags that the daemon needs.
#[derive(Clone, Debug)]
pub enum DaemonOr<A, C> {
    /// To be the daemon.
    Daemon(Box<A>),
    /// Something else.
    Command(C),
}

/// Parses the command line and the environment. Returns the arguments, and all flags with their values in force as one
/// line (`--a=1 --b=2`), defaults and environment included. Prints an error and ends the process if they are not valid.
pub fn parse<A: Parser>() -> (A, String) {
    let mut command = A::command();
    let matches = command.get_matches_mut();
    match A::from_arg_matches(&matches) {
        Ok(args) => (args, in_force(&command, &matches)),
        Err(error) => error.format(&mut command).exit(),
    }
}

fn in_force(command: &Command, matches: &ArgMatches) -> String {
    let flag = |arg: &Arg| {
        let name = arg.get_long()?;
        let values = matches.try_get_raw(arg.get_id().as_str()).ok()??;
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        Some(format!("--{name}={}", values.join(",")))
    };
    command.get_arguments().filter_map(flag).collect::<Vec<_>>().join(" ")
}

// === impl DaemonOr ===

/// By hand: derived code would ask for the daemon's flags with each command.
impl<A: FromArgMatches, C: Subcommand> FromArgMatches for DaemonOr<A, C> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        match matches.subcommand() {
            Some(_) => C::from_arg_matches(matches).map(Self::Command),
            None => A::from_arg_matches(matches).map(|args| Self::Daemon(Box::new(args))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<A: CommandFactory, C: Subcommand> CommandFactory for DaemonOr<A, C> {
    fn command() -> Command {
        let command = C::augment_subcommands(A::command());
        // `augment_subcommands` asks for one of them.
        command
            .subcommand_required(false)
            .arg_required_else_help(false)
            .subcommand_negates_reqs(true)
    }

    fn command_for_update() -> Command {
        Self::command()
    }
}

impl<A: Parser, C: Subcommand> Parser for DaemonOr<A, C> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Args {
        #[arg(long, default_value = "10s")]
        pause: String,
        #[arg(long)]
        name: Vec<String>,
        #[arg(long)]
        dry_run: bool,
        #[arg(long)]
        _absent: Option<String>,
        #[arg(skip)]
        _skipped: String,
    }

    #[test]
    fn all_flags_are_shown_as_one_would_write_them() {
        let mut command = <Args as CommandFactory>::command();
        let words = ["x", "--name", "a", "--name=b"];
        let matches = command.try_get_matches_from_mut(words).unwrap();
        let text = in_force(&command, &matches);
        assert_eq!(text, "--pause=10s --name=a,b --dry-run=false");
    }
}
