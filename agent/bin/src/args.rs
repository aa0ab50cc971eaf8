//! The flags. Each can be given as `CLUSTERMESH_<FLAG>` too.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{ArgAction, Parser, ValueEnum};
use ipnet::IpNet;
use mesh_admin::logs::LogArgs;
use mesh_health::EndingPolicy;
use mesh_layout::default_sizes;

/// Keeps this node's kernel equal to what all clusters of the mesh say.
#[derive(Clone, Debug, Parser)]
#[command(name = "clustermesh-agent", version = mesh_admin::version::line())]
pub(crate) struct Args {
    /// The cluster's name
    #[arg(long, env = "CLUSTERMESH_CLUSTER_NAME")]
    pub(crate) cluster_name: String,
    /// The cluster's ID
    #[arg(long, env = "CLUSTERMESH_CLUSTER_ID")]
    pub(crate) cluster_id: u32,
    /// How many clusters the mesh may have, 255 or 511; the same in all of them
    #[arg(long, default_value_t = 255, env = "CLUSTERMESH_MAX_CONNECTED_CLUSTERS")]
    pub(crate) max_connected_clusters: u32,
    /// The name of this node, as in its Node object
    #[arg(long, env = "CLUSTERMESH_NODE_NAME")]
    pub(crate) node_name: String,
    /// Where peers/ is
    #[arg(long, default_value = "/etc/clustermesh", env = "CLUSTERMESH_CONFIG_DIR")]
    pub(crate) config_dir: PathBuf,
    /// The file that leads to the local cluster's etcd, in the format of a peer file
    #[arg(long, default_value = "/etc/clustermesh/local.yaml", env = "CLUSTERMESH_LOCAL_CONFIG")]
    pub(crate) local_config: PathBuf,
    /// Where the agent keeps what outlives it: what clusters reported last, and where their etcds were
    #[arg(long, default_value = "/var/lib/clustermesh/agent", env = "CLUSTERMESH_STATE_DIR")]
    pub(crate) state_dir: PathBuf,
    /// Seconds for which the last state of a cluster that is unreachable stays in use, or `never`: it is not left, as in a
    /// Cilium; the local cluster's always stays
    #[arg(
        long,
        alias = "staleness-budget",
        default_value_t = 900,
        env = "CLUSTERMESH_STALENESS_BUDGET_SECONDS",
        value_parser = staleness_budget
    )]
    pub(crate) staleness_budget_seconds: u64,
    /// Seconds between two comparisons of the kernel's tables with what they should be; more, where one takes long
    #[arg(long, default_value_t = 60, env = "CLUSTERMESH_AUDIT_INTERVAL_SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) audit_interval_seconds: u64,
    /// End TCP connections to the pods of a cluster that is cut once nothing of it has answered for so long, as `15s`;
    /// `never`, and they are left to themselves
    #[arg(long, default_value = "15s", env = "CLUSTERMESH_END_TCP_OF_CUT_CLUSTERS_AFTER")]
    pub(crate) end_tcp_of_cut_clusters_after: After,
    /// The same of connected UDP sockets, and to the pods of a node that is dead
    #[arg(long, default_value = "3s", env = "CLUSTERMESH_END_UDP_OF_DEAD_AFTER")]
    pub(crate) end_udp_of_dead_after: After,
    /// `false` is `--end-tcp-of-cut-clusters-after never`; until the next minor release
    #[arg(long, default_value_t = true, action = ArgAction::Set, env = "CLUSTERMESH_END_TCP_OF_CUT_CLUSTERS", hide = true)]
    pub(crate) end_tcp_of_cut_clusters: bool,
    /// Where the CNI plugin keeps its attachments, as its `podsDir` says; the folder `pods` beside the admin socket, unless
    /// given. Best in memory: nothing in it outlives a boot
    #[arg(long, env = "CLUSTERMESH_PODS_DIR")]
    pub(crate) pods_dir: Option<PathBuf>,
    /// The socket of the admin API
    #[arg(long, default_value = "/run/clustermesh/agent.sock", env = "CLUSTERMESH_ADMIN_SOCKET")]
    pub(crate) admin_socket: PathBuf,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, default_value = "127.0.0.1:9981", env = "CLUSTERMESH_METRICS_ADDRESS")]
    pub(crate) metrics_address: SocketAddr,
    /// Where kernel tables and programs are pinned, on a BPF file system
    #[arg(long, default_value = "/sys/fs/bpf/clustermesh", env = "CLUSTERMESH_PIN_ROOT")]
    pub(crate) pin_root: PathBuf,
    /// The cgroup whose processes are load-balanced; the first cgroup2 mount, unless given
    #[arg(long, env = "CLUSTERMESH_CGROUP_ROOT")]
    pub(crate) cgroup_root: Option<PathBuf>,
    /// Where the cluster's pods are; may be repeated. No peer may claim it
    #[arg(long = "pod-cidr", env = "CLUSTERMESH_POD_CIDR", value_delimiter = ',')]
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Where the cluster's nodes are; may be repeated. No peer may claim it
    #[arg(long = "node-cidr", env = "CLUSTERMESH_NODE_CIDR", value_delimiter = ',')]
    pub(crate) node_cidrs: Vec<IpNet>,
    /// Where the cluster's services are; may be repeated. No peer may claim it
    #[arg(long = "service-cidr", env = "CLUSTERMESH_SERVICE_CIDR", value_delimiter = ',')]
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Who leads to other clusters' pods: the agent makes routes over their nodes where these are on a link of this node, or
    /// the network alone
    #[arg(long, value_enum, default_value_t, env = "CLUSTERMESH_ROUTES")]
    pub(crate) routes: Routes,
    /// Make routes to the local cluster's pods too: for a cluster whose CNI does not
    #[arg(long, env = "CLUSTERMESH_OWN_ROUTES")]
    pub(crate) own_routes: bool,
    /// Take all of the cluster's services, not only global ones: for a cluster without a kube-proxy
    #[arg(long, env = "CLUSTERMESH_REPLACE_KUBE_PROXY")]
    pub(crate) replace_kube_proxy: bool,
    /// Whether a kube-proxy runs on this node, which takes services that are not global over when the local apiserver
    /// does not report. It is looked for, unless given; where it uses iptables-legacy it must be
    #[arg(long, value_enum, default_value_t, env = "CLUSTERMESH_KUBE_PROXY")]
    pub(crate) kube_proxy: KubeProxy,
    /// The UDP port of the probe echo
    #[arg(long, default_value_t = 9984, env = "CLUSTERMESH_PROBE_PORT")]
    pub(crate) probe_port: u16,
    /// Who answers probes where they arrive on Ethernet: the kernel, whatever the agent does and before any firewall of the
    /// node's, or the agent alone
    #[arg(long, value_enum, default_value_t, env = "CLUSTERMESH_PROBE_ANSWER")]
    pub(crate) probe_answer: ProbeAnswerer,
    /// Room for services: frontends, each an address, port and protocol
    #[arg(long, default_value_t = entries(default_sizes::SERVICES), env = "CLUSTERMESH_MAX_SERVICES", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) max_services: u32,
    /// Room for backends, a power of two
    #[arg(long, default_value_t = entries(default_sizes::BACKENDS), env = "CLUSTERMESH_MAX_BACKENDS", value_parser = power_of_two)]
    pub(crate) max_backends: u32,
    /// Room for places of backends in services, a power of two
    #[arg(long, default_value_t = entries(default_sizes::SLOTS), env = "CLUSTERMESH_MAX_SLOTS", value_parser = power_of_two)]
    pub(crate) max_slots: u32,
    /// Room for services whose backends have different chances, by weights or tiers
    #[arg(long, default_value_t = entries(default_sizes::GROUPS), env = "CLUSTERMESH_MAX_WEIGHTED_SERVICES", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) max_weighted_services: u32,
    /// How logs are written
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// After how long something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// So long.
    Time(Duration),
    /// It is not done.
    Never,
}

