//! Compares all keys when a connection begins, and when the source is complete for the first time.

use std::{sync::Arc, time::Instant};

use mesh_alloc::Found;
use mesh_etcd::EtcdError;
use mesh_export::{EtcdKey, Plan, fingerprint, plan};

use super::{Session, SourceRead, id_recovery, spans};
use crate::writer::{
    foreign_writes::{ForeignWrite, KeyOwner, owner_of},
    session_error::SessionError,
};

impl Session<'_> {
    /// Compares all keys, writes the differences, and puts the canaries. Returns the compared revision.
    pub(super) async fn compare(&mut self) -> Result<i64, SessionError> {
        self.recognise_history().await?;
        let (compared, found) = self.list_all().await?;
        let cluster = Arc::clone(&self.writer.cluster);
        self.alongside(async move { cluster.recognise(found).await }).await??;
        self.name_history().await?;
        // What the thread answers now is at least as new as these changes.
        self.take_exports();
        let cluster = Arc::clone(&self.writer.cluster);
        let mut keys = self.alongside(async move { cluster.fingerprints(None).await }).await?;
        // The texts of keys that both have are kept once.
        let shared = |key: EtcdKey| keys.get_key_value(&key).map_or(key, |(key, _)| key.clone());
        let actual = std::mem::take(&mut self.actual).into_iter();
        self.actual = actual.map(|(key, value)| (shared(key), value)).collect();
        self.forget_refused(|key| keys.contains_key(key));
        for key in self.actual.keys() {
            keys.entry(key.clone()).or_insert(None);
        }
        let Plan { puts, deletes } = plan(&keys, &self.actual, self.memory.source.complete);
        tracing::info!(
            writes = puts.len() + deletes.len(),
            keys = self.actual.len(),
            complete = self.memory.source.complete,
            "compared with the etcd"
        );
        self.bring(keys).await?;
        let SourceRead { versions, complete } = self.memory.source.clone();
        if complete {
            self.put_canaries().await?;
            self.memory.written = versions;
        }
        self.signs.vouches = true;
        self.writer.set(|state| state.synced = complete);
        Ok(compared)
    }

    /// Lists all keys. Misplaced keys are reported and left alone.
    async fn list_all(&mut self) -> Result<(i64, Found), EtcdError> {
        let local = &self.writer.cluster.settings.name;
        self.actual.clear();
        let mut compared = None;
        let mut found = Found::default();
        for span in spans() {
            let connection = self.connection.clone();
            let list = async move { connection.list(&span).await };
            let (revision, keys) =
                self.alongside(self.writer.answer("a list of all", list)).await??;
            // The revision of the first list: the watch begins after it.
            compared.get_or_insert(revision);
            for kv in keys {
                let text = String::from_utf8_lossy(&kv.key).into_owned();
                let is_text = text.as_bytes() == kv.key;
                match owner_of(&text, local) {
                    KeyOwner::Local if self.markers.contains(&text) => {
                        id_recovery::note(&mut found, local, &text, &kv.value);
                    }
                    KeyOwner::Local if is_text => {
                        id_recovery::note(&mut found, local, &text, &kv.value);
                        self.actual.insert(text.into(), fingerprint(&kv.value));
                    }
                    KeyOwner::Local | KeyOwner::Misplaced => {
                        tracing::warn!(
                            key = text,
                            "a key of another cluster in this cluster's tree"
                        );
                        self.foreign.note(text, ForeignWrite::Misplaced, Instant::now());
                    }
                    KeyOwner::Other => {}
                }
            }
        }
        self.report_foreign();
        Ok((compared.unwrap_or_default(), found))
    }
}
