//! The errors of a lab, each with what to do.

use std::{io, path::PathBuf};

use mesh_certs::PkiError;
use mesh_files::{LockError, MOUNT_CGROUP2};
use mesh_source::cluster_directory::{ClusterDirectoryError, ClusterDirectoryProblem};

/// Why a lab's operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The process is not root, as namespaces, cgroups and eBPF require.
    #[error("a lab needs root, for network namespaces and eBPF programs: run it with sudo")]
    NotRoot,
    /// The name is invalid.
    #[error("{0:?} is not the name of a lab: 1 to 12 of a-z and 0-9")]
    Name(String),
    /// The lab would be larger than its ranges of addresses.
    #[error("a lab has 1 to 99 clusters of 1 to 99 nodes")]
    Size,
    /// There are not as many nodes as replicas, or there is no replica.
    #[error("{0} replicas on {1} nodes: at least one is needed, and each needs a node of its own")]
    Replicas(u8, usize),
    /// The lab is not up.
    #[error("there is no lab {0:?}. Start it with `clustermesh lab up --lab {0}`")]
    NotUp(String),
    /// The lab is up already.
    #[error(
        "the lab {0:?} is up already. Remove it with `clustermesh lab down --lab {0}`, or start another with --lab NAME"
    )]
    AlreadyUp(String),
    /// Another command uses the lab.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file or folder could not be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A program that the lab runs failed.
    #[error("{command}: {reason}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        reason: String,
    },
    /// A CNI plugin reported an error.
    #[error("{plugin} {verb}: code {code}: {reason}")]
    Plugin {
        /// The plugin.
        plugin: String,
        /// The CNI command, as `ADD`.
        verb: String,
        /// The code of the error, from the CNI specification or the plugin.
        code: u64,
        /// The message of the error.
        reason: String,
    },
    /// A program is not installed.
    #[error("{0} is not installed: {remedy}", remedy = package(.0))]
    Missing(String),
    /// No cgroup v2.
    #[error("no cgroup2 is mounted: {MOUNT_CGROUP2}")]
    NoCgroup2,
    /// Certificates could not be created.
    #[error(transparent)]
    Certificates(#[from] PkiError),
    /// A cluster directory is invalid.
    #[error(transparent)]
    Directory(#[from] ClusterDirectoryError),
    /// A cluster's settings are invalid.
    #[error(transparent)]
    Settings(#[from] ClusterDirectoryProblem),
    /// The lab's state cannot be read or written.
    #[error("{}: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A cluster, node, pod, process, service or location does not exist.
    #[error("there is no {kind} {name:?}; there is: {known}")]
    Unknown {
        /// The kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A manifest is invalid.
    #[error("manifest: {0}")]
    Manifest(String),
    /// A process ended right after its start.
    #[error("{name} ended right after its start. The end of its log:\n{log}")]
    Died {
        /// The process.
        name: String,
        /// The end of its log.
        log: String,
    },
    /// A cut between two locations is impossible.
    #[error("{one} and {other} cannot be cut: {reason}")]
    Cut {
        /// One location.
        one: String,
        /// The other location.
        other: String,
        /// The reason.
        reason: String,
    },
    /// The rate is invalid.
    #[error("{0:?} is not a rate: a number of bit, kbit, mbit or gbit a second, as in 1mbit")]
    Rate(String),
    /// The share of lost packets is invalid.
    #[error("{0:?} is not a share of packets: 1% to 99%")]
    Loss(String),
    /// The delay is invalid.
    #[error("{0:?} is not a delay: 1ms to 10s, as in 200ms")]
    Delay(String),
    /// A process did not listen in time.
    #[error("{0} did not come up in time")]
    Timeout(String),
}

impl LabError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// How to install a program on Debian and its derivatives.
fn package(program: &str) -> String {
    let package = match program {
        "ip" | "tc" => "iproute2",
        "nft" => "nftables",
        "sysctl" => "procps",
        "etcd" => "etcd-server",
        "etcdctl" => "etcd-client",
        "ptp" | "host-local" => "containernetworking-plugins",
        "curl" | "ping" => program,
        _ => return "install it, or put it beside this program".into(),
    };
    format!("apt install {package}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_says_how_to_get_it() {
        for (program, says) in [
            ("ip", "ip is not installed: apt install iproute2"),
            ("nft", "nft is not installed: apt install nftables"),
            (
                "clustermesh-agent",
                "clustermesh-agent is not installed: install it, or put it beside this program",
            ),
        ] {
            assert_eq!(LabError::Missing(program.into()).to_string(), says);
        }
    }
}
