//! The commands and their flags.

mod bench;
mod certs;
mod connect;
mod context_first;
mod drain;
mod etcd;
mod lab;
mod lists;
mod namespaces;
mod offline;
mod policy;
mod tools;
mod wait;

use std::{env, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, CommandFactory as _, Parser, Subcommand, error::ErrorKind};

pub(crate) use self::{
    bench::{BenchArgs, BenchCommand},
    connect::{AddressKind, ConnectArgs, ConnectionMode, DisconnectArgs, Pair},
    drain::DrainArgs,
    etcd::{DiffArgs, EtcdCommand, SourceArgs, WithArgs},
    lab::{LabCommand, LabPodCommand},
    lists::{
        From, IdentityArgs, IdentityCommand, NodeArgs, NodeCommand, PodArgs, PodCommand,
        ServiceArgs, ServiceCommand,
    },
    namespaces::Services,
    offline::{ExportArgs, ImportArgs, SetupArgs, Shell, WhatIf},
    policy::{EngineArg, LabelRules, LintArgs, PolicyCommand, VerdictArgs, WorldArgs, named},
    tools::{CheckArgs, ConnectivityCommand, SysdumpArgs},
    wait::WaitDuration,
};
use crate::{outcome::usage, output::Format};
pub(crate) use certs::{CertsCommand, RotateArgs};
use context_first::context_after_command;
use mesh_admin::duration::of_flag;

/// Connects Kubernetes clusters, or plain groups of Linux hosts, into one mesh
#[derive(Debug, Parser)]
#[command(
    name = "clustermesh",
    version = mesh_admin::version::line(),
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 not ready or degraded, 4 timeout\nJSON and YAML: releases add fields, and never rename or remove them"
)]
pub(crate) struct Args {
    /// Output format: text, wide, json, yaml or name
    #[arg(
        long,
        short,
        value_enum,
        global = true,
        help_heading = "Global options",
        hide_possible_values = true,
        value_name = "FORMAT"
    )]
    pub(crate) output: Option<Format>,
    /// Ask only this cluster: a context's name, of the contexts file or the kubeconfig, or a cluster directory (with a slash)
    #[arg(long, global = true, help_heading = "Global options", value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// The file with the contexts, in place of $CLUSTERMESH_CONTEXTS
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FILE",
        conflicts_with = "lab"
    )]
    pub(crate) contexts: Option<PathBuf>,
    /// The lab, in place of $CLUSTERMESH_LAB; by default the only lab that is up
    #[arg(long, global = true, help_heading = "Global options", value_name = "LAB", value_parser = lab_name)]
    pub(crate) lab: Option<String>,
    /// The kubeconfig with contexts, in place of $KUBECONFIG or ~/.kube/config
    #[arg(long, global = true, help_heading = "Global options", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The namespace of the mesh in the clusters of a kubeconfig; by default clustermesh-system
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "NAMESPACE",
        env = "CLUSTERMESH_NAMESPACE",
        hide_env = true
    )]
    pub(crate) mesh_namespace: Option<String>,
    /// Write no colours, as with $NO_COLOR
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_color: bool,
    /// How long a daemon may take to answer; by default 5s
    #[arg(long, global = true, help_heading = "Global options", value_name = "DURATION", value_parser = of_flag)]
    pub(crate) request_timeout: Option<Duration>,
    /// Show status, or a list, again every two seconds, until ^C
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(crate) watch: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect two clusters: each follows the other
    Connect(ConnectArgs),
    /// Disconnect two clusters
    Disconnect(DisconnectArgs),
    /// Show the state of the clusters and their connections; with -o wide also what each connection carries
    Status(StatusArgs),
    /// Show services and their backends
    #[command(visible_aliases = ["svc", "services"])]
    Service(ServiceArgs),
    /// Show pods and their identities
    #[command(visible_alias = "pods")]
    Pod(PodArgs),
    /// Show the nodes of all clusters
    #[command(visible_alias = "nodes")]
    Node(NodeArgs),
    /// Show the identities of all clusters
    #[command(visible_alias = "identities")]
    Identity(IdentityArgs),
    /// Stop new connections to a cluster or node; established connections continue. Pods are not evicted
    Drain(DrainArgs),
    /// Allow new connections to a drained cluster or node again
    Undrain(DrainArgs),
    /// Manage clusters that are in quarantine because they exported more than their budget allows
    Quarantine(QuarantineArgs),
    /// Make, sign, show and rotate certificates
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Show and compare the content of etcds
    #[command(subcommand)]
    Etcd(Box<EtcdCommand>),
    /// Compute the etcd keys and values of manifests, and print them as a keys file
    Export(ExportArgs),
    /// Compute a cluster's frontends and backends from manifests and peers' keys files
    Import(ImportArgs),
    /// Judge flows by policies, before they are applied
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Run clusters made of network namespaces on this machine
    #[command(subcommand)]
    Lab(LabCommand),
    /// Run benchmarks, each with a reference that is measured in the same run
    Bench(BenchArgs),
    /// Check whether this machine has what an agent or an apiserver needs, before it is started; exits with 3 if something is
    /// missing
    Check(CheckArgs),
    /// Write one archive for a bug report: status, etcds, routes, logs, versions; no keys, tokens or passwords
    Sysdump(SysdumpArgs),
    /// Test connections between clusters
    #[command(subcommand)]
    Connectivity(ConnectivityCommand),
    /// Show the contexts: the clusters that commands ask
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Generate shell completions
    #[command(visible_alias = "completion")]
    Completions {
        /// The shell
        #[arg(value_enum, value_name = "SHELL")]
        shell: Shell,
    },
    /// Print version
    Version,
    /// The lab's servers and clients, run in its pods
    #[command(subcommand, hide = true)]
    LabPod(LabPodCommand),
}

