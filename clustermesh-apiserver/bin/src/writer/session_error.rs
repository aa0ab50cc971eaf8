//! Why a session failed.

use mesh_alloc::Lost;
use mesh_etcd::EtcdError;

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The etcd failed.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The etcd and the journal do not belong together, so nothing is written.
    #[error(transparent)]
    Lost(#[from] Lost),
}
