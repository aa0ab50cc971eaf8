//! Why a connection is of no more use.

use mesh_alloc::Lost;
use mesh_etcd::EtcdError;

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The etcd failed.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// It has identity IDs that are not the journal's: nothing is written.
    #[error(transparent)]
    Lost(#[from] Lost),
}
