//! `clustermesh bench`.

use clap::{Args as ClapArgs, Parser, Subcommand};

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
        /// What the records of a hostile peer may take, in MiB
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_024))]
        budget: u64,
        /// For how many seconds a hostile peer sends as much as it may
        #[arg(long, default_value_t = 10)]
        rounds: u32,
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
    /// How long objects take to become keys, by their number and form, beside fewer of them
    Export {
        /// Numbers of pods: fewer, and more
        #[arg(long, value_delimiter = ',', default_values_t = [2_000, 20_000], value_parser = clap::value_parser!(u32).range(1..=200_000))]
        pods: Vec<u32>,
        /// How often the files take turns
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
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
    /// Put several runs together: of each number the median, the smallest and the largest
    Report {
        /// What runs with `--output json` printed
        #[arg(required = true, value_name = "FILE")]
        files: Vec<std::path::PathBuf>,
        /// A document whose tables are filled in, as docs/performance.md
        #[arg(long, value_name = "DOCUMENT")]
        into: Option<std::path::PathBuf>,
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
