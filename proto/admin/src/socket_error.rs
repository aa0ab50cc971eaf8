//! Why a daemon cannot be reached, or its socket not served.

use std::{io, path::PathBuf};

use crate::words::plain;

/// Why a socket cannot be served or reached.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket's file cannot be created or opened.
    #[error("{}: {}", path.display(), reason(source))]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon is elsewhere, and cannot be reached.
    #[error("{source}")]
    Bridge {
        /// Why, in full.
        source: io::Error,
    },
    /// The daemon does not answer on the socket, or the socket is no longer served.
    #[error("{}: {reason}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl SocketError {
    /// Whether the user may not open the socket.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What is wrong with a socket's file, as a message with a remedy.
fn reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "permission denied: run it as root (sudo)".into(),
        io::ErrorKind::NotFound => "there is no such socket: the daemon does not run".into(),
        io::ErrorKind::ConnectionRefused => {
            "the daemon does not run: nothing listens on its socket; its log says why".into()
        }
        _ => plain(&source.to_string()).into_owned(),
    }
}
