//! Errors of reading and serving a recording.

use std::{io, path::PathBuf};

use mesh_model::cluster::InvalidClusterLimit;
use mesh_wire::{DecodeError, InvalidKey, Rejected};

/// A recording that cannot be converted to another cluster's.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The recording has no cluster config. The value is the config's key.
    #[error("the recording has no {0}")]
    NoConfig(String),
    /// The recorded cluster config cannot be decoded.
    #[error("{key}: {source}")]
    Config {
        /// The key of the config.
        key: String,
        /// The decoder's error.
        source: DecodeError,
    },
    /// The recorded config has an invalid limit of clusters.
    #[error(transparent)]
    Limit(#[from] InvalidClusterLimit),
    /// A recorded key is invalid.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// A recorded record would be refused by an agent.
    #[error(transparent)]
    Rejected(#[from] Rejected),
}

/// Clusters that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file cannot be read, or a cluster in it is invalid.
    #[error("{}: {source}", path.display())]
    File {
        /// The file, or the cluster's name.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The process cannot listen at an address.
    #[error("listening at {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// A cluster's server certificate, its key or its CA.
    #[error("{}: the server's certificate, its key or its CA cannot be used: {reason}", path.display())]
    Certificates {
        /// The folder that they are in.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A listener ended.
    #[error("nothing listens at {0} any more: start the replay again")]
    Ended(std::net::SocketAddr),
    /// The recording.
    #[error(transparent)]
    Recording(#[from] RecordingError),
}

impl ReplayError {
    /// An error about a file, or about what is named instead of one.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.into(), source }
    }
}
