//! The flags. Each can be given as `CLUSTERMESH_<FLAG>` too.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgAction, Parser, ValueEnum};
use ipnet::IpNet;
use mesh_admin::{
    duration::{self, After},
    logs::LogArgs,
    ports,
};
use mesh_health::EndingPolicy;
use mesh_layout::default_sizes;

/// The default of `--admin-socket`.
pub(crate) const ADMIN_SOCKET: &str = "/run/clustermesh/agent.sock";
/// Node agent: programs this node's eBPF load balancer from the state of all clusters
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
    /// The folder with `peers/`: a file for each cluster that is followed
    #[arg(long, default_value = "/etc/clustermesh", env = "CLUSTERMESH_CONFIG_DIR")]
    pub(crate) config_dir: PathBuf,
    /// The file with the address and credentials of the local cluster's etcd, in the format of a peer file
    #[arg(long, default_value = "/etc/clustermesh/local.yaml", env = "CLUSTERMESH_LOCAL_CONFIG")]
    pub(crate) local_config: PathBuf,
    /// The folder for what the agent needs after a restart: the last state of each cluster, and the addresses of its etcd
    #[arg(long, default_value = "/var/lib/clustermesh/agent", env = "CLUSTERMESH_STATE_DIR")]
    pub(crate) state_dir: PathBuf,
    /// How long backends of an unreachable cluster stay in use, as in `90s` or `1h30m`; `never` ends it, as in Cilium. The
    /// local cluster's never expire
    #[arg(long, value_name = "DURATION", default_value = "15m", env = "CLUSTERMESH_STALENESS_BUDGET", value_parser = staleness_budget)]
    pub(crate) staleness_budget: Duration,
    /// The same in seconds; until the next minor release
    #[arg(long, hide = true, conflicts_with = "staleness_budget", env = "CLUSTERMESH_STALENESS_BUDGET_SECONDS", value_parser = staleness_budget)]
    pub(crate) staleness_budget_seconds: Option<Duration>,
    /// How often the kernel's tables are compared with what they should hold; less often where a comparison takes long
    #[arg(long, value_name = "DURATION", default_value = "1m", env = "CLUSTERMESH_AUDIT_INTERVAL", value_parser = interval)]
    pub(crate) audit_interval: Duration,
    /// The same in seconds; until the next minor release
    #[arg(long, hide = true, conflicts_with = "audit_interval", env = "CLUSTERMESH_AUDIT_INTERVAL_SECONDS", value_parser = interval)]
    pub(crate) audit_interval_seconds: Option<Duration>,
    /// After how long TCP connections to the pods of an unreachable cluster are ended; `never` leaves them alone
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "15s",
        env = "CLUSTERMESH_END_TCP_OF_CUT_CLUSTERS_AFTER"
    )]
    pub(crate) end_tcp_of_cut_clusters_after: After,
    /// After how long connected UDP sockets to the pods of an unreachable cluster or a dead node are ended; `never` leaves
    /// them alone
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "3s",
        env = "CLUSTERMESH_END_UDP_OF_DEAD_AFTER"
    )]
    pub(crate) end_udp_of_dead_after: After,
    /// `false` is `--end-tcp-of-cut-clusters-after never`; until the next minor release
    #[arg(long, default_value_t = true, action = ArgAction::Set, env = "CLUSTERMESH_END_TCP_OF_CUT_CLUSTERS", hide = true)]
    pub(crate) end_tcp_of_cut_clusters: bool,
    /// The folder where the CNI plugin keeps a file for each pod (its `podsDir`); by default `pods` beside the admin
    /// socket. Put it on a tmpfs: nothing in it is valid after a boot
    #[arg(long, env = "CLUSTERMESH_PODS_DIR")]
    pub(crate) pods_dir: Option<PathBuf>,
    /// The folder where the container runtime mounts the network namespaces of pods: pods that the CNI plugin did not report
    /// are found there
    #[arg(long, default_value = mesh_files::NETNS_FOLDER, env = "CLUSTERMESH_NETNS_DIR")]
    pub(crate) netns_dir: PathBuf,
    /// The socket of the admin API
    #[arg(long, default_value = ADMIN_SOCKET, env = "CLUSTERMESH_ADMIN_SOCKET")]
    pub(crate) admin_socket: PathBuf,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, default_value_t = (Ipv4Addr::LOCALHOST, ports::AGENT_METRICS).into(), env = "CLUSTERMESH_METRICS_ADDRESS")]
    pub(crate) metrics_address: SocketAddr,
    /// Where kernel tables and programs are pinned, on a BPF file system
    #[arg(long, default_value = "/sys/fs/bpf/clustermesh", env = "CLUSTERMESH_PIN_ROOT")]
    pub(crate) pin_root: PathBuf,
    /// The cgroup whose processes are load-balanced, or a folder that has it mounted below; by default the first cgroup2
    /// mount. In a container that is the container's own: there, mount the node's /sys/fs/cgroup and name that folder
    #[arg(long, env = "CLUSTERMESH_CGROUP_ROOT")]
    pub(crate) cgroup_root: Option<PathBuf>,
    /// An address range of the cluster's pods; may be repeated. No peer may claim it
    #[arg(long = "pod-cidr", env = "CLUSTERMESH_POD_CIDR", value_delimiter = ',')]
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// An address range of the cluster's nodes; may be repeated. No peer may claim it
    #[arg(long = "node-cidr", env = "CLUSTERMESH_NODE_CIDR", value_delimiter = ',')]
    pub(crate) node_cidrs: Vec<IpNet>,
    /// An address range of the cluster's services; may be repeated. No peer may claim it
    #[arg(long = "service-cidr", env = "CLUSTERMESH_SERVICE_CIDR", value_delimiter = ',')]
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Whether the agent makes routes to other clusters' pods
    #[arg(long, value_enum, default_value_t, env = "CLUSTERMESH_ROUTES")]
    pub(crate) routes: Routes,
    /// Make routes to the local cluster's pods too: for a cluster whose CNI does not
    #[arg(long, env = "CLUSTERMESH_OWN_ROUTES")]
    pub(crate) own_routes: bool,
    /// Balance all of the cluster's services, not only global ones, where processes connect to their cluster IPs. A kube-proxy
    /// must run beside it: agents do not serve node ports, load balancers' and external addresses, host ports, SCTP, and what
    /// no process of this node sends. Where no kube-proxy is found, the agent waits for one
    #[arg(
        long, value_enum, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value_t, env = "CLUSTERMESH_REPLACE_KUBE_PROXY"
    )]
    pub(crate) replace_kube_proxy: Replacement,
    /// Whether a kube-proxy runs on this node, or another program that does its work: services that are not global are left to
    /// it while the local apiserver is stale. `auto` does not find one that uses iptables-legacy
    #[arg(long, value_enum, default_value_t, env = "CLUSTERMESH_KUBE_PROXY")]
    pub(crate) kube_proxy: KubeProxy,
    /// The UDP port on which probes from other nodes are answered; the same on all nodes of the mesh
    #[arg(long, default_value_t = ports::PROBE, env = "CLUSTERMESH_PROBE_PORT")]
    pub(crate) probe_port: u16,
    /// Who answers probes
    #[arg(long, value_enum, default_value_t, env = "CLUSTERMESH_PROBE_ANSWER")]
    pub(crate) probe_answer: ProbeAnswerer,
    /// How many frontends the kernel's table holds: one for each address, port and protocol of a service
    #[arg(long, default_value_t = entries(default_sizes::SERVICES), env = "CLUSTERMESH_MAX_SERVICES", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) max_services: u32,
    /// How many backends the kernel's table holds, a power of two
    #[arg(long, default_value_t = entries(default_sizes::BACKENDS), env = "CLUSTERMESH_MAX_BACKENDS", value_parser = power_of_two)]
    pub(crate) max_backends: u32,
    /// How many entries of backends in frontends the kernel's table holds, a power of two
    #[arg(long, default_value_t = entries(default_sizes::SLOTS), env = "CLUSTERMESH_MAX_SLOTS", value_parser = power_of_two)]
    pub(crate) max_slots: u32,
    /// How many frontends with weights or tiers the kernel's table holds
    #[arg(long, default_value_t = entries(default_sizes::GROUPS), env = "CLUSTERMESH_MAX_WEIGHTED_SERVICES", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) max_weighted_services: u32,
    /// How policies are enforced
    #[command(flatten)]
    pub(crate) policy: PolicyArgs,
    /// How logs are written
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// All flags as they are in force.
    #[arg(skip)]
    pub(crate) in_force: String,
}

