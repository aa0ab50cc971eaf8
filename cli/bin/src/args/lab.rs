//! `clustermesh lab`, and what runs in a lab's pods.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Subcommand;

use super::duration::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Make a lab: clusters of network namespaces, with their daemons
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
    /// Remove a lab, also one that is half up
    Down,
    /// List the labs that are up, and whether their processes run
    #[command(visible_alias = "ls")]
    List,
    /// Show the state of a lab and its processes
    Status,
    /// Run a command in a pod: CLUSTER/POD or CLUSTER/NAMESPACE/POD, or on a node: CLUSTER/node/NODE
    Exec {
        /// The pod, or the node
        place: String,
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Have the CNI plugins check the network of a pod (CNI CHECK): CLUSTER/POD or CLUSTER/NAMESPACE/POD
    CheckPod {
        /// The pod
        pod: String,
    },
    /// Show the log of a process: CLUSTER/etcd, CLUSTER/apiserver, CLUSTER/etcd2 of a second replica, CLUSTER/NODE/agent, or a
    /// pod's
    Logs {
        /// The process
        process: String,
        /// Also show what is written from now on, until ^C
        #[arg(long, short)]
        follow: bool,
        /// Show only so many of the last lines
        #[arg(long, value_name = "LINES")]
        tail: Option<usize>,
    },
    /// Stop processes: one by name, or all of a kind (etcd, apiserver, agent, a/agent, a/)
    Stop {
        /// Which ones
        #[arg(required = true)]
        processes: Vec<String>,
        /// Kill with SIGKILL, without SIGTERM first
        #[arg(long)]
        kill: bool,
    },
    /// Start processes that were stopped or died
    Start {
        /// Which ones
        #[arg(required = true)]
        processes: Vec<String>,
        /// A variable of their environment from now on; may be repeated
        #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
        environment: Vec<(String, String)>,
    },
    /// Block the network between two of: clusters (a), nodes (a/n1), etcds (a/etcd, a/etcd2)
    Cut {
        /// One of the two
        one: String,
        /// The other
        other: String,
        /// Block only this port, TCP and UDP, and its answers
        #[arg(long)]
        port: Option<u16>,
        /// Do not block, but limit the rate each way, as in 1mbit
        #[arg(long, value_name = "RATE", group = "passes")]
        rate: Option<String>,
        /// Do not block, but lose so many packets each way, as in 30%
        #[arg(long, value_name = "PERCENT", group = "passes")]
        loss: Option<String>,
        /// Do not block, but delay everything, as in 200ms; one of the two is an etcd
        #[arg(long, value_name = "DURATION", group = "passes")]
        delay: Option<String>,
    },
    /// End what `cut` did between two of them, or everywhere
    Heal {
        /// The two, as `cut` has them; by default all
        #[arg(num_args = 2, value_names = ["ONE", "OTHER"])]
        places: Vec<String>,
    },
    /// Compare every node's kernel tables with the manifests of all clusters that it follows. Exits with 3 if they differ
    CheckHistory {
        /// Wait until they are equal
        #[arg(long)]
        wait: bool,
        /// How long to wait
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, requires = "wait")]
        wait_duration: Duration,
        /// First watch every etcd for this long, and check that its watches keep etcd's guarantees
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        record: Option<Duration>,
    },
    /// Make a lab, load it, and inject random faults one after another: none may make a difference
    Chaos {
        /// The name of the lab that is made
        #[arg(long, default_value = "chaos")]
        lab: String,
        /// The seed of the faults: the same seed, the same faults
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        seed: u64,
        /// How many faults
        #[arg(long, value_name = "COUNT", default_value_t = 200)]
        faults: usize,
        /// How many replicas of each cluster's control plane
        #[arg(long, default_value_t = 1)]
        replicas: u8,
        /// Leave the lab up when it is over
        #[arg(long)]
        keep: bool,
    },
    /// Apply a manifest to a cluster: pods, deployments, services, namespaces
    Apply {
        /// The cluster
        #[arg(long)]
        cluster: String,
        /// A manifest, a folder of manifests, or - for standard input
        #[arg(long, short)]
        file: PathBuf,
        /// Set the number of replicas of all deployments in it
        #[arg(long)]
        replicas: Option<u32>,
        /// terminationGracePeriodSeconds of the lab's pods
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
        grace: Duration,
    },
    /// Delete the objects that a manifest names
    Delete {
        /// The cluster
        #[arg(long)]
        cluster: String,
        /// A manifest, a folder of manifests, or - for standard input
        #[arg(long, short)]
        file: PathBuf,
        /// terminationGracePeriodSeconds of the lab's pods
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
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
    /// Hand on what comes to a port to another one, later: before an etcd whose clients are delayed
    Relay {
        /// Where to listen
        #[arg(long)]
        port: u16,
        /// Where to hand it on to, on this host
        #[arg(long)]
        to_port: u16,
        /// Milliseconds later, in each direction
        #[arg(long)]
        delay_ms: u64,
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
    /// Ask an echo server, wait until the connection ends, and ask again; prints each event as a line of JSON
    Hang {
        /// Address and port
        to: SocketAddr,
        /// By UDP
        #[arg(long)]
        udp: bool,
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
        /// Connections that are kept, to the HTTP targets
        #[arg(long, default_value_t = 50)]
        flows: u32,
        /// Connected UDP sockets that are kept, to the UDP targets
        #[arg(long, default_value_t = 0)]
        datagram_flows: u32,
        /// Fresh connections in all; until it is stopped by a signal, unless given
        #[arg(long)]
        requests: Option<u64>,
    },
}

/// How many clusters, or nodes a cluster.
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
