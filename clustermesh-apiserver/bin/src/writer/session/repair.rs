//! Putting right what others did to keys of ours.

use std::{collections::BTreeSet, time::Instant};

use mesh_etcd::EtcdError;
use mesh_export::{fingerprint, plan};
use mesh_follow::{KeyValue, WatchEvent};

use super::Session;

/// Keys that are looked at in one round: as many as an etcd takes in a transaction.
const ROUND: usize = 128;

impl Session<'_> {
    /// Takes what happened in the etcd, by us or by others.
    pub(super) fn see(&mut self, events: &[WatchEvent]) {
        let local = &self.writer.cluster.settings.name;
        let now = Instant::now();
        let mut last = None;
        let mut writes = 0_u64;
        for event in events {
            let seen = self.foreign.see(event, local, &self.actual, &self.markers, now);
            if let Some(write) = seen {
                self.writer.metrics.count_foreign(write);
                writes += 1;
                last = Some((write, key_of(event)));
            }
        }
        if let Some((write, key)) = last {
            let key = String::from_utf8_lossy(key);
            tracing::warn!(kind = write.as_str(), writes, %key, "another writer in this cluster's etcd");
        }
        self.foreign.tidy(now);
    }

    /// Looks at keys that others touched, and makes them what they should be. One round: what else is due goes between two.
    pub(super) async fn repair(&mut self) -> Result<(), EtcdError> {
        let due = self.foreign.take_due(Instant::now(), ROUND);
        let (markers, keys): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|key| self.markers.contains(key));
        let found = self.look_up(&keys).await?;
        for (key, found) in keys.iter().zip(found) {
            match found {
                Some(kv) => self.actual.insert(key.clone(), fingerprint(&kv.value)),
                None => self.actual.remove(key),
            };
        }
        let keys: BTreeSet<String> = keys.into_iter().collect();
        let exported = &self.memory.exported;
        let writes = plan(&exported.desired, &self.actual, &keys, exported.complete);
        self.writer.metrics.foreign_repairs.inc_by(writes.len().try_into().unwrap_or(u64::MAX));
        self.write(writes).await?;
        if !markers.is_empty() && self.is_synced() {
            // The position is put every second anyway.
            self.put_canaries().await?;
        }
        self.report_foreign();
        Ok(())
    }

    /// Puts what there is to say of others into the status.
    pub(super) fn report_foreign(&mut self) {
        self.foreign.tidy(Instant::now());
        let problems = self.foreign.problems();
        self.writer.set(|state| state.others = problems);
    }

    async fn look_up(&mut self, keys: &[String]) -> Result<Vec<Option<KeyValue>>, EtcdError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let (connection, all) = (self.connection.clone(), keys.to_vec());
        let together = async move { connection.look_up(&all).await };
        match self.alongside(self.writer.answer("some keys", together)).await? {
            // Together they are more than one answer may be.
            Err(EtcdError::TooLarge(_)) if keys.len() > 1 => {
                let mut found = Vec::new();
                for key in keys {
                    found.extend(Box::pin(self.look_up(std::slice::from_ref(key))).await?);
                }
                Ok(found)
            }
            found => found,
        }
    }
}

fn key_of(event: &WatchEvent) -> &[u8] {
    match event {
        WatchEvent::Put(kv) => &kv.key,
        WatchEvent::Delete { key, .. } => key,
    }
}