/// Whether the agent makes routes to other clusters' pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Routes {
    /// Over their nodes, where these are on a link of this node; elsewhere the network must lead there
    #[default]
    Auto,
    /// None: the network must lead there
    Off,
}

/// Whether services that are not global are balanced too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Replacement {
    /// Global services only
    #[default]
    False,
    /// All services, beside a kube-proxy
    True,
    /// All services, also where no program serves the rest
    Force,
}

/// Whether a kube-proxy runs on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KubeProxy {
    /// Look for its nftables rules or its IPVS link
    #[default]
    Auto,
    /// One runs
    Present,
    /// None runs
    Absent,
}

/// Who answers probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeAnswerer {
    /// An eBPF program on the node's Ethernet interfaces, before any firewall, also while the agent does not run (Linux 6.6)
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

impl Args {
    /// How long backends of an unreachable cluster stay in use.
    pub(crate) fn staleness_budget(&self) -> Duration {
        self.staleness_budget_seconds.unwrap_or(self.staleness_budget)
    }

    /// How often the kernel's tables are compared with what they should hold.
    pub(crate) fn audit_interval(&self) -> Duration {
        self.audit_interval_seconds.unwrap_or(self.audit_interval)
    }

    /// When sockets are ended to what does not answer.
    pub(crate) fn endings(&self) -> EndingPolicy {
        let tcp = self.end_tcp_of_cut_clusters_after.time();
        EndingPolicy {
            tcp_of_cut_clusters: tcp.filter(|_| self.end_tcp_of_cut_clusters),
            udp: self.end_udp_of_dead_after.time(),
        }
    }