/// Who leads to other clusters' pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Routes {
    /// Routes where the next hop is on a link; elsewhere the network, which probes show
    #[default]
    Auto,
    /// The network
    Off,
}

/// Whether a kube-proxy runs on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KubeProxy {
    /// By what it leaves in nftables, or its IPVS link
    #[default]
    Auto,
    /// It does
    Present,
    /// It does not
    Absent,
}

/// Who answers probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeAnswerer {
    /// A program at the ingress of the interfaces that carry the node's addresses (Linux 6.6)
    #[default]
    Kernel,
    /// The agent, while it runs
    Agent,
}

impl KubeProxy {
    /// Whether one runs, where that is given.
    pub(crate) fn known(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::Present => Some(true),
            Self::Absent => Some(false),
        }
    }
}

impl FromStr for After {
    type Err = String;

    /// Reads a time with its unit, as `15s` or `500ms`, or `never`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Never);
        }
        let time = text.parse::<jiff::SignedDuration>().ok().and_then(|time| time.try_into().ok());
        time.map(Self::Time).ok_or_else(|| "neither a time, as 15s or 500ms, nor never".into())
    }
}

impl Args {
    /// When sockets are ended to what does not answer.
    pub(crate) fn endings(&self) -> EndingPolicy {
        let time = |after| match after {
            After::Time(time) => Some(time),
            After::Never => None,
        };
        let tcp = time(self.end_tcp_of_cut_clusters_after);
        EndingPolicy {
            tcp_of_cut_clusters: tcp.filter(|_| self.end_tcp_of_cut_clusters),
            udp: time(self.end_udp_of_dead_after),
        }
    }

