//! The flags of `clustermesh lab`, and of the programs in a lab's pods.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Subcommand;
use mesh_admin::duration::of_flag;

use super::{lab_name, wait::WaitDuration};

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Start a lab: clusters made of network namespaces, with their daemons
    Up {
        /// How many clusters
        #[arg(long, value_name = "COUNT", default_value = "2", value_parser = size)]
        clusters: usize,
        /// How many nodes each cluster has
        #[arg(long, value_name = "COUNT", default_value = "2", value_parser = size)]
        nodes: usize,
        /// How many replicas of the control plane each cluster has: an etcd and an apiserver each, on nodes n1, n2, …
        #[arg(long, value_name = "COUNT", default_value_t = 1)]
        replicas: u8,
        /// The etcd that each cluster runs: a path, or a name in PATH
        #[arg(long, value_name = "PATH", default_value = "etcd", env = "CLUSTERMESH_LAB_ETCD")]
        etcd: PathBuf,
        /// How many bytes an etcd may hold; by default etcd's own limit
        #[arg(long, value_name = "BYTES")]
        etcd_quota: Option<u64>,
    },
    /// Remove a lab, even if it was only started in part
    Down,
    /// List the labs that are up, and whether their processes run
    #[command(visible_alias = "ls")]
    List,
    /// Show the state of a lab and its processes
    Status,
    /// Run a command in a pod: CLUSTER/POD or CLUSTER/NAMESPACE/POD, or on a node: CLUSTER/node/NODE
    Exec {
        /// Accepted for compatibility with kubectl: the command always reads standard input
        #[arg(short = 'i', long)]
        stdin: bool,
        /// Accepted for compatibility with kubectl: the command always has the terminal, if there is one
        #[arg(short = 't', long)]
        tty: bool,
        /// The pod, or the node
        #[arg(value_name = "TARGET")]
        place: String,
        /// The command and its arguments
        #[arg(
            value_name = "COMMAND",
            required = true,
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        command: Vec<String>,
    },
    /// Have the CNI plugins check the network of a pod (CNI CHECK): CLUSTER/POD or CLUSTER/NAMESPACE/POD
    CheckPod {
        /// The pod
        #[arg(value_name = "POD")]
        pod: String,
    },
    /// Show the log of a process: CLUSTER/etcd, CLUSTER/apiserver, CLUSTER/etcd2 of a second replica, CLUSTER/NODE/agent,
    /// or a pod's
    Logs {
        /// The process
        #[arg(value_name = "PROCESS")]
        process: String,
        /// Also show what is written from now on, until ^C
        #[arg(long, short)]
        follow: bool,
        /// Show only so many of the last lines
        #[arg(long, value_name = "LINES")]
        tail: Option<usize>,
    },
    /// Stop processes: one by its name, all of a kind (etcd, apiserver, agent; of cluster a: a/agent), or all of cluster a
    /// (a/)
    Stop {
        /// Which processes
        #[arg(value_name = "PROCESS", required = true)]
        processes: Vec<String>,
        /// Kill with SIGKILL, without SIGTERM first
        #[arg(long)]
        kill: bool,
    },
    /// Start processes that were stopped or died
    Start {
        /// Which processes
        #[arg(value_name = "PROCESS", required = true)]
        processes: Vec<String>,
        /// Set a variable in their environment, also for later starts; may be repeated
        #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
        environment: Vec<(String, String)>,
    },
    /// Block the network between two locations: clusters (a), nodes (a/n1), etcds (a/etcd, a/etcd2)
    Cut {
        /// A cluster, a node or an etcd
        #[arg(value_name = "ONE")]
        one: String,
        /// The other cluster, node or etcd
        #[arg(value_name = "OTHER")]
        other: String,
        /// Block only this port, TCP and UDP, and its answers
        #[arg(long, value_name = "PORT")]
        port: Option<u16>,
        /// Do not block: limit the rate in each direction, as in 1mbit
        #[arg(long, value_name = "RATE", group = "passes")]
        rate: Option<String>,
        /// Do not block: drop so many packets in each direction, as in 30%
        #[arg(long, value_name = "PERCENT", group = "passes")]
        loss: Option<String>,
        /// Do not block: delay everything, as in 200ms; one of the two must be an etcd
        #[arg(long, value_name = "DURATION", group = "passes")]
        delay: Option<String>,
    },
    /// Undo `cut` between two locations, or everywhere
    Heal {
        /// The two locations, as in `cut`; by default all
        #[arg(num_args = 2, value_names = ["ONE", "OTHER"])]
        places: Vec<String>,
    },
    /// Compare every node's kernel tables with the manifests of all clusters that it follows; exits with 3 if they differ
    CheckHistory {
        /// Wait until they are equal, by default for at most 60s
        #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "60s", value_parser = of_flag)]
        wait: Option<Duration>,
        #[command(flatten)]
        wait_duration: WaitDuration,
        /// First watch every etcd for this long, and check that its watches keep the guarantees of etcd
        #[arg(long, value_name = "DURATION", value_parser = of_flag)]
        record: Option<Duration>,
    },
    /// Start a lab, put load on it, and inject random faults one after another: no request may fail
    Chaos {
        /// The name of the new lab
        #[arg(long, value_name = "LAB", default_value = "chaos", value_parser = lab_name)]
        lab: String,
        /// The seed of the faults: the same seed, the same faults
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        seed: u64,
        /// How many faults
        #[arg(long, value_name = "COUNT", default_value_t = 200)]
        faults: usize,
        /// How many replicas of the control plane each cluster has
        #[arg(long, value_name = "COUNT", default_value_t = 1)]
        replicas: u8,
        /// Do not remove the lab at the end
        #[arg(long)]
        keep: bool,
    },
    /// Apply a manifest to a cluster: pods, deployments, services, namespaces
    ///
    /// Where the template of a deployment changed, its pods are replaced one after another: the new pod is ready before the
    /// next one ends. Pods that are no longer wanted end at the same time.
    Apply {
        /// The cluster
        #[arg(long, value_name = "CLUSTER")]
        cluster: String,
        /// A manifest, a folder of manifests, or - for standard input
        #[arg(long, short, value_name = "FILE")]
        file: PathBuf,
        /// Set the number of replicas of all deployments in it
        #[arg(long, value_name = "COUNT")]
        replicas: Option<u32>,
        /// How long a pod keeps running after it is marked as terminating
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = of_flag)]
        grace: Duration,
    },
    /// Delete the objects that a manifest names
    Delete {
        /// The cluster
        #[arg(long, value_name = "CLUSTER")]
        cluster: String,
        /// A manifest, a folder of manifests, or - for standard input
        #[arg(long, short, value_name = "FILE")]
        file: PathBuf,
        /// How long a pod keeps running after it is marked as terminating
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = of_flag)]
        grace: Duration,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabPodCommand {
    /// Answer requests with the names of this pod, its node and its cluster
    Serve {
        /// An HTTP port; may be repeated
        #[arg(long)]
        tcp: Vec<u16>,
        /// A UDP port; may be repeated
        #[arg(long)]
        udp: Vec<u16>,
    },
    /// Forward connections from one port to another with a delay, in front of an etcd whose clients are delayed
    Relay {
        /// The port to listen on
        #[arg(long)]
        port: u16,
        /// The port to forward to, on this host
        #[arg(long)]
        to_port: u16,
        /// The delay in each direction, in milliseconds
        #[arg(long)]
        delay_ms: u64,
    },
    /// Send requests to an echo server
    Call {
        /// Address and port
        to: SocketAddr,
        /// Use UDP
        #[arg(long)]
        udp: bool,
        /// How many requests
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// How long a request may take
        #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = of_flag)]
        timeout: Duration,
    },
    /// Send a request to an echo server, wait until the connection ends, and connect again; prints each event as a line of
    /// JSON
    Hang {
        /// Address and port
        to: SocketAddr,
        /// Use UDP
        #[arg(long)]
        udp: bool,
    },
    /// Send requests continuously, and check each answer
    Load {
        /// An HTTP target; may be repeated
        #[arg(long)]
        tcp: Vec<SocketAddr>,
        /// A UDP target; may be repeated
        #[arg(long)]
        udp: Vec<SocketAddr>,
        /// New connections a second
        #[arg(long, default_value_t = 500)]
        rate: u32,
        /// Connections that are kept, to the HTTP targets
        #[arg(long, default_value_t = 50)]
        flows: u32,
        /// Connected UDP sockets that are kept, to the UDP targets
        #[arg(long, default_value_t = 0)]
        datagram_flows: u32,
        /// How many new connections to make; by default no limit, until a signal
        #[arg(long)]
        requests: Option<u64>,
    },
}

/// Parses the number of clusters in a lab, or of nodes in a cluster.
fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=99) => Ok(count),
        _ => Err("a lab has 1 to 99 clusters of 1 to 99 nodes".into()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=VALUE")?;
    Ok((name.into(), value.into()))
}
