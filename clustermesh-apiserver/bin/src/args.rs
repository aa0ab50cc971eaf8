//! The flags. Each can also be set by the environment variable `CLUSTERMESH_<FLAG>`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use clap::{Parser, Subcommand};
use ipnet::IpNet;
use mesh_admin::{ProxyArgs, duration, logs::LogArgs, ports};
use mesh_source_kube::KubeconfigChoice;

/// The default of `--admin-socket`.
pub(crate) const ADMIN_SOCKET: &str = "/run/clustermesh/apiserver.sock";

/// Exports a cluster's services, pods and nodes to its etcd, from which the agents of all clusters read them
#[derive(Clone, Debug, Parser)]
#[command(
    name = "clustermesh-apiserver",
    version = mesh_admin::version::line(),
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Args,
}

/// The subcommands.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Set up users and roles in an etcd before anything else can reach it
    EtcdInit(EtcdInitArgs),
    /// Connect standard input and output with the admin API of the apiserver that runs here
    AdminProxy(ProxyArgs),
    /// Make the cluster directory of a pod: cluster.yaml from flags, and certificates of the CA in Secret clustermesh-ca
    Init(InitArgs),
    /// Read and change this cluster's part of a connection: `clustermesh connect` runs it in the apiserver's pod
    Peer(PeerArgs),
    /// Read and change the CA in Secret clustermesh-ca: `clustermesh certs rotate` runs it in the apiserver's pod
    Ca(CaArgs),
    /// End the etcd of this container, which Kubernetes then starts again: an etcd reads its CAs only at its start
    StopEtcd,
}

/// Where the API server is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ApiArgs {
    /// The kubeconfig of the API server; without one, the service account of the pod
    #[arg(long, value_name = "FILE", env = "CLUSTERMESH_KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in it; by default its current one
    #[arg(long, value_name = "NAME", requires = "kubeconfig", env = "CLUSTERMESH_KUBE_CONTEXT")]
    pub(crate) kube_context: Option<String>,
}

/// Where a cluster's objects come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SourceKind {
    /// The folder manifests/ of the cluster directory
    #[default]
    Manifests,
    /// A Kubernetes API server
    Kubernetes,
}

/// The flags of the daemon.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster directory: cluster.yaml, manifests/, pki/, users.yaml, drain.yaml, state/
    #[arg(long, default_value = "/etc/clustermesh", env = "CLUSTERMESH_CONFIG_DIR")]
    pub(crate) config_dir: PathBuf,
    /// Where the cluster's objects come from
    #[arg(long, value_enum, default_value_t, env = "CLUSTERMESH_SOURCE")]
    pub(crate) source: SourceKind,
    /// Where the API server is
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Keep what a pod made by `init` needs: renew certificates in pki/ after half of this time, and write Secret and ConfigMap
    /// clustermesh-local, by which agents find the etcd. With --source kubernetes
    #[arg(long, value_name = "DURATION", env = "CLUSTERMESH_CERTIFICATE_LIFETIME", value_parser = certificate_lifetime)]
    pub(crate) certificate_lifetime: Option<Duration>,
    /// The etcd to write to
    #[arg(long, default_value = "https://127.0.0.1:2379", env = "CLUSTERMESH_ETCD_ENDPOINT")]
    pub(crate) etcd_endpoint: String,
    /// An etcd user that the apiserver must keep; may be repeated. It removes other unknown users that have a role
    #[arg(long = "etcd-extra-users", env = "CLUSTERMESH_ETCD_EXTRA_USERS", value_delimiter = ',')]
    pub(crate) etcd_extra_users: Vec<String>,
    /// The etcd's --quota-backend-bytes, in bytes; only used for etcd before 3.6, which does not report it
    #[arg(long, default_value_t = 2 << 30, env = "CLUSTERMESH_ETCD_QUOTA_BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) etcd_quota_bytes: u64,
    /// Trust all peers: do not report an etcd version that lets a peer do more than its role allows
    #[arg(long, env = "CLUSTERMESH_TRUSTED_PEERS")]
    pub(crate) trusted_peers: bool,
    /// The socket of the admin API
    #[arg(long, default_value = ADMIN_SOCKET, env = "CLUSTERMESH_ADMIN_SOCKET")]
    pub(crate) admin_socket: PathBuf,
    /// The address that serves /healthz, /readyz and /metrics
    #[arg(long, default_value_t = (Ipv4Addr::LOCALHOST, ports::APISERVER_METRICS).into(), env = "CLUSTERMESH_METRICS_ADDRESS")]
    pub(crate) metrics_address: SocketAddr,
    /// A rule for the labels that are part of identities, for example `app` or `!version`; may be repeated. With a rule that
    /// includes labels, all other labels are excluded
    #[arg(long = "identity-label", env = "CLUSTERMESH_IDENTITY_LABEL", value_delimiter = ' ')]
    pub(crate) identity_labels: Vec<String>,
    /// The interval of heartbeats in the etcd, 1s to 5m
    #[arg(long, value_name = "DURATION", default_value = "1m", env = "CLUSTERMESH_HEARTBEAT", value_parser = heartbeat)]
    heartbeat: Duration,
    /// The same in seconds. Removed in the next minor release
    #[arg(long, hide = true, conflicts_with = "heartbeat", env = "CLUSTERMESH_HEARTBEAT_SECONDS", value_parser = heartbeat)]
    heartbeat_seconds: Option<Duration>,
    /// How long an identity stays published after its last pod is gone, so that readers know the identity of every address
    #[arg(long, value_name = "DURATION", default_value = "15m", env = "CLUSTERMESH_IDENTITY_WAIT", value_parser = identity_wait)]
    identity_wait: Duration,
    /// The same in seconds. Removed in the next minor release
    #[arg(long, hide = true, conflicts_with = "identity_wait", env = "CLUSTERMESH_IDENTITY_WAIT_SECONDS", value_parser = identity_wait)]
    identity_wait_seconds: Option<Duration>,
    /// Adopt the identity IDs in the etcd if the journal has none. Use it once, after the journal was lost
    #[arg(long, env = "CLUSTERMESH_ADOPT_IDENTITIES")]
    pub(crate) adopt_identities: bool,
    /// Log flags
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// All flags with their values in force, as one line.
    #[arg(skip)]
    pub(crate) in_force: String,
}

