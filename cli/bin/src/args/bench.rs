//! `clustermesh bench`.

use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use mesh_admin::duration::of_flag;

use super::lab_name;

/// Parses a benchmark's name without flags.
#[derive(Debug, Parser)]
struct NamedBench {
    #[command(subcommand)]
    command: BenchCommand,
}

impl BenchCommand {
    /// The benchmark of this name, with the default of each flag.
    pub(crate) fn with_defaults(name: &str) -> Option<Self> {
        NamedBench::try_parse_from(["bench", name]).ok().map(|named| named.command)
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// The name of the lab that a benchmark starts and removes, if it needs one
    #[arg(long, value_name = "LAB", default_value = "bench", value_parser = lab_name, global = true)]
    pub(crate) lab: String,
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Run all benchmarks, with the parameters of docs/performance.md
    All,
    /// Measure the CPU time of connect() to a service's address: with the mesh's eBPF programs, with kube-proxy's rules, and
    /// of connect() to the backend itself
    Connect {
        /// Measure with this many services
        #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [10, 1_000, 10_000, 100_000], value_parser = clap::value_parser!(u32).range(1..=100_000))]
        services: Vec<u32>,
        /// Measure kube-proxy's rules with at most this many services: more take long to load
        #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
        rules_up_to: u32,
        /// How often the datapaths take turns
        #[arg(long, value_name = "COUNT", default_value_t = 60)]
        rounds: u32,
        /// How many connections each turn makes
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        batch: u32,
    },
    /// Measure the time from a change of a manifest in one cluster to the kernel of a node of another, beside an etcd watch
    Propagation {
        /// How many changes
        #[arg(long, value_name = "COUNT", default_value_t = 300)]
        samples: u32,
        /// Measure with this many other global services in the source cluster
        #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [0, 1_000])]
        services: Vec<u32>,
    },
    /// Measure how long changes do not arrive after a replica of a cluster's control plane was killed, beside an etcd watch
    /// that is started at the other replica
    Takeover {
        /// How often a replica is killed
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        rounds: u32,
        /// How many other global services the source cluster has
        #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
        services: u32,
    },
    /// Measure how long an unreachable cluster still gets new connections
    Cut {
        /// How often the network between the clusters is blocked
        #[arg(long, value_name = "COUNT", default_value_t = 50)]
        rounds: u32,
    },
    /// The process whose connections `cut` observes
    #[command(hide = true)]
    CutClient {
        /// The service's address
        to: std::net::SocketAddr,
    },
    /// Measure what the endpoints of another cluster cost an agent: memory, and CPU at its start
    Endpoints {
        /// Measure with this many endpoints
        #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [10_000, 100_000])]
        endpoints: Vec<u32>,
        /// How much memory the records of a hostile peer may take, in MiB
        #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_024))]
        budget: u64,
        /// How long a hostile peer sends as fast as it can
        #[arg(long, value_name = "DURATION", alias = "rounds", default_value = "10s", value_parser = of_flag)]
        hostile_for: Duration,
    },
    /// Measure what the pods of a Kubernetes API server cost an apiserver: memory, and CPU for a change
    Source {
        /// Measure with this many pods
        #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [1_000, 10_000, 50_000])]
        pods: Vec<u32>,
        /// How many pods change
        #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        changes: u32,
        /// The folder with kube-apiserver and kubectl; by default they are looked up in $PATH
        #[arg(long, value_name = "DIR")]
        kubernetes: Option<std::path::PathBuf>,
    },
    /// Measure what policies cost the compiler of an agent: an identity, a policy, many ranges, memory; at a tenth of the
    /// size and at the size
    Policy {
        /// How many identities the mesh has
        #[arg(long, value_name = "COUNT", default_value_t = 25_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
        identities: u32,
        /// How many policies the cluster has
        #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
        policies: u32,
        /// How many ranges one rule has
        #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=60_000))]
        cidrs: u32,
        /// How often each change is made
        #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Measure what judging costs a packet in the kernel: by rules, and of a flow that was allowed
    Judge {
        /// How many addresses the mesh has
        #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        addresses: u32,
        /// How often each packet is judged in a round
        #[arg(long, value_name = "COUNT", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
        packets: u32,
        /// How many rounds
        #[arg(long, value_name = "COUNT", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Count what an agent reads and writes when it reconnects to a cluster
    Reconnect {
        /// How many endpoints the cluster has
        #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
        endpoints: u32,
    },
    /// Measure the CPU time of an etcd for each event and agent, beside etcd watches alone
    Events {
        /// How many agents, and how many watches
        #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=99))]
        readers: u16,
        /// How many times 500 changes each turn makes
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        rounds: u32,
        /// How many turns each has: no reader, agents, watches
        #[arg(long, value_name = "COUNT", default_value_t = 3)]
        turns: u32,
    },
    /// Measure what the change of one backend costs an agent, by the size of the service and the format of its export,
    /// beside the same change in a service of 100
    Change {
        /// Measure with this many backends
        #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [10, 1_000, 10_000], value_parser = clap::value_parser!(u32).range(1..=20_000))]
        backends: Vec<u32>,
        /// How often the services take turns
        #[arg(long, value_name = "COUNT", default_value_t = 7)]
        rounds: u32,
        /// How many changes each turn makes, an even number
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        batch: u32,
    },
    /// Measure how long the apiserver takes to compute keys from objects, by their number and format
    Export {
        /// Measure with this many pods: two numbers, the smaller one first
        #[arg(long, value_name = "COUNT,COUNT", value_delimiter = ',', default_values_t = [2_000, 20_000], value_parser = clap::value_parser!(u32).range(1..=200_000))]
        pods: Vec<u32>,
        /// How often the files take turns
        #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Measure how long it takes to fill the tables, beside the same number of plain updates of a map
    Fill {
        /// How many services
        #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        services: u32,
    },
    /// Measure the kernel memory of tables of several sizes
    Memory,
    /// Measure what the CNI plugin adds to a pod's start: the same chain without it and with it, in turns
    Cni {
        /// How often the chains take turns
        #[arg(long, value_name = "COUNT", default_value_t = 192)]
        rounds: u32,
    },
    /// Measure what a mesh of many clusters costs one agent: its start, changes, memory
    Mesh {
        /// Measure with this many clusters whose etcds are simulated by one process
        #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [10, 50, 250], value_parser = clap::value_parser!(u16).range(1..=250))]
        replayed: Vec<u16>,
        /// Measure with this many clusters that have an etcd each
        #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [10], value_parser = clap::value_parser!(u16).range(1..=50))]
        real: Vec<u16>,
        /// How many nodes each cluster has
        #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=254))]
        nodes: u32,
        /// How many pods each cluster has
        #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
        endpoints: u32,
        /// How many global services each cluster has
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        services: u32,
        /// Measure with this many changes a second; 0: one at a time
        #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_values_t = [0, 325, 3_000])]
        rates: Vec<u32>,
        /// How many changes at each rate
        #[arg(long, value_name = "COUNT", default_value_t = 2_000)]
        changes: u32,
        /// How long to wait after the agent's start, and how long to measure it while nothing happens
        #[arg(long, value_name = "DURATION", alias = "seconds", default_value = "10s", value_parser = of_flag)]
        idle: Duration,
        /// Where to write a chart, as SVG
        #[arg(long, value_name = "FILE")]
        picture: Option<std::path::PathBuf>,
    },
    /// Combine several runs: the median, the smallest and the largest of each number
    Report {
        /// The output of runs with `--output json`
        #[arg(required = true, value_name = "FILE")]
        files: Vec<std::path::PathBuf>,
        /// A document whose tables are filled in, as docs/performance.md
        #[arg(long, value_name = "FILE")]
        into: Option<std::path::PathBuf>,
    },
    /// The process that replays etcds for `mesh`
    #[command(hide = true)]
    Replay {
        /// The recording: a keys file of one cluster
        #[arg(long)]
        keys: std::path::PathBuf,
        /// The clusters to serve, as JSON
        #[arg(long)]
        clusters: std::path::PathBuf,
    },
    /// The process whose connections `connect` measures
    #[command(hide = true)]
    Client,
}