impl Command {
    /// Whether the output is a list, which `-o name` can print.
    pub(crate) fn is_list(&self) -> bool {
        match self {
            Self::Service(service) => {
                matches!(service.command, ServiceCommand::List { .. } | ServiceCommand::Show { .. })
            }
            Self::Config(command) => matches!(command, ConfigCommand::GetContexts),
            Self::Lab(command) => matches!(command, LabCommand::List),
            Self::Connectivity(_) | Self::Check(_) => true,
            Self::Pod(_) | Self::Node(_) | Self::Identity(_) => true,
            _ => false,
        }
    }
}

impl Command {
    /// Whether the command takes `--context`. The flag is defined for all commands, since it may come before the command.
    pub(crate) fn takes_context(&self) -> bool {
        match self {
            Self::Service(service) => !matches!(service.command, ServiceCommand::Backends { .. }),
            Self::Certs(certs) => matches!(certs, CertsCommand::Rotate(_)),
            Self::Connect(_) | Self::Disconnect(_) | Self::Status(_) | Self::Pod(_) => true,
            Self::Node(_) | Self::Identity(_) | Self::Drain(_) | Self::Undrain(_) => true,
            Self::Quarantine(_) | Self::Etcd(_) | Self::Sysdump(_) | Self::Config(_) => true,
            Self::Check(_) | Self::Connectivity(_) => true,
            Self::Export(_) | Self::Import(_) | Self::Lab(_) | Self::Bench(_) => false,
            Self::Completions { .. } | Self::Version | Self::Policy(_) => false,
            Self::LabPod(_) => false,
        }
    }
}

/// Parses the name of a lab.
fn lab_name(name: &str) -> Result<String, String> {
    mesh_lab::contexts::of_lab(name).map_err(|error| error.to_string())?;
    Ok(name.into())
}

/// Parses the arguments of this program.
pub(crate) fn parse() -> Result<Args, clap::Error> {
    let arguments = context_after_command(&Args::command(), env::args_os().collect());
    Args::try_parse_from(arguments)
}

/// Exits with a usage error: an argument is missing.
pub(crate) fn missing(what: &str) -> ! {
    usage(&Args::command().error(ErrorKind::MissingRequiredArgument, what))
}

