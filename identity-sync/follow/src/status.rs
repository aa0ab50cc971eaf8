//! The state of a connection to an etcd: in a phase, each of which needs the ones before it.

use std::{fmt, sync::Arc};

use mesh_model::{ClusterConfig, ClusterId, LocalDrain, RecordKind};

/// A phase between a name and data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionPhase {
    /// The endpoint's name leads to an address.
    #[default]
    Resolve,
    /// The address answers.
    Tcp,
    /// The server's certificate is the expected one.
    Tls,
    /// The server accepts our certificate.
    Authenticated,
    /// The cluster's config exists and suits ours.
    Config,
    /// Everything the cluster has was listed, and its writer vouches for it.
    Synced,
    /// Its nodes can be reached.
    DataPath,
}

/// A step that failed, as text for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step.
    pub phase: ConnectionPhase,
    /// The error.
    pub reason: String,
}

/// How following an etcd goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The step that fails now; `None` while all steps so far succeeded.
    pub failure: Option<Failure>,
    /// Whether there is a connection.
    pub connected: bool,
    /// The etcd's own cluster ID, once it answered.
    pub etcd_cluster_id: Option<u64>,
    /// The last revision seen.
    pub revision: i64,
    /// How often the connection was lost.
    pub reconnects: u64,
    /// The cluster's config, once read.
    pub config: Option<ClusterConfig>,
    /// The kinds of record that count, and whether each is complete.
    pub kinds: Vec<(RecordKind, bool)>,
    /// Records refused in this run.
    pub rejected: u64,
    /// The last one.
    pub last_rejected: Option<String>,
    /// Keys that were deleted with others while nothing explains it: their values stay in use until their writer is
    /// back.
    pub held: usize,
    /// Heartbeats seen in this run.
    pub heartbeats: u64,
    /// How often the local cluster's writer showed in this run that it lives, once a second.
    pub local_beats: u64,
    /// What of the cluster its operator has drained, as it reports. Cheap to clone, however much a peer reports.
    pub drained: Arc<LocalDrain>,
    /// Keepalives that were answered, in this run.
    pub answers: u64,
}

// === impl ConnectionPhase ===

impl ConnectionPhase {
    /// From the bottom up.
    pub const ALL: [Self; 7] = [
        Self::Resolve,
        Self::Tcp,
        Self::Tls,
        Self::Authenticated,
        Self::Config,
        Self::Synced,
        Self::DataPath,
    ];

    /// The phase's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Authenticated => "authenticated",
            Self::Config => "config",
            Self::Synced => "synced",
            Self::DataPath => "data-path",
        }
    }
}

impl fmt::Display for ConnectionPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Failure ===

impl Failure {
    /// A failure at a phase.
    pub fn new(phase: ConnectionPhase, reason: impl Into<String>) -> Self {
        Self { phase, reason: reason.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.phase, self.reason)
    }
}

// === impl Status ===

impl Status {
    /// Whether the initial sync is complete, and there is a connection.
    pub fn is_synced(&self) -> bool {
        self.connected && self.failure.is_none() && self.is_complete()
    }

    /// Whether everything the cluster had was known at some time in this run.
    pub fn is_complete(&self) -> bool {
        !self.kinds.is_empty() && self.kinds.iter().all(|(_, complete)| *complete)
    }

    /// The highest phase that was reached, data path aside; `None` before the first.
    pub fn reached(&self) -> Option<ConnectionPhase> {
        if let Some(failure) = &self.failure {
            let below = |phase: &&ConnectionPhase| **phase < failure.phase;
            return ConnectionPhase::ALL.iter().rfind(below).copied();
        }
        match (self.connected, &self.config) {
            (false, _) => None,
            (true, None) => Some(if self.etcd_cluster_id.is_some() {
                ConnectionPhase::Authenticated
            } else {
                ConnectionPhase::Tls
            }),
            (true, Some(_)) if self.is_complete() => Some(ConnectionPhase::Synced),
            (true, Some(_)) => Some(ConnectionPhase::Config),
        }
    }

    /// The cluster's id, once known.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.config.as_ref().map(|config| config.id)
    }
}
