//! Writes in transactions, as many at a time as the etcd takes, and what it does not take alone.

use mesh_etcd::{EtcdError, Op};
use mesh_export::{Write, fingerprint};

use super::{session::Session, state::Refused};

/// etcd's limit of 128 operations in a transaction, but for the heartbeat that may come with them.
const BATCH: usize = 127;
/// Half of what etcd takes in a request.
const BATCH_BYTES: usize = 768 * 1024;

impl Session<'_> {
    /// Makes writes in their order, as many at a time as the etcd takes.
    pub(super) async fn write(&mut self, writes: Vec<Write>) -> Result<(), EtcdError> {
        let deletes = count_deletes(&writes);
        for batch in batches(writes) {
            self.write_batch(batch).await?;
        }
        if deletes > 1 && self.is_synced() {
            // For readers who missed the heartbeat among them: what is there now is all there is.
            self.put_canaries().await?;
        }
        Ok(())
    }

    /// One transaction: all or none.
    pub(super) async fn apply(&mut self, ops: &[Op]) -> Result<(), EtcdError> {
        let made = self.writer.answer("a write", self.connection.apply(ops)).await?;
        self.others.wrote(made);
        self.memory.revision = self.memory.revision.max(made);
        Ok(())
    }

    async fn write_batch(&mut self, batch: Vec<Write>) -> Result<(), EtcdError> {
        let mut ops: Vec<Op> = batch.iter().map(op).collect();
        if count_deletes(&batch) > 1 {
            // An expired lease deletes many keys at once too. This says that a living writer meant it.
            ops.push(self.heartbeat().await?);
        }
        match self.apply(&ops).await {
            Ok(()) => {
                self.writer.set(|state| {
                    state.refused.retain(|key, _| !batch.iter().any(|write| write.key() == key));
                });
                batch.into_iter().for_each(|write| self.written(write));
            }
            Err(EtcdError::RequestTooLarge(_)) if batch.len() > 1 => {
                // One of them is too large: each by itself, so that it blocks nobody.
                for write in batch {
                    Box::pin(self.write_batch(vec![write])).await?;
                }
            }
            Err(EtcdError::RequestTooLarge(reason)) => {
                batch.into_iter().for_each(|write| self.refused(&write, &reason));
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
                self.actual.insert(key, fingerprint(&value));
            }
            Write::Delete { key } => {
                self.writer.metrics.deletes.inc();
                self.actual.remove(&key);
            }
        }
    }

    /// The etcd does not take a value. What it held before stays, and everything else goes on.
    fn refused(&self, write: &Write, reason: &str) {
        let key = write.key();
        let owner = |object: &mesh_model::object::ObjectKey| object.to_string();
        let object = self.writer.cluster.with_exporter(|exporter| exporter.owner(key).map(owner));
        let refused = Refused { object, bytes: size(write), reason: reason.into() };
        tracing::error!(key, ?refused, "the etcd does not take the value");
        self.writer.set(|state| state.refused.insert(key.to_owned(), refused));
    }

    /// What is not to be written any more is not refused any more.
    pub(super) fn forget_refused(&self) {
        let refused = self.writer.look(|state| state.refused.keys().cloned().collect::<Vec<_>>());
        if !refused.is_empty() {
            let gone = self.writer.cluster.with_exporter(|exporter| {
                let wanted = |key: &String| exporter.desired().contains_key(key);
                refused.into_iter().filter(|key| !wanted(key)).collect::<Vec<_>>()
            });
            self.writer.set(|state| gone.iter().for_each(|key| drop(state.refused.remove(key))));
        }
    }
}

/// Writes as they fit in transactions, in their order.
fn batches(writes: Vec<Write>) -> Vec<Vec<Write>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let size = size(&write);
        if batch.len() >= BATCH || (bytes + size > BATCH_BYTES && !batch.is_empty()) {
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
            Op::Put { key: key.clone(), value: value.clone(), lease: None }
        }
        Write::Delete { key } => Op::Delete { key: key.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_the_order_and_the_limits() {
        let write = |n: usize, bytes: usize| Write::Put {
            key: format!("{n:04}"),
            value: vec![b'x'; bytes - 4],
        };
        // Many small ones: 127 at a time.
        let small = batches((0..300).map(|n| write(n, 100)).collect());
        assert_eq!(small.iter().map(Vec::len).collect::<Vec<_>>(), [127, 127, 46]);
        let keys: Vec<&str> = small.iter().flatten().map(Write::key).collect();
        assert!(keys.is_sorted() && keys.len() == 300);
        // Long ones: 768 KiB at a time; one that is longer alone by itself.
        let kib = 1024;
        let sizes = [500 * kib, 268 * kib, 1, 2_000 * kib, 4, 4].map(|bytes| bytes.max(4));
        let long = batches((0..).zip(sizes).map(|(n, bytes)| write(n, bytes)).collect());
        assert_eq!(long.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 2]);
        assert!(batches(Vec::new()).is_empty());
    }
}