    /// Where the CNI plugin keeps its attachments.
    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.pods_dir.clone().unwrap_or_else(|| self.admin_socket.with_file_name("pods"))
    }
}

/// A default as a flag's value.
const fn entries(size: usize) -> u32 {
    assert!(size <= 1 << 24);
    #[expect(clippy::cast_possible_truncation, reason = "checked in the line above")]
    let size = size as u32;
    size
}

fn power_of_two(text: &str) -> Result<u32, String> {
    let number: u32 = text.parse().map_err(|e: std::num::ParseIntError| e.to_string())?;
    match number.is_power_of_two() && (2..=16_777_216).contains(&number) {
        true => Ok(number),
        false => Err("not a power of two from 2 to 16777216".into()),
    }
}

/// A number of seconds, or `never`.
fn staleness_budget(text: &str) -> Result<u64, std::num::ParseIntError> {
    /// Longer than any process runs, and short enough to be added to a time: a hundred years.
    const NEVER: u64 = 100 * 365 * 24 * 60 * 60;
    match text {
        "never" => Ok(NEVER),
        seconds => seconds.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
        assert_eq!(power_of_two("1024"), Ok(1_024));
        assert!(power_of_two("1000").is_err());
    }

    #[test]
    fn sockets_end_by_flags_and_by_the_former_one() {
        let endings = |flags: &[&str]| {
            let required =
                ["agent", "--cluster-name", "a", "--cluster-id", "1", "--node-name", "n"];
            Args::try_parse_from([&required[..], flags].concat()).map(|args| args.endings())
        };
        assert_eq!(endings(&[]).unwrap(), EndingPolicy::default());
        let never =
            ["--end-tcp-of-cut-clusters-after", "never", "--end-udp-of-dead-after", "500ms"];
        let policy =
            EndingPolicy { tcp_of_cut_clusters: None, udp: Some(Duration::from_millis(500)) };
        assert_eq!(endings(&never).unwrap(), policy);
        let former = endings(&["--end-tcp-of-cut-clusters", "false"]).unwrap();
        assert_eq!(former, EndingPolicy { tcp_of_cut_clusters: None, ..EndingPolicy::default() });
        for bad in ["15", "-1s", "", "soon"] {
            assert!(endings(&["--end-udp-of-dead-after", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_staleness_budget_is_seconds_or_never() {
        assert_eq!(staleness_budget("0"), Ok(0));
        assert_eq!(staleness_budget("900"), Ok(900));
        assert!(staleness_budget("never").is_ok_and(|seconds| seconds > 1_000_000_000));
        assert!(staleness_budget("ever").is_err());
    }
}