/// The flags of `etcd-init`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EtcdInitArgs {
    /// The cluster directory: cluster.yaml, pki/, users.yaml
    #[arg(long, default_value = "/etc/clustermesh", env = "CLUSTERMESH_CONFIG_DIR")]
    pub(crate) config_dir: PathBuf,
    /// An etcd user to keep; may be repeated. Other unknown users that have a role are an error
    #[arg(long = "etcd-extra-users", env = "CLUSTERMESH_ETCD_EXTRA_USERS", value_delimiter = ',')]
    pub(crate) extra_users: Vec<String>,
    /// Afterwards, replace this process by the etcd (exec)
    #[arg(long)]
    pub(crate) exec: bool,
    /// Log flags
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// The command that starts the etcd, with all its flags and absolute paths: `-- etcd --data-dir=…`
    #[arg(required = true, last = true)]
    pub(crate) etcd: Vec<String>,
}

/// The flags of `init`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// The cluster directory to make
    #[arg(long, default_value = "/etc/clustermesh", env = "CLUSTERMESH_CONFIG_DIR")]
    pub(crate) config_dir: PathBuf,
    /// The cluster's name
    #[arg(long, value_name = "NAME", env = "CLUSTERMESH_CLUSTER_NAME")]
    pub(crate) cluster_name: String,
    /// The cluster's ID
    #[arg(long, value_name = "ID", env = "CLUSTERMESH_CLUSTER_ID")]
    pub(crate) cluster_id: u32,
    /// How many clusters the mesh may have, 255 or 511; the same in all of them
    #[arg(long, default_value_t = 255, env = "CLUSTERMESH_MAX_CONNECTED_CLUSTERS")]
    pub(crate) max_connected_clusters: u32,
    /// An address range of the cluster's pods; may be repeated
    #[arg(
        long = "pod-cidr",
        value_name = "CIDR",
        env = "CLUSTERMESH_POD_CIDR",
        value_delimiter = ','
    )]
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// An address range of the cluster's services; may be repeated
    #[arg(
        long = "service-cidr",
        value_name = "CIDR",
        env = "CLUSTERMESH_SERVICE_CIDR",
        value_delimiter = ','
    )]
    pub(crate) service_cidrs: Vec<IpNet>,
    /// An address range of the cluster's nodes; may be repeated
    #[arg(
        long = "node-cidr",
        value_name = "CIDR",
        env = "CLUSTERMESH_NODE_CIDR",
        value_delimiter = ','
    )]
    pub(crate) node_cidrs: Vec<IpNet>,
    /// Whether namespaces without the annotation clustermesh.cilium.io/global take part in the mesh
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, env = "CLUSTERMESH_DEFAULT_GLOBAL_NAMESPACE")]
    pub(crate) default_global_namespace: bool,
    /// How long issued certificates are valid
    #[arg(long, value_name = "DURATION", default_value = "90d", env = "CLUSTERMESH_CERTIFICATE_LIFETIME", value_parser = certificate_lifetime)]
    pub(crate) certificate_lifetime: Duration,
    /// Where the API server is
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Log flags
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

