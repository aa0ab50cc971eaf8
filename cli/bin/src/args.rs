//! Commands and their flags.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::output::Output;

/// Connects Kubernetes clusters, or plain groups of Linux hosts, into one mesh
#[derive(Debug, Parser)]
#[command(
    name = "clustermesh",
    version = mesh_admin::version::line(),
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 not ready or degraded, 4 timeout"
)]
pub(crate) struct Args {
    /// How results are written
    #[arg(long, short, value_enum, global = true, default_value_t)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect two clusters: each follows the other
    Connect(ConnectArgs),
    /// Take a connection back
    Disconnect(DisconnectArgs),
    /// How the clusters and their connections are
    Status(StatusArgs),
    /// What clients connect to, and where they end up
    Service(ServiceArgs),
    /// Peers that are over their budget
    Quarantine(QuarantineArgs),
    /// Authorities, certificates and requests
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Whole clusters out of network namespaces, on this machine
    #[command(subcommand)]
    Lab(LabCommand),
    /// How fast it is on this machine, beside something else in the same run
    #[command(subcommand)]
    Bench(BenchCommand),
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
    /// Wait until every connection stands
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
}

#[derive(Debug, ClapArgs)]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    pub(crate) command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Hear a peer again, from the beginning
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

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Make a cluster's authority, and the certificates of its own processes
    Init {
        /// The cluster's name
        #[arg(long)]
        cluster: String,
        /// The folder, pki/ of a cluster directory
        #[arg(long)]
        dir: PathBuf,
        /// An address at which the cluster's etcd is reached; may be repeated
        #[arg(long = "address")]
        addresses: Vec<IpAddr>,
        /// The namespace of the apiserver's Service
        #[arg(long, default_value = "clustermesh")]
        namespace: String,
        /// Days that the certificates live
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Issue a certificate with a new key: for a client USER, or for a server
    Issue {
        /// The folder with the authority
        #[arg(long)]
        dir: PathBuf,
        /// The etcd user; the common name
        #[arg(long, conflicts_with_all = ["dns", "addresses"], required_unless_present = "dns")]
        user: Option<String>,
        /// A server's DNS name, the first of which is its common name; may be repeated
        #[arg(long)]
        dns: Vec<String>,
        /// A server's address; may be repeated
        #[arg(long = "address")]
        addresses: Vec<IpAddr>,
        /// Where to write: NAME.crt and NAME.key
        #[arg(long)]
        out: PathBuf,
        /// Days that the certificate lives
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Sign another cluster's request: a client certificate for exactly the user named here
    Sign {
        /// The folder with the authority
        #[arg(long)]
        dir: PathBuf,
        /// The request, PEM
        request: PathBuf,
        /// The user it must be for
        #[arg(long)]
        user: String,
        /// Where to write the certificate; standard output, unless given
        #[arg(long)]
        out: Option<PathBuf>,
        /// Days that the certificate lives
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Show what certificates say
    Show {
        /// PEM files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// Which lab.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Which {
    /// The lab's name
    #[arg(long, default_value = "default", env = "CLUSTERMESH_LAB")]
    pub(crate) lab: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Make a lab
    Up {
        #[command(flatten)]
        which: Which,
        /// How many clusters
        #[arg(long, default_value_t = 2)]
        clusters: usize,
        /// How many nodes a cluster
        #[arg(long, default_value_t = 2)]
        nodes: usize,
    },
    /// Take a lab away, whatever is left of it
    Down {
        #[command(flatten)]
        which: Which,
    },
    /// What is in a lab, and what of it runs
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// Run a command in a pod: CLUSTER/POD or CLUSTER/NAMESPACE/POD, or on a node: CLUSTER/node/NODE
    Exec {
        #[command(flatten)]
        which: Which,
        /// Where
        place: String,
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// What a process wrote: CLUSTER/etcd, CLUSTER/apiserver, CLUSTER/NODE/agent, or a pod's
    Logs {
        #[command(flatten)]
        which: Which,
        /// The process
        process: String,
    },
    /// Stop processes: a name, or all of a kind (etcd, apiserver, agent, a/agent, a/)
    Stop {
        #[command(flatten)]
        which: Which,
        /// Which ones
        #[arg(required = true)]
        processes: Vec<String>,
        /// Kill, without asking first
        #[arg(long)]
        kill: bool,
    },
    /// Start processes that were stopped or died
    Start {
        #[command(flatten)]
        which: Which,
        /// Which ones
        #[arg(required = true)]
        processes: Vec<String>,
    },
    /// Make a cluster hold what a manifest says: pods, deployments, services, namespaces
    Apply {
        #[command(flatten)]
        which: Which,
        /// The cluster
        #[arg(long)]
        cluster: String,
        /// The manifest, YAML; its name is what `lab delete` takes
        #[arg(long, short)]
        file: PathBuf,
        /// Set the number of replicas of all deployments in it
        #[arg(long)]
        replicas: Option<u32>,
        /// Seconds that a pod goes on after it was withdrawn
        #[arg(long, default_value_t = 1.0)]
        grace: f64,
    },
    /// Take back what a manifest made
    Delete {
        #[command(flatten)]
        which: Which,
        /// The cluster
        #[arg(long)]
        cluster: String,
        /// The manifest
        #[arg(long, short)]
        file: PathBuf,
        /// Seconds that a pod goes on after it was withdrawn
        #[arg(long, default_value_t = 1.0)]
        grace: f64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabPodCommand {
    /// Answer requests with who and where this is
    Serve {
        /// An HTTP port; may be repeated
        #[arg(long)]
        tcp: Vec<u16>,
        /// A UDP port; may be repeated
        #[arg(long)]
        udp: Vec<u16>,
    },
    /// Ask an echo server
    Call {
        /// Address and port
        to: SocketAddr,
        /// By UDP
        #[arg(long)]
        udp: bool,
        /// How often
        #[arg(long, default_value_t = 1)]
        count: u32,
    },
    /// Ask again and again, and judge every request
    Load {
        /// An HTTP target; may be repeated
        #[arg(long)]
        tcp: Vec<SocketAddr>,
        /// A UDP target; may be repeated
        #[arg(long)]
        udp: Vec<SocketAddr>,
        /// Fresh connections a second
        #[arg(long, default_value_t = 500)]
        rate: u32,
        /// Long flows
        #[arg(long, default_value_t = 50)]
        flows: u32,
        /// Seconds; until it is told to end, unless given
        #[arg(long)]
        seconds: Option<f64>,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Everything below, as docs/performance.md has it
    All,
    /// The CPU time of connect() through a service's address, beside connect() to the destination itself
    Connect {
        /// Numbers of services to measure with
        #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000])]
        services: Vec<u32>,
        /// How often the two take turns
        #[arg(long, default_value_t = 200)]
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
        /// Other global services of the source cluster
        #[arg(long, default_value_t = 0)]
        services: u32,
    },
    /// What `connect` starts to have its connections measured
    #[command(hide = true)]
    Client,
}
