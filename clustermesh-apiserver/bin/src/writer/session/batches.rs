//! Writes in transactions that are as large as the etcd accepts. A value that it does not accept blocks no other.

use std::{collections::BTreeMap, sync::Arc};

use mesh_etcd::{EtcdError, Op};
use mesh_export::{EtcdKey, Plan, Value, Write, fingerprint, plan};

use super::Session;
use crate::writer::state::Refused;

/// The maximum number of writes in a transaction: etcd's limit of 128 operations, less one for a heartbeat.
const BATCH: usize = 127;
/// The maximum size of a transaction in bytes: half of what etcd accepts in a request.
const BATCH_BYTES: usize = 768 * 1024;
/// The number of values that are in memory at a time, at most.
const AT_ONCE: usize = 1_024;

impl Session<'_> {
    /// Brings keys in the etcd to the values with these fingerprints.
    pub(super) async fn bring(
        &mut self,
        mut keys: BTreeMap<EtcdKey, Option<u64>>,
    ) -> Result<(), EtcdError> {
        self.forget_refused(|key| keys.get(key) != Some(&None));
        'planned: loop {
            let complete = self.memory.source.complete;
            let Plan { puts, deletes } = plan(&keys, &self.actual, complete);
            for some in puts.chunks(AT_ONCE) {
                let (cluster, asked) = (Arc::clone(&self.writer.cluster), some.to_vec());
                let values = self.alongside(async move { cluster.values(asked).await }).await?;
                let changed = |(key, value): (&EtcdKey, &Option<Value>)| {
                    keys.get(key).copied().flatten() != value.as_deref().map(fingerprint)
                };
                if some.iter().zip(&values).any(changed) {
                    // It has changed since, perhaps with the identity that it refers to: all that is new is planned.
                    let mut new = self.take_exports();
                    if !new.is_empty() || complete != self.memory.source.complete {
                        keys.append(&mut new);
                        continue 'planned;
                    }
                }
                let put = |(key, value): (&EtcdKey, Option<Value>)| {
                    Some(Write::Put { key: EtcdKey::clone(key), value: value? })
                };
                self.write(some.iter().zip(values).filter_map(put).collect()).await?;
            }
            let deletes = deletes.into_iter().map(|key| Write::Delete { key }).collect();
            return self.write(deletes).await;
        }
    }

    /// Makes writes in their order, in as few transactions as possible.
    async fn write(&mut self, writes: Vec<Write>) -> Result<(), EtcdError> {
        for batch in batches(writes) {
            self.write_batch(batch).await?;
        }
        Ok(())
    }

    /// Makes operations in one transaction.
    pub(super) async fn apply(&mut self, ops: Vec<Op>) -> Result<(), EtcdError> {
        let connection = self.connection.clone();
        let write = async move { connection.apply(&ops).await };
        let made = self.alongside(self.writer.answer("a write", write)).await??;
        self.wrote(made);
        Ok(())
    }

    /// The same for a sign of life. No other sign is written meanwhile.
    pub(super) async fn apply_alone(&mut self, ops: &[Op]) -> Result<(), EtcdError> {
        let made = self.writer.answer("a write", self.connection.apply(ops)).await?;
        self.wrote(made);
        Ok(())
    }

    fn wrote(&mut self, revision: i64) {
        self.foreign.wrote(revision);
        self.memory.revision = self.memory.revision.max(revision);
    }

    async fn write_batch(&mut self, batch: Vec<Write>) -> Result<(), EtcdError> {
        let mut ops: Vec<Op> = batch.iter().map(op).collect();
        if count_deletes(&batch) > 1 {
            // An expired lease also deletes many keys in one revision. The heartbeat shows that the writer did this.
            ops.push(self.heartbeat().await?);
        }
        match self.apply(ops).await {
            Ok(()) => {
                self.writer.set(|state| {
                    state
                        .refused
                        .retain(|key, _| !batch.iter().any(|write| **write.key() == **key));
                });
                batch.into_iter().for_each(|write| self.written(write));
            }
            Err(EtcdError::RequestTooLarge(_)) if batch.len() > 1 => {
                // One of them may be too large: write each in its own transaction, so that it blocks no other.
                for write in batch {
                    Box::pin(self.write_batch(vec![write])).await?;
                }
            }
            Err(EtcdError::RequestTooLarge(reason)) => {
                for write in batch {
                    self.refused(&write, &reason).await?;
                }
            }
            Err(error) => return Err(error),
        }
        let written = self.actual.len();
        self.writer.set(|state| state.written = written);
        Ok(())
    }

    fn written(&mut self, write: Write) {
        match write {
            Write::Put { key, value } => {
                self.writer.metrics.puts.inc();
                self.actual.insert(&key, fingerprint(&value));
            }
            Write::Delete { key } => {
                self.writer.metrics.deletes.inc();
                self.actual.remove(&key);
            }
        }
    }

    /// Stores that the etcd does not accept a value. The previous value stays.
    async fn refused(&mut self, write: &Write, reason: &str) -> Result<(), EtcdError> {
        let (cluster, key) = (Arc::clone(&self.writer.cluster), write.key());
        let asked = EtcdKey::clone(key);
        let object = self.alongside(async move { cluster.owner(asked).await }).await?;
        let refused = Refused { object, bytes: size(write), reason: reason.into() };
        let Refused { object, bytes, reason } = &refused;
        tracing::error!(%key, object, bytes, reason, "the etcd does not accept the value");
        self.writer.set(|state| state.refused.insert(key.to_string(), refused));
        Ok(())
    }

    /// Forgets refused keys that are no longer desired.
    pub(super) fn forget_refused(&self, is_desired: impl Fn(&str) -> bool) {
        if !self.writer.look(|state| state.refused.is_empty()) {
            self.writer.set(|state| state.refused.retain(|key, _| is_desired(key)));
        }
    }
}

