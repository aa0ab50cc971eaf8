//! Commands and their flags.

mod certs;
mod drain;
mod etcd;
mod lab;
mod offline;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub(crate) use self::{
    drain::DrainArgs,
    etcd::{DiffArgs, EtcdCommand, SourceArgs, WithArgs},
    lab::{LabCommand, LabPodCommand},
    offline::{ExportArgs, ImportArgs, SetupArgs, Shell, WhatIf},
};
use crate::output::Format;
pub(crate) use certs::{CertsCommand, RotateArgs};

/// Connects Kubernetes clusters, or plain groups of Linux hosts, into one mesh
#[derive(Debug, Parser)]
#[command(
    name = "clustermesh",
    version = mesh_admin::version::line(),
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 not ready or degraded, 4 timeout"
)]
pub(crate) struct Args {
    /// How results are written; tables and sentences, unless given
    #[arg(long, short, value_enum, global = true)]
    pub(crate) output: Option<Format>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect two clusters: each follows the other
    Connect(ConnectArgs),
    /// Disconnect two clusters
    Disconnect(DisconnectArgs),
    /// State of the clusters and their connections
    Status(StatusArgs),
    /// What clients connect to, and where they end up
    Service(ServiceArgs),
    /// Pods, and their identities
    Pod(PodArgs),
    /// Nodes of all clusters, as an agent knows them
    Node(NodeArgs),
    /// Identities of all clusters, as an agent knows them
    Identity(IdentityArgs),
    /// Have clients leave a cluster or a node, for maintenance: connections that exist are served on
    Drain(DrainArgs),
    /// Let clients come back to what was drained
    Undrain(DrainArgs),
    /// Peers that are over their budget
    Quarantine(QuarantineArgs),
    /// CAs, certificates and requests
    #[command(subcommand)]
    Certs(CertsCommand),
    /// What an etcd holds of the mesh
    #[command(subcommand)]
    Etcd(Box<EtcdCommand>),
    /// The etcd keys and values that objects become, from files; printed as a keys file
    Export(ExportArgs),
    /// The frontends and backends that a cluster gets from its own objects and peers' keys, from files
    Import(ImportArgs),
    /// Clusters made of network namespaces, on this machine
    #[command(subcommand)]
    Lab(LabCommand),
    /// Benchmarks on this machine, each beside a reference in the same run
    Bench(BenchArgs),
    /// What a shell needs to complete these commands
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// What was built
    Version,
    /// The lab's servers and clients, run in its pods
    #[command(subcommand, hide = true)]
    LabPod(LabPodCommand),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub(crate) pair: Pair,
    /// Which of the two follow the other
    #[arg(long, value_enum, default_value_t)]
    pub(crate) connection_mode: ConnectionMode,
    /// One of them was rebuilt: take it in place of the cluster of the same name that was connected before
    #[arg(long)]
    pub(crate) replace: bool,
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DisconnectArgs {
    #[command(flatten)]
    pub(crate) pair: Pair,
    /// Print what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Two clusters.
#[derive(Debug, ClapArgs)]
pub(crate) struct Pair {
    /// The one cluster: a name in $CLUSTERMESH_CONTEXTS, or a cluster directory (with a slash in it)
    #[arg(long)]
    pub(crate) context: String,
    /// The other cluster
    #[arg(long)]
    pub(crate) destination_context: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConnectionMode {
    /// Each follows the other.
    #[default]
    Bidirectional,
    /// The first follows the second only.
    Unicast,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    /// Only this cluster
    #[arg(long)]
    pub(crate) context: Option<String>,
    /// Wait until every peer is connected and synced
    #[arg(long)]
    pub(crate) wait: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 60, requires = "wait")]
    pub(crate) wait_duration: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    pub(crate) command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// All services in the mesh, as each cluster's clients find them
    List {
        #[command(flatten)]
        from: From,
        /// Only this namespace
        #[arg(long, short)]
        namespace: Option<String>,
    },
    /// One service with its backends
    Show {
        /// NAMESPACE/NAME; or a NAME in the namespace `default`
        service: String,
        #[command(flatten)]
        from: From,
    },
    /// The backends that each frontend of a cluster uses, could use and leaves out, from files
    Backends {
        /// Only this one: NAMESPACE/NAME[:PORT]; or a NAME in the namespace `default`
        service: Option<String>,
        #[command(flatten)]
        what_if: WhatIf,
    },
    /// Why connections end where they end: tiers, weights, and each backend with its reason; from files with --state, else
    /// as a node's agent has it
    Explain {
        /// Only this one: NAMESPACE/NAME[:PORT]; or a NAME in the namespace `default`
        service: Option<String>,
        #[command(flatten)]
        what_if: WhatIf,
        #[command(flatten)]
        agent: From,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PodArgs {
    #[command(subcommand)]
    pub(crate) command: PodCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PodCommand {
    /// The pods of every node, with their addresses and identities; exits with 3 while one waits for its identity
    List {
        /// Only of this cluster
        #[arg(long)]
        context: Option<String>,
        /// Only of this node
        #[arg(long)]
        node: Option<String>,
        /// Only of this namespace
        #[arg(long, short)]
        namespace: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// The nodes, with their addresses and pod ranges
    List {
        #[command(flatten)]
        from: From,
        /// Only of this cluster
        #[arg(long)]
        cluster: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct IdentityArgs {
    #[command(subcommand)]
    pub(crate) command: IdentityCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// The identities, with their labels
    List {
        #[command(flatten)]
        from: From,
        /// Only of this cluster
        #[arg(long)]
        cluster: Option<String>,
    },
    /// One by its ID, or those that have some labels
    Show {
        /// ID, or labels, as in app=web or k8s:app=web;k8s:io.kubernetes.pod.namespace=shop
        identity: String,
        #[command(flatten)]
        from: From,
        /// Only of this cluster
        #[arg(long)]
        cluster: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    pub(crate) command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Follow a peer again, from the beginning
    Lift {
        /// The peer
        peer: String,
        /// Only by this cluster's agents
        #[arg(long)]
        context: Option<String>,
    },
}

/// Whose view.
#[derive(Debug, ClapArgs)]
pub(crate) struct From {
    /// Only in this cluster
    #[arg(long)]
    pub(crate) context: Option<String>,
    /// The node whose kernel is shown; the first, unless given
    #[arg(long)]
    pub(crate) node: Option<String>,
}

/// A benchmark by its name alone.
#[derive(Debug, Parser)]
struct NamedBench {
    #[command(subcommand)]
    command: BenchCommand,
}

impl BenchCommand {
    /// A benchmark with the numbers that it has unless others are given.
    pub(crate) fn with_defaults(name: &str) -> Option<Self> {
        NamedBench::try_parse_from(["bench", name]).ok().map(|named| named.command)
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// The name of the lab that is made for what needs one, and taken down with it
    #[arg(long, default_value = "bench", global = true)]
    pub(crate) lab: String,
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Everything below, as docs/performance.md has it
    All,
    /// The CPU time of connect() through a service's address, by our programs and by the rules of a kube-proxy, beside
    /// connect() to the destination itself
    Connect {
        /// Numbers of services to measure with
        #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000, 100_000], value_parser = clap::value_parser!(u32).range(1..=100_000))]
        services: Vec<u32>,
        /// With how many services rules are measured at most: they take long to load
        #[arg(long, default_value_t = 10_000)]
        rules_up_to: u32,
        /// How often the datapaths take turns
        #[arg(long, default_value_t = 60)]
        rounds: u32,
        /// Connects a turn
        #[arg(long, default_value_t = 100)]
        batch: u32,
    },
    /// From a manifest in one cluster to another's kernel, beside a bare etcd watch
    Propagation {
        /// Changes
        #[arg(long, default_value_t = 300)]
        samples: u32,
        /// Numbers of other global services of the source cluster
        #[arg(long, value_delimiter = ',', default_values_t = [0, 1_000])]
        services: Vec<u32>,
    },
    /// How long a dead replica of a cluster's control plane is missed, beside a bare watch begun at the other one
    Takeover {
        /// How often a replica is killed
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// Other global services of the source cluster
        #[arg(long, default_value_t = 1_000)]
        services: u32,
    },
    /// How long a cluster that is cut off still gets new connections, detection included
    Cut {
        /// How often it is cut off
        #[arg(long, default_value_t = 50)]
        rounds: u32,
    },
    /// The process whose connections `cut` looks at
    #[command(hide = true)]
    CutClient {
        /// The service's address
        to: std::net::SocketAddr,
    },
    /// What endpoints of another cluster cost an agent: memory, and CPU at its start
    Endpoints {
        /// Numbers of endpoints to measure with
        #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000])]
        endpoints: Vec<u32>,
    },
    /// What an agent reads and writes when it comes back after a cut
    Reconnect {
        /// How many endpoints there are
        #[arg(long, default_value_t = 10_000)]
        endpoints: u32,
    },
    /// What an event costs an etcd for each agent, beside bare watchers
    Events {
        /// Agents, and bare watchers
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=99))]
        readers: u16,
        /// Rounds of a turn, of 500 changes each
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// Turns of each: without readers, with agents, with bare watchers
        #[arg(long, default_value_t = 3)]
        turns: u32,
    },
    /// What one backend's change costs an agent, by the size of its service and the format in which it is exported, beside
    /// the same change in a service of 100
    Change {
        /// Numbers of backends to measure with
        #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000], value_parser = clap::value_parser!(u32).range(1..=20_000))]
        backends: Vec<u32>,
        /// How often the services take turns
        #[arg(long, default_value_t = 7)]
        rounds: u32,
        /// Changes a turn, an even number
        #[arg(long, default_value_t = 20)]
        batch: u32,
    },
    /// What it costs to fill the tables, beside as many bare updates of a map
    Fill {
        /// How many services
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        services: u32,
    },
    /// Kernel memory of tables of several sizes
    Memory,
    /// What the CNI plugin adds to a pod's start: the same chain without it and with it, in turns
    Cni {
        /// How often the chains take turns
        #[arg(long, default_value_t = 192)]
        rounds: u32,
    },
    /// What a mesh of many clusters costs one agent: its start, changes, memory
    Mesh {
        /// Numbers of clusters whose etcds one process replays
        #[arg(long, value_delimiter = ',', default_values_t = [10, 50, 250], value_parser = clap::value_parser!(u16).range(1..=250))]
        replayed: Vec<u16>,
        /// Numbers of clusters that have an etcd each
        #[arg(long, value_delimiter = ',', default_values_t = [10], value_parser = clap::value_parser!(u16).range(1..=50))]
        real: Vec<u16>,
        /// Nodes of each
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=254))]
        nodes: u32,
        /// Pods of each
        #[arg(long, default_value_t = 1_000)]
        endpoints: u32,
        /// Global services of each
        #[arg(long, default_value_t = 100)]
        services: u32,
        /// Changes a second, one rate after another; 0: one at a time
        #[arg(long, value_delimiter = ',', default_values_t = [0, 325, 3_000])]
        rates: Vec<u32>,
        /// Changes at each rate
        #[arg(long, default_value_t = 2_000)]
        changes: u32,
        /// How long an agent is left alone after its start, and watched when nothing happens
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Where growth is drawn, as SVG
        #[arg(long)]
        picture: Option<std::path::PathBuf>,
    },
    /// The process that replays etcds for `mesh`
    #[command(hide = true)]
    Replay {
        /// What one of them held
        #[arg(long)]
        keys: std::path::PathBuf,
        /// Whose it becomes
        #[arg(long)]
        clusters: std::path::PathBuf,
    },
    /// What `connect` starts to have its connections measured
    #[command(hide = true)]
    Client,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