/// Exits with a usage error: an argument is invalid.
pub(crate) fn refuse(what: &str) -> ! {
    usage(&Args::command().error(ErrorKind::ValueValidation, what))
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    /// Show only this cluster
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// Also show what is ready
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Wait until everything is ready and has no problem, by default for at most 60s
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "60s", value_parser = of_flag)]
    pub(crate) wait: Option<Duration>,
    #[command(flatten)]
    pub(crate) wait_duration: WaitDuration,
    /// Exit with 0 also if something is degraded: ready, but with a problem
    #[arg(long)]
    pub(crate) allow_degraded: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    pub(crate) command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Lift the quarantine: re-list the peer and accept its updates again
    Lift {
        /// The cluster that is in quarantine
        #[arg(value_name = "CLUSTER")]
        peer: String,
        /// Ask only the agents of this cluster
        #[arg(long, value_name = "CONTEXT")]
        context: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List the contexts
    GetContexts,
    /// Show which contexts are in use, and the file or lab they are from
    CurrentContext,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_sound() {
        Args::command().debug_assert();
    }

    /// All commands that help shows, with their full names.
    fn shown_commands() -> Vec<(String, clap::Command)> {
        let mut root = Args::command();
        root.build();
        let mut all = vec![("clustermesh".to_owned(), root)];
        let mut at = 0;
        while let Some((name, command)) = all.get(at).cloned() {
            let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
            let shown = shown.filter(|command| command.get_name() != "help");
            all.extend(shown.map(|sub| (format!("{name} {}", sub.get_name()), sub.clone())));
            at += 1;
        }
        all
    }

    /// Names of values that a stranger understands, and that `-h` shows.
    const VALUES: [&str; 44] = [
        "ADDRESS",
        "BOOL",
        "BYTES",
        "CLUSTER",
        "COMMAND",
        "CONTEXT",
        "COUNT",
        "COUNT,COUNT",
        "COUNT,…",
        "DIR",
        "DURATION",
        "FILE",
        "FORMAT",
        "ID",
        "IDENTITY",
        "KIND",
        "LAB",
        "LABELS",
        "LINES",
        "MIB",
        "MODE",
        "NAME",
        "NAME=VALUE",
        "NAMESPACE",
        "NODE",
        "NUMBER",
        "ONE",
        "OTHER",
        "PATH",
        "PERCENT",
        "POD",
        "PORT",
        "PROCESS",
        "RATE",
        "RULE",
        "SERVICE",
        "SHELL",
        "TARGET",
        "URL",
        "USER",
        "ENGINE",
        "PORT,…",
        "[CLUSTER=]CIDR",
        "[CLUSTER=]FILE",
    ];

    /// Words that only we understand, or that do not say who acts.
    const UNPLAIN: [&str; 18] = [
        "authority",
        "bare",
        "believed",
        "hear",
        "heard",
        "hears",
        "ladder",
        "nobody",
        "otherwise",
        "rung",
        "rungs",
        "silence",
        "silent",
        "somebody",
        "told",
        "tell",
        "twin",
        "whoever",
    ];

    #[test]
    fn help_is_plain_and_names_its_values() {
        let mut wrong = Vec::new();
        for (name, command) in shown_commands() {
            let mut texts = vec![(name.clone(), command.get_about().map(ToString::to_string))];
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let id = arg.get_id();
                texts.push((format!("{name} {id}"), arg.get_help().map(ToString::to_string)));
                let values = arg.get_value_names().into_iter().flatten().map(|value| &**value);
                let values = values.filter(|_| arg.get_action().takes_values());
                let strange = values.filter(|value| !VALUES.contains(value));
                wrong.extend(strange.map(|value| format!("{name} {id}: the value {value}")));
            }
            for (of, text) in texts {
                let text = text.unwrap_or_default();
                let begins = text.starts_with(|c: char| c.is_uppercase());
                if !begins || text.ends_with('.') {
                    wrong.push(format!("{of}: no sentence without its end: {text:?}"));
                }
                let words = text.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase);
                let unplain = words.filter(|word| UNPLAIN.contains(&&**word));
                wrong.extend(unplain.map(|word| format!("{of}: the word {word}: {text}")));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn durations_have_units_and_numbers_are_seconds() {
        let parsed = |line: &str| {
            let words = ["clustermesh"].into_iter().chain(line.split(' '));
            Args::try_parse_from(words).map(|args| args.command).map_err(|error| error.to_string())
        };
        let waits = |line: &str| match parsed(line) {
            Ok(Command::Status(status)) => status.wait_duration.limit(status.wait),
            other => panic!("{line}: {other:?}"),
        };
        for (line, seconds) in [
            ("status", None),
            ("status --wait", Some(60)),
            ("status --wait=90s", Some(90)),
            ("status --wait=1m30s", Some(90)),
            ("status --wait=5", Some(5)),
            ("status --wait --wait-duration 5", Some(5)),
            ("status --wait --wait-duration 2m", Some(120)),
        ] {
            assert_eq!(waits(line), seconds.map(Duration::from_secs), "{line}");
        }
        // Earlier releases named the unit in the flag, or took no unit.
        for line in [
            "certs init --cluster a --dir d --days 7",
            "certs init --cluster a --dir d --lifetime 168h",
            "bench mesh --seconds 1",
            "bench mesh --idle 500ms",
            "bench endpoints --rounds 2",
            "bench endpoints --hostile-for 2s",
            "drain a --wait",
            "drain a --wait=30s",
            "drain --wait a",
            "lab check-history --wait --wait-duration 5 --record 2s",
            "connect --context a --destination-context b --wait=30s",
        ] {
            assert!(parsed(line).is_ok(), "{line}: {:?}", parsed(line));
        }
        let both = "connect --context a --destination-context b --wait --dry-run";
        for line in ["status --wait-duration 5", "status --wait=soon", both] {
            assert!(parsed(line).is_err(), "{line}");
        }
        for (name, command) in shown_commands() {
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let id = arg.get_id().as_str();
                let of_a_unit =
                    ["seconds", "days", "millis", "ms"].iter().any(|unit| id.ends_with(unit));
                assert!(!of_a_unit, "{name} --{id}: a duration has its unit in its value");
            }
        }
    }

    /// The commands in a document's backticks and code blocks, from `clustermesh` on.
    fn shown(text: &str) -> Vec<&str> {
        let mut blocks = text.split("```");
        let mut all = Vec::new();
        while let Some(prose) = blocks.next() {
            all.extend(prose.split('`').skip(1).step_by(2));
            all.extend(blocks.next().unwrap_or_default().lines());
        }
        let command = |line: &'_ str| -> bool { line.starts_with("clustermesh ") };
        let all = all.into_iter().map(|line| line.trim_start_matches("$ "));
        all.filter(|line| command(line)).map(|line| line.split(" #").next().unwrap()).collect()
    }

    /// The first word that is neither a command nor a flag of the command line.
    fn unknown(line: &str) -> Option<String> {
        let mut root = Args::command();
        root.build();
        let mut command = &root;
        let mut flag_before = false;
        for word in line.split_whitespace().skip(1) {
            if word == "--" {
                // The rest is another program's.
                return None;
            }
            if let Some(flag) = word.strip_prefix("--") {
                let flag = flag.split(['=', '|']).next().unwrap();
                let all =
                    command.get_arguments().filter_map(|arg| arg.get_long_and_visible_aliases());
                if flag != "help" && !all.flatten().any(|known| known == flag) {
                    return Some(word.into());
                }
            } else if word.chars().all(char::is_uppercase) {
                // A placeholder, as in `bench NAME`.
                return None;
            } else if command.has_subcommands() && !flag_before {
                // As in `etcd dump|diff`.
                for one in word.split('|') {
                    let Some(next) = command.find_subcommand(one) else {
                        return Some(one.into());
                    };
                    command = next;
                }
            }
            flag_before = word.starts_with('-');
        }
        None
    }

    #[test]
    fn documents_name_commands_and_flags_that_exist() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let documents = std::fs::read_dir(format!("{root}/docs")).unwrap();
        let documents = documents.map(|entry| entry.unwrap().path());
        let documents = documents.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
        let top = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "deploy/cni/README.md"];
        let top = top.map(|name| PathBuf::from(format!("{root}/{name}")));
        let mut seen = 0;
        for path in documents.chain(top) {
            let text = std::fs::read_to_string(&path).unwrap();
            for line in shown(&text) {
                assert_eq!(unknown(line), None, "{}: {line}", path.display());
                seen += 1;
            }
        }
        assert!(seen > 50, "only {seen} commands");
        assert_eq!(unknown("clustermesh drian a"), Some("drian".into()));
        assert_eq!(unknown("clustermesh drain a --form b"), Some("--form".into()));
    }
}