/// Divides writes into transactions, in their order.
fn batches(writes: Vec<Write>) -> Vec<Vec<Write>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let size = size(&write);
        // A reader with a watch for each prefix receives the changes of one revision in any order.
        let apart = batch.last().is_some_and(|last| write.follows(last));
        if apart || batch.len() >= BATCH || (bytes + size > BATCH_BYTES && !batch.is_empty()) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(write);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

fn size(write: &Write) -> usize {
    let value = if let Write::Put { value, .. } = write { value.len() } else { 0 };
    write.key().len() + value
}

fn count_deletes(writes: &[Write]) -> usize {
    writes.iter().filter(|write| matches!(write, Write::Delete { .. })).count()
}

fn op(write: &Write) -> Op {
    match write {
        Write::Put { key, value } => {
            Op::Put { key: key.to_string(), value: value.to_vec(), lease: None }
        }
        Write::Delete { key } => Op::Delete { key: key.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_the_order_and_the_limits() {
        let write = |n: usize, bytes: usize| Write::Put {
            key: format!("{n:04}").into(),
            value: vec![b'x'; bytes - 4].into(),
        };
        // Small writes: 127 in each transaction.
        let small = batches((0..300).map(|n| write(n, 100)).collect());
        assert_eq!(small.iter().map(Vec::len).collect::<Vec<_>>(), [127, 127, 46]);
        let keys: Vec<&EtcdKey> = small.iter().flatten().map(Write::key).collect();
        assert!(keys.is_sorted() && keys.len() == 300);
        // Large writes: 768 KiB in each transaction; a larger write has its own.
        let kib = 1024;
        let sizes = [500 * kib, 268 * kib, 1, 2_000 * kib, 4, 4].map(|bytes| bytes.max(4));
        let long = batches((0..).zip(sizes).map(|(n, bytes)| write(n, bytes)).collect());
        assert_eq!(long.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 2]);
        assert!(batches(Vec::new()).is_empty());
        // Identities are in an earlier transaction than the records that have them.
        let put = |key: &str| Write::Put { key: key.into(), value: vec![].into() };
        let keys = ["cilium/state/identities/v1/id/65536", "cilium/state/ip/v1/default/10.1.1.2"];
        assert_eq!(batches(keys.map(put).into()).len(), 2);
    }
}
