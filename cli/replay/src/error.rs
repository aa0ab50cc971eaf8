//! Why a recording cannot be served.

use std::{io, path::PathBuf};

use mesh_model::cluster::InvalidClusterLimit;
use mesh_wire::{DecodeError, InvalidKey, Rejected};

/// Why a recording cannot be made another cluster's.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It does not say whose it is.
    #[error("the recording has no {0}")]
    NoConfig(String),
    /// What it says of that cannot be read.
    #[error("{key}: {source}")]
    Config {
        /// The config's key.
        key: String,
        /// What is wrong with its value.
        source: DecodeError,
    },
    /// A limit of clusters that is none.
    #[error(transparent)]
    Limit(#[from] InvalidClusterLimit),
    /// A key that means nothing.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// A record that a reader would refuse.
    #[error(transparent)]
    Rejected(#[from] Rejected),
}

/// Why a recording cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An address to listen at.
    #[error("listening at {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
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
    /// Names the file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.into(), source }
    }
}
