//! Repairs keys that other programs changed.

use std::{sync::Arc, time::Instant};

use mesh_etcd::EtcdError;
use mesh_export::{Plan, fingerprint, plan};
use mesh_follow::{KeyValue, WatchEvent};

use super::Session;
use crate::writer::session_error::SessionError;

/// How many keys are examined in one round: as many as an etcd accepts in a transaction.
const ROUND: usize = 128;

impl Session<'_> {
    /// Handles watch events of the etcd.
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
            tracing::warn!(kind = write.as_str(), writes, %key, "another program wrote to this cluster's etcd");
        }
        self.foreign.tidy(now);
    }

    /// Examines and repairs one round of keys. Other work that is due takes place between two rounds.
    pub(super) async fn repair(&mut self) -> Result<(), SessionError> {
        let due = self.foreign.take_due(Instant::now(), ROUND);
        let (markers, keys): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|key| self.markers.contains(key));
        let found = self.look_up(&keys).await?;
        for (key, found) in keys.iter().zip(found) {
            match found {
                Some(kv) => self.actual.insert(key, fingerprint(&kv.value)),
                None => self.actual.remove(key),
            }
        }
        if !keys.is_empty() {
            let cluster = Arc::clone(&self.writer.cluster);
            let of = Some(keys.iter().map(|key| key.as_str().into()).collect());
            let wanted = self.alongside(async move { cluster.fingerprints(of).await }).await?;
            let Plan { puts, deletes } = plan(&wanted, &self.actual, self.memory.source.complete);
            let repairs = u64::try_from(puts.len() + deletes.len()).unwrap_or(u64::MAX);
            self.writer.metrics.foreign_repairs.inc_by(repairs);
            self.write_changed(wanted).await?;
        }
        if !markers.is_empty() && self.is_synced() {
            // The other marker, the position, is put every second anyway.
            self.put_canaries().await?;
        }
        self.report_foreign();
        Ok(())
    }

    /// Updates the messages about other programs' writes in the status.
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
            // The answer would be too large: look up each key alone.
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
