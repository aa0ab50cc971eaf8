//! The command line: the daemon's flags, or one of the commands for what must be done beside it.

use clap::{ArgMatches, Command, CommandFactory, Error, FromArgMatches, Parser, Subcommand};

use mesh_admin::ProxyArgs;

use crate::args::Args;

/// What the process is to do.
#[derive(Clone, Debug)]
pub(crate) enum Cli {
    /// To be the daemon.
    Serve(Box<Args>),
    /// Something else.
    Once(Once),
}

/// What is done once.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Once {
    /// Mount a BPF file system at /sys/fs/bpf if none is there. For an init container whose mount of the host's folder has
    /// `mountPropagation: Bidirectional`: the tables and programs then outlive the agent's container
    MountBpffs,
    /// Connect standard input and output with the admin API of the agent that runs here
    AdminProxy(ProxyArgs),
    /// How the agent sees that its programs run for other processes: it starts this one, in another cgroup
    #[command(name = mesh_hooks::CONNECT_ONCE, hide = true)]
    Connect,
}

// === impl Cli ===

/// By hand: the flags that a daemon needs are not needed for a command, and derived code would ask for them.
impl FromArgMatches for Cli {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        match matches.subcommand() {
            Some(_) => Once::from_arg_matches(matches).map(Self::Once),
            None => Args::from_arg_matches(matches).map(|args| Self::Serve(Box::new(args))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl CommandFactory for Cli {
    fn command() -> Command {
        let command = Once::augment_subcommands(Args::command());
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

impl Parser for Cli {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_for_the_daemon_and_commands_need_none() {
        Cli::command().debug_assert();
        let parsed = |words: &[&str]| Cli::try_parse_from([&["agent"], words].concat());
        let daemon = ["--cluster-name", "a", "--cluster-id", "1", "--node-name", "n"];
        assert!(matches!(parsed(&daemon), Ok(Cli::Serve(args)) if args.node_name == "n"));
        assert!(matches!(parsed(&["mount-bpffs"]), Ok(Cli::Once(Once::MountBpffs))));
        let proxy = parsed(&["admin-proxy", "--admin-socket", "/x.sock"]);
        let Ok(Cli::Once(Once::AdminProxy(proxy))) = proxy else { panic!("{proxy:?}") };
        assert_eq!(proxy.admin_socket, Some("/x.sock".into()));
        for incomplete in [&[][..], &["--cluster-name", "a"], &["mount-all"]] {
            assert!(parsed(incomplete).is_err(), "{incomplete:?}");
        }
    }
}
