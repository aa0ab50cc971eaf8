//! The keys that say how far the writer is, and that it lives: canaries, heartbeat, position, the history's name.

use std::{
    collections::BTreeSet,
    time::{Instant, SystemTime},
};

use mesh_etcd::{EtcdError, Op};
use mesh_follow::KeyRange;
use mesh_model::ClusterName;
use mesh_wire::{
    Key, Layout, Position, Prefix,
    key::{HEARTBEAT, HISTORY, LOCAL_POSITION},
    timestamp_value,
};
use uuid::Uuid;

use super::Session;
use crate::writer::etcd_error::Reason;

/// The prefixes that we write. Exports have no keys yet; their canary is what `serviceExportsEnabled: false` promises.
const CANARIES: [Prefix; 7] = [
    Prefix::EndpointSlices,
    Prefix::Identities,
    Prefix::Ip,
    Prefix::Nodes,
    Prefix::ServiceExports,
    Prefix::Services,
    Prefix::Local,
];
/// A heartbeat lives on for 15 minutes after its writer.
const HEARTBEAT_LEASE: i64 = 900;

/// The keys of a cluster that are ours, and no object's.
pub(super) fn markers(local: &ClusterName) -> BTreeSet<String> {
    canaries(local).into_iter().chain([LOCAL_POSITION.to_owned()]).collect()
}

fn canaries(local: &ClusterName) -> [String; CANARIES.len()] {
    CANARIES.map(|prefix| Key::canary(local, Layout::State, prefix).to_string())
}

impl Session<'_> {
    /// Looks which history this is. In the one that this writer knows, what it wrote is there: it vouches for that while it
    /// compares.
    pub(super) async fn recognise_history(&mut self) -> Result<(), EtcdError> {
        let (revision, name) = self.read_history().await?;
        let same = name.is_some() && name == self.memory.history;
        if !same || revision < self.memory.revision {
            self.memory.written = None;
            self.signs.vouches = false;
        } else if self.memory.written.is_some() {
            self.signs.vouches = true;
        }
        Ok(())
    }

    /// Gives a history that has none a name: two may be alike in all else, the IDs of their revisions included. One that is
    /// behind what it was is another, whatever name it brought along from a backup; so that readers know it that go by what
    /// Cilium has, its canaries are made anew too, when everything is compared.
    pub(super) async fn name_history(&mut self) -> Result<(), EtcdError> {
        let (revision, name) = self.read_history().await?;
        let behind = revision < self.memory.revision;
        let lost = name.is_none() && self.memory.history.is_some();
        self.memory.revision = revision;
        if behind || lost {
            let text = "it is not what it was, begun anew or restored from a backup: it was filled";
            self.notice(Reason::DataLost, text.into());
        }
        if name.is_some() && !behind {
            self.memory.history = name;
            return Ok(());
        }
        let value = Uuid::new_v4().to_string().into_bytes();
        self.memory.history = Some(value.clone());
        let mut ops = vec![Op::Put { key: HISTORY.into(), value, lease: None }];
        if behind {
            let canaries = canaries(&self.writer.cluster.settings.name);
            ops.extend(canaries.map(|key| Op::Delete { key }));
            // A living writer means it.
            ops.push(self.heartbeat().await?);
        }
        self.apply(ops).await
    }

    /// How far the etcd is, and how its history is called.
    async fn read_history(&mut self) -> Result<(i64, Option<Vec<u8>>), EtcdError> {
        let connection = self.connection.clone();
        let page = async move { connection.page(&KeyRange::key(HISTORY), 1, None, false).await };
        let asked = self.writer.answer("the history's name", page);
        let (header, found, _) = self.alongside(asked).await??;
        Ok((header.revision, found.first().map(|kv| kv.value.clone())))
    }

    /// Says that everything is there. Anew after each comparison, and where others touched one: readers take it as "complete
    /// as of now". Not after removing several keys: the heartbeat in the same revision says that this was meant.
    pub(super) async fn put_canaries(&mut self) -> Result<(), EtcdError> {
        let value = timestamp_value(SystemTime::now());
        let put = |key| Op::Put { key, value: value.clone().into(), lease: None };
        self.apply(canaries(&self.writer.cluster.settings.name).map(put).into()).await
    }

    /// Says that the writer lives.
    pub(super) async fn beat(&mut self) -> Result<(), EtcdError> {
        let beat = self.heartbeat().await?;
        self.apply_alone(&[beat]).await?;
        self.writer.metrics.heartbeats.inc();
        Ok(())
    }

    /// Says how far of the source everything is here; not while the source is away, when other replicas may know better.
    pub(super) async fn put_position(&mut self, key: &str) -> Result<(), EtcdError> {
        let Some(versions) = self.memory.written.clone() else { return Ok(()) };
        if self.writer.cluster.view().away(Instant::now()).is_some() {
            return Ok(());
        }
        // The source says what changes at once: that nothing changed since is known as of now.
        let position = Position::new(versions, SystemTime::now());
        let put = Op::Put { key: key.into(), value: position.encode(), lease: None };
        self.apply_alone(&[put]).await
    }

    /// The write that says that the writer lives, with its lease, which lives on with it.
    pub(super) async fn heartbeat(&mut self) -> Result<Op, EtcdError> {
        let kept = match self.lease {
            Some(lease) => {
                let kept = self.writer.answer("a lease", self.connection.keep_lease(lease)).await;
                kept.map(|()| lease)
            }
            None => Err(EtcdError::LeaseGone),
        };
        let lease = match kept {
            Err(EtcdError::LeaseGone) => {
                let granted = self.connection.grant_lease(HEARTBEAT_LEASE);
                self.writer.answer("a new lease", granted).await?
            }
            kept => kept?,
        };
        self.lease = Some(lease);
        let value = timestamp_value(SystemTime::now()).into();
        Ok(Op::Put { key: HEARTBEAT.into(), value, lease: Some(lease) })
    }
}
