//! The writer's own keys: canaries, heartbeat, position, and the ID of the etcd's history.

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

/// The prefixes with a canary. There are no service exports, but `serviceExportsEnabled: false` requires their canary.
const CANARIES: [Prefix; 7] = [
    Prefix::EndpointSlices,
    Prefix::Identities,
    Prefix::Ip,
    Prefix::Nodes,
    Prefix::ServiceExports,
    Prefix::Services,
    Prefix::Local,
];
/// The lease of the heartbeat in seconds: it outlives its writer by 15 minutes.
const HEARTBEAT_LEASE: i64 = 900;

/// The writer's own keys that are compared and repaired.
pub(super) fn markers(local: &ClusterName) -> BTreeSet<String> {
    canaries(local).into_iter().chain([LOCAL_POSITION.to_owned()]).collect()
}

fn canaries(local: &ClusterName) -> [String; CANARIES.len()] {
    CANARIES.map(|prefix| Key::canary(local, Layout::State, prefix).to_string())
}

impl Session<'_> {
    /// Checks the history of the etcd. If it is the one that this writer knows, its content is still valid, so heartbeat
    /// and position are written during the comparison.
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

    /// Puts an ID into a history without one: two histories may otherwise be equal, even in their revisions. If the
    /// revision is lower than before, the etcd was restored from a backup, so the history gets a new ID. Its canaries are
    /// then deleted and put again after the comparison, for readers that only know Cilium's keys.
    pub(super) async fn name_history(&mut self) -> Result<(), EtcdError> {
        let (revision, name) = self.read_history().await?;
        let behind = revision < self.memory.revision;
        let lost = name.is_none() && self.memory.history.is_some();
        self.memory.revision = revision;
        if behind || lost {
            let text =
                "its data was lost or restored from a backup; the apiserver has filled it again";
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
            // The heartbeat in the same revision shows that the writer did this.
            ops.push(self.heartbeat().await?);
        }
        self.apply(ops).await
    }

    /// The etcd's revision, and the ID of its history.
    async fn read_history(&mut self) -> Result<(i64, Option<Vec<u8>>), EtcdError> {
        let connection = self.connection.clone();
        let page = async move { connection.page(&KeyRange::key(HISTORY), 1, None, false).await };
        let asked = self.writer.answer("the history's name", page);
        let (header, found, _) = self.alongside(asked).await??;
        Ok((header.revision, found.first().map(|kv| kv.value.clone())))
    }

    /// Puts the canaries: everything is written. Done after each comparison, and when another program changed one. Readers
    /// then remove what is not listed. Not done after deleting several keys: the heartbeat in the same revision is enough.
    pub(super) async fn put_canaries(&mut self) -> Result<(), EtcdError> {
        let value = timestamp_value(SystemTime::now());
        let put = |key| Op::Put { key, value: value.clone().into(), lease: None };
        self.apply(canaries(&self.writer.cluster.settings.name).map(put).into()).await
    }

    /// Puts the heartbeat.
    pub(super) async fn beat(&mut self) -> Result<(), EtcdError> {
        let beat = self.heartbeat().await?;
        self.apply_alone(&[beat]).await?;
        self.writer.metrics.heartbeats.inc();
        Ok(())
    }

    /// Puts the position, unless the source has been unreadable for a while: other replicas may have newer objects.
    pub(super) async fn put_position(&mut self, key: &str) -> Result<(), EtcdError> {
        let Some(versions) = self.memory.written.clone() else { return Ok(()) };
        if self.writer.cluster.view().away(Instant::now()).is_some() {
            return Ok(());
        }
        // The source reports changes at once, so the position is valid as of now.
        let position = Position::new(versions, SystemTime::now());
        let put = Op::Put { key: key.into(), value: position.encode(), lease: None };
        self.apply_alone(&[put]).await
    }

    /// The operation that puts the heartbeat. Renews its lease, or gets a new one.
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
