//! Examines the etcd: its version, its size, and the age of its oldest revision.

use std::time::{Instant, SystemTime};

use mesh_etcd::EtcdError;
use mesh_follow::{Header, KeyRange, KeyValue};
use mesh_wire::{key::HEARTBEAT, timestamp};

use super::Session;
use crate::writer::etcd_version::unfit;

impl Session<'_> {
    /// Examines the etcd. If it does not report its status, everything else still works.
    pub(super) async fn examine(&mut self) -> Result<(), EtcdError> {
        let connection = self.connection.clone();
        let asking = async move { connection.status().await };
        let status = match self.alongside(self.writer.answer("its status", asking)).await? {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(%error, "the etcd does not report its version and size");
                return Ok(());
            }
        };
        let oldest = self.oldest_heartbeat().await?;
        let age = oldest.and_then(|at| SystemTime::now().duration_since(at).ok());
        let fill = self.memory.capacity.take(Instant::now(), &status, self.writer.quota);
        let fill = fill.with_oldest(age);
        let why = unfit(&status.version);
        let known = self.writer.look(|state| state.fill.is_some());
        if let Some(why) = why.as_ref().filter(|_| !known) {
            tracing::warn!(why, "the etcd's version");
        }
        self.writer.set(|state| {
            state.fill = Some(fill);
            state.unfit = why.filter(|_| !self.writer.trusted_peers);
        });
        Ok(())
    }

    /// The time of the oldest heartbeat that can still be read, since the key was last created.
    async fn oldest_heartbeat(&mut self) -> Result<Option<SystemTime>, EtcdError> {
        let (header, now) = self.heartbeat_at(None).await?;
        let Some(now) = now else { return Ok(None) };
        // Binary search for the first readable revision. `high` is always readable.
        let (mut low, mut high) = (now.create_revision, header.revision);
        let mut oldest = now;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.heartbeat_at(Some(middle)).await {
                Ok((_, Some(found))) => (high, oldest) = (middle, found),
                Ok((_, None)) | Err(EtcdError::Compacted) => low = middle + 1,
                Err(error) => return Err(error),
            }
        }
        Ok(timestamp(&oldest.value))
    }

    async fn heartbeat_at(
        &mut self,
        revision: Option<i64>,
    ) -> Result<(Header, Option<KeyValue>), EtcdError> {
        let connection = self.connection.clone();
        let span = KeyRange::key(HEARTBEAT);
        let page = async move { connection.page(&span, 1, revision, false).await };
        let asked = self.writer.answer("an old heartbeat", page);
        let (header, found, _) = self.alongside(asked).await??;
        Ok((header, found.into_iter().next()))
    }
}
