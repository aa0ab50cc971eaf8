//! The command line: the daemon's flags, or one of the commands for what must be done beside it.

use clap::Subcommand;
use mesh_admin::{ProxyArgs, flags::DaemonOr};

use crate::args::Args;

/// The daemon, or what is done once.
pub(crate) type Cli = DaemonOr<Args, Once>;

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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn flags_are_for_the_daemon_and_commands_need_none() {
        Cli::command().debug_assert();
        let parsed = |words: &[&str]| Cli::try_parse_from([&["agent"], words].concat());
        let daemon = ["--cluster-name", "a", "--cluster-id", "1", "--node-name", "n"];
        assert!(matches!(parsed(&daemon), Ok(Cli::Daemon(args)) if args.node_name == "n"));
        assert!(matches!(parsed(&["mount-bpffs"]), Ok(Cli::Command(Once::MountBpffs))));
        let proxy = parsed(&["admin-proxy", "--admin-socket", "/x.sock"]);
        let Ok(Cli::Command(Once::AdminProxy(proxy))) = proxy else { panic!("{proxy:?}") };
        assert_eq!(proxy.admin_socket, Some("/x.sock".into()));
        for incomplete in [&[][..], &["--cluster-name", "a"], &["mount-all"]] {
            assert!(parsed(incomplete).is_err(), "{incomplete:?}");
        }
    }
}
