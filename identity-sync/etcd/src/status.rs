//! What an etcd reports about itself.

use crate::{error::EtcdError, store::Connection};

/// What an etcd reports about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdStatus {
    /// Its version, as it reports it: `3.6.16`.
    pub version: String,
    /// Bytes of its file. Compacted data stays in it until the etcd is defragmented, and its space is reused.
    pub size: u64,
    /// Bytes of these that are in use.
    pub used: u64,
    /// Bytes that the file may have, if the etcd reports it (from 3.6 on).
    pub quota: Option<u64>,
}

impl Connection {
    /// Asks the etcd what it is and how full.
    pub async fn status(&self) -> Result<EtcdStatus, EtcdError> {
        let answer = self.maintenance().status().await?;
        let bytes = |count: i64| u64::try_from(count).unwrap_or_default();
        let quota = bytes(answer.db_size_quota());
        Ok(EtcdStatus {
            version: answer.version().to_owned(),
            size: bytes(answer.db_size()),
            used: bytes(answer.raft_used_db_size()),
            quota: (quota > 0).then_some(quota),
        })
    }
}
