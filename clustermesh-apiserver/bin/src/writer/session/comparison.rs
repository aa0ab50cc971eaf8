//! Compares all keys when a connection begins, and when the source is complete for the first time.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use mesh_alloc::Found;
use mesh_etcd::EtcdError;
use mesh_export::{fingerprint, plan};

use super::{Session, id_recovery, spans};
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
        self.take_exports();
        let exported = &self.memory.exported;
        let (complete, versions) = (exported.complete, exported.versions.clone());
        let keys: BTreeSet<String> =
            exported.desired.keys().chain(self.actual.keys()).cloned().collect();
        let writes = plan(&exported.desired, &self.actual, &keys, complete);
        tracing::info!(
            writes = writes.len(),
            keys = self.actual.len(),
            complete,
            "compared with the etcd"
        );
        self.write(writes).await?;
        self.forget_refused();
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
                        self.actual.insert(text, fingerprint(&kv.value));
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
