//! What goes wrong in a lab, and what to do about it.

use std::{io, path::PathBuf};

use mesh_certs::PkiError;
use mesh_files::{LockError, MOUNT_CGROUP2};
use mesh_source::cluster_directory::{ClusterDirectoryError, ClusterDirectoryProblem};

/// Why the lab did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces, cgroups and eBPF are root's.
    #[error("a lab needs root, for network namespaces and eBPF programs: run it with sudo")]
    NotRoot,
    /// A name that cannot be one.
    #[error("{0:?} is no lab name: 1 to 12 of a-z and 0-9")]
    Name(String),
    /// More than the lab's addresses have room for.
    #[error("a lab has 1 to 99 clusters of 1 to 99 nodes")]
    Size,
    /// A replica has a node of its own.
    #[error("{0} replicas on {1} nodes: there is at least one, and each has a node of its own")]
    Replicas(u8, usize),
    /// There is none.
    #[error("there is no lab {0:?}. Make it with `clustermesh lab up --lab {0}`")]
    NotUp(String),
    /// There is one.
    #[error(
        "the lab {0:?} is up already. Take it down with `clustermesh lab down --lab {0}`, or make another with --lab NAME"
    )]
    AlreadyUp(String),
    /// Another process works on it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program that the lab runs.
    #[error("{command}: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// What it printed.
        reason: String,
    },
    /// A CNI plugin that says why not.
    #[error("{plugin} {verb}: code {code}: {reason}")]
    Plugin {
        /// The plugin.
        plugin: String,
        /// What it was asked.
        verb: String,
        /// The specification's code, or the plugin's own.
        code: u64,
        /// What it printed.
        reason: String,
    },
    /// Something that should be installed.
    #[error("{0} is not installed: {remedy}", remedy = package(.0))]
    Missing(String),
    /// No cgroup v2.
    #[error("no cgroup2 is mounted: {MOUNT_CGROUP2}")]
    NoCgroup2,
    /// A certificate.
    #[error(transparent)]
    Certificates(#[from] PkiError),
    /// A cluster directory.
    #[error(transparent)]
    Directory(#[from] ClusterDirectoryError),
    /// A cluster's settings.
    #[error(transparent)]
    Settings(#[from] ClusterDirectoryProblem),
    /// The lab's own state.
    #[error("{}: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A cluster, node, pod or process that does not exist.
    #[error("there is no {kind} {name:?}; there is: {known}")]
    Unknown {
        /// What was asked for.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What exists.
        known: String,
    },
    /// A manifest.
    #[error("manifest: {0}")]
    Manifest(String),
    /// A daemon that ended at once.
    #[error("{name} ended right after its start. Its last words:\n{log}")]
    Died {
        /// The process.
        name: String,
        /// The end of its log.
        log: String,
    },
    /// Two places that cannot be cut off from each other.
    #[error("{one} and {other} cannot be cut: {reason}")]
    Cut {
        /// The one place.
        one: String,
        /// The other.
        other: String,
        /// Why not.
        reason: String,
    },
    /// A rate that is none.
    #[error("{0:?} is no rate: a number of bit, kbit, mbit or gbit a second, as in 1mbit")]
    Rate(String),
    /// A loss that is none.
    #[error("{0:?} is no share of packets: 1% to 99%")]
    Loss(String),
    /// A delay that is none.
    #[error("{0:?} is no delay: 1ms to 10s, as in 200ms")]
    Delay(String),
    /// Something took too long.
    #[error("{0} did not come up in time")]
    Timeout(String),
}

impl LabError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// How to get a program that is missing, on Debian and what follows it.
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
