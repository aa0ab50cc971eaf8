//! Compares all keys when a connection begins, and when the source is complete for the first time.

use std::{collections::BTreeSet, mem, sync::Arc, time::Instant};

use mesh_alloc::Found;
use mesh_etcd::EtcdError;
use mesh_export::{Plan, fingerprint, plan};
use mesh_follow::KeyValue;
use mesh_model::{ClusterName, LocalPolicy};

use super::{Session, SourceRead, id_recovery, spans};
use crate::writer::{
    foreign_writes::{ForeignWrite, KeyOwner, owner_of},
    session_error::SessionError,
};

impl Session<'_> {
    /// Compares all keys, writes the differences, and puts the canaries. Returns the compared revision.
    pub(super) async fn compare(&mut self) -> Result<i64, SessionError> {
        self.recognise_history().await?;
        let mut listed = self.list_all().await?;
        let (compared, found) = (listed.revision, mem::take(&mut listed.found));
        let policies = mem::take(&mut listed.policies);
        let cluster = Arc::clone(&self.writer.cluster);
        self.alongside(async move { cluster.recognise(found).await }).await??;
        let cluster = Arc::clone(&self.writer.cluster);
        self.alongside(async move { cluster.recall(policies).await }).await?;
        self.name_history().await?;
        // What the thread answers now is at least as new as these changes.
        self.take_exports();
        let cluster = Arc::clone(&self.writer.cluster);
        let mut keys = self.alongside(async move { cluster.fingerprints(None).await }).await?;
        self.forget_refused(|key| keys.contains_key(key));
        for key in listed.keys() {
            if !keys.contains_key(key) {
                keys.insert(key.into(), None);
            }
        }
        drop(listed);
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
    async fn list_all(&mut self) -> Result<Listed, EtcdError> {
        let mut compared = None;
        let mut listed = Listed::default();
        for span in spans() {
            let connection = self.connection.clone();
            let local = self.writer.cluster.settings.name.clone();
            let markers = self.markers.clone();
            let list = async move {
                let note = |keys: Vec<KeyValue>| {
                    keys.iter().for_each(|kv| listed.note(kv, &local, &markers));
                };
                let revision = connection.list_pages(&span, note).await;
                revision.map(|revision| (revision, listed))
            };
            let revision;
            (revision, listed) =
                self.alongside(self.writer.answer("a list of all", list)).await??;
            // The revision of the first list: the watch begins after it.
            compared.get_or_insert(revision);
        }
        for key in mem::take(&mut listed.misplaced) {
            tracing::warn!(key, "a key of another cluster in this cluster's tree");
            self.foreign.note(key, ForeignWrite::Misplaced, Instant::now());
        }
        listed.revision = compared.unwrap_or_default();
        self.actual = listed.keys().zip(listed.fingerprints.iter().copied()).collect();
        self.report_foreign();
        Ok(listed)
    }
}

/// What an etcd has.
#[derive(Default)]
struct Listed {
    /// The revision of the first list.
    revision: i64,
    found: Found,
    /// The texts of the exported keys. They are in one piece: so many small ones, which go again at once, would leave their
    /// pages to the few others among them.
    texts: String,
    /// Where the text of each key ends.
    ends: Vec<usize>,
    /// The fingerprints of their values.
    fingerprints: Vec<u64>,
    misplaced: Vec<String>,
    /// The policies that are in force.
    policies: Vec<LocalPolicy>,
}

// === impl Listed ===

impl Listed {
    fn note(&mut self, kv: &KeyValue, local: &ClusterName, markers: &BTreeSet<String>) {
        let text = String::from_utf8_lossy(&kv.key);
        let is_text = text.as_bytes() == kv.key;
        match owner_of(&text, local) {
            KeyOwner::Local if markers.contains(&*text) => {
                id_recovery::note(&mut self.found, local, &text, &kv.value);
            }
            KeyOwner::Local if is_text => {
                id_recovery::note(&mut self.found, local, &text, &kv.value);
                self.policies.extend(id_recovery::policy(&text, &kv.value));
                self.texts.push_str(&text);
                self.ends.push(self.texts.len());
                self.fingerprints.push(fingerprint(&kv.value));
            }
            KeyOwner::Local | KeyOwner::Misplaced => self.misplaced.push(text.into_owned()),
            KeyOwner::Other => {}
        }
    }

    /// The exported keys.
    fn keys(&self) -> impl Iterator<Item = &str> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.texts.get(start..*end).unwrap_or_default())
    }
}