    /// Where the CNI plugin keeps its attachments.
    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.pods_dir.clone().unwrap_or_else(|| self.admin_socket.with_file_name("pods"))
    }
}

/// A default as a flag's value.
pub(crate) const fn entries(size: usize) -> u32 {
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

/// A duration, or `never`.
fn staleness_budget(text: &str) -> Result<Duration, String> {
    /// Longer than any process runs, and short enough to be added to a time: a hundred years.
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    match text {
        "never" => Ok(NEVER),
        text => duration::of_flag(text).map_err(|why| format!("{why}, or never")),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    duration::of_flag(text).and_then(|time| match time >= Duration::from_secs(1) {
        true => Ok(time),
        false => Err("less than 1s".into()),
    })
}

mod policy;

pub(crate) use policy::{Policy, PolicyArgs};

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
    fn the_replacement_of_a_kube_proxy_is_still_a_switch() {
        let parsed = |flags: &[&str]| {
            let required =
                ["agent", "--cluster-name", "a", "--cluster-id", "1", "--node-name", "n"];
            let args = Args::try_parse_from([&required[..], flags].concat());
            args.map(|args| args.replace_kube_proxy)
        };
        for (flags, wanted) in [
            (&[][..], Replacement::False),
            (&["--replace-kube-proxy", "--own-routes"], Replacement::True),
            (&["--replace-kube-proxy=true"], Replacement::True),
            (&["--replace-kube-proxy=false"], Replacement::False),
            (&["--replace-kube-proxy=force"], Replacement::Force),
        ] {
            assert_eq!(parsed(flags).unwrap(), wanted, "{flags:?}");
        }
        assert!(parsed(&["--replace-kube-proxy", "force"]).is_err());
        assert!(parsed(&["--replace-kube-proxy=alone"]).is_err());
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
    fn durations_have_units_and_their_former_flags_are_seconds() {
        let parsed = |flags: &[&str]| {
            let required =
                ["agent", "--cluster-name", "a", "--cluster-id", "1", "--node-name", "n"];
            let args = Args::try_parse_from([&required[..], flags].concat());
            args.map(|args| (args.staleness_budget().as_secs(), args.audit_interval().as_secs()))
        };
        for (flags, wanted) in [
            (&[][..], (900, 60)),
            (&["--staleness-budget", "1m30s", "--audit-interval", "2h"], (90, 7_200)),
            (&["--staleness-budget", "0", "--audit-interval", "5"], (0, 5)),
            (&["--staleness-budget-seconds", "4", "--audit-interval-seconds", "7"], (4, 7)),
        ] {
            assert_eq!(parsed(flags).unwrap(), wanted, "{flags:?}");
        }
        let (never, _) = parsed(&["--staleness-budget", "never"]).unwrap();
        assert!(never > 1_000_000_000);
        for bad in [
            &["--staleness-budget", "ever"][..],
            &["--audit-interval", "0"],
            &["--staleness-budget", "1m", "--staleness-budget-seconds", "60"],
        ] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }
}