impl ApiArgs {
    /// How the API server is found.
    pub(crate) fn choice(&self) -> KubeconfigChoice {
        match &self.kubeconfig {
            None => KubeconfigChoice::InCluster,
            Some(path) => KubeconfigChoice::File {
                path: Some(path.clone()),
                context: self.kube_context.clone(),
            },
        }
    }
}

/// The flags of `peer`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PeerArgs {
    /// The cluster directory: cluster.yaml, pki/
    #[arg(long, default_value = "/etc/clustermesh", env = "CLUSTERMESH_CONFIG_DIR")]
    pub(crate) config_dir: PathBuf,
    /// Where the API server is
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: PeerCommand,
}

/// The subcommands of `peer`. They print JSON.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// Print what a connection needs to know of this cluster, and the peers that it has
    Describe {
        /// Print private keys too
        #[arg(long)]
        include_keys: bool,
    },
    /// Make a private key for a peer's etcd, keep it in the Secret clustermesh-peers, and print the certificate request
    Request {
        /// The cluster to follow
        #[arg(long, value_name = "NAME")]
        peer: String,
    },
    /// Add the etcd user of a peer, and sign its certificate request, which standard input has
    Sign,
    /// Write a peer's file and certificate, which standard input has, to the Secret clustermesh-peers
    Accept,
    /// Remove a peer from the Secret clustermesh-peers, and from the drained peers
    Remove {
        /// The cluster that is not followed any more
        #[arg(long, value_name = "NAME")]
        peer: String,
        /// Also remove the etcd user of that cluster, which then cannot follow this one
        #[arg(long)]
        user: bool,
    },
}

/// The flags of `ca`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CaArgs {
    /// The cluster directory: cluster.yaml, pki/
    #[arg(long, default_value = "/etc/clustermesh", env = "CLUSTERMESH_CONFIG_DIR")]
    pub(crate) config_dir: PathBuf,
    /// How long issued certificates are valid
    #[arg(long, value_name = "DURATION", default_value = "90d", env = "CLUSTERMESH_CERTIFICATE_LIFETIME", value_parser = certificate_lifetime)]
    pub(crate) certificate_lifetime: Duration,
    /// Where the API server is
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: CaCommand,
}

/// The subcommands of `ca`. They print JSON: the CA as it is afterwards. One that was carried out before does nothing.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Change nothing
    Describe,
    /// Make a new CA, and trust it beside the present one
    Succeed,
    /// Sign with the new CA from now on
    Sign,
    /// Trust only the CA that signs
    Forget,
    /// Take the CA from the Secret into this pod, and issue the certificates that it did not sign
    Renew {
        /// Issue this one too; may be repeated
        #[arg(long, value_name = "NAME", value_parser = ["server", "admin", "local"])]
        again: Vec<String>,
    },
}

impl Args {
    /// The interval of heartbeats.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.heartbeat_seconds.unwrap_or(self.heartbeat)
    }

    /// How long an identity that no pod has stays published.
    pub(crate) fn identity_wait(&self) -> Duration {
        self.identity_wait_seconds.unwrap_or(self.identity_wait)
    }
}

fn heartbeat(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(1)..=Duration::from_secs(300), "1s to 5m")
}

fn certificate_lifetime(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(60)..=Duration::from_secs(3_650 * 24 * 3_600), "1m to 3650d")
}

fn identity_wait(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(1)..=Duration::MAX, "1s or longer")
}

/// Parses a duration in a range, which `words` describes.
fn within(text: &str, allowed: RangeInclusive<Duration>, words: &str) -> Result<Duration, String> {
    let duration = duration::of_flag(text)?;
    match allowed.contains(&duration) {
        true => Ok(duration),
        false => Err(format!("not {words}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_former_flags_are_in_seconds() {
        let parsed = |flags: &[&str]| {
            let cli = Cli::try_parse_from([&["apiserver"], flags].concat());
            cli.map(|cli| (cli.serve.heartbeat().as_secs(), cli.serve.identity_wait().as_secs()))
        };
        for (flags, wanted) in [
            (&[][..], (60, 900)),
            (&["--heartbeat", "1m30s", "--identity-wait", "2h"], (90, 7_200)),
            (&["--heartbeat-seconds", "4", "--identity-wait-seconds", "7"], (4, 7)),
        ] {
            assert_eq!(parsed(flags).unwrap(), wanted, "{flags:?}");
        }
        for bad in [
            &["--heartbeat", "301s"][..],
            &["--heartbeat", "0"],
            &["--identity-wait", "soon"],
            &["--heartbeat", "1m", "--heartbeat-seconds", "60"],
        ] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }
}
