//! The keys that say how far the writer is, and that it lives: canaries, heartbeat, position, the history's name.

use std::{collections::BTreeSet, time::SystemTime};

use mesh_etcd::{EtcdError, Op};
use mesh_follow::KeyRange;
use mesh_model::ClusterName;
use mesh_wire::{
    Key, Layout, Position, Prefix,
    key::{HEARTBEAT, HISTORY, LOCAL_POSITION},
    timestamp_value,
};
use uuid::Uuid;

use super::{etcd_error::Reason, session::Session};

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
pub(super) fn marks(own: &ClusterName) -> BTreeSet<String> {
    canaries(own).into_iter().chain([LOCAL_POSITION.to_owned()]).collect()
}

fn canaries(own: &ClusterName) -> [String; CANARIES.len()] {
    CANARIES.map(|prefix| Key::canary(own, Layout::State, prefix).to_string())
}

impl Session<'_> {
    /// Gives a history that has none a name: two may be alike in all else, the numbers of their revisions included. One
    /// that is behind what it was is another, whatever name it brought along from a backup.
    pub(super) async fn name_history(&mut self) -> Result<(), EtcdError> {
        let span = KeyRange::key(HISTORY);
        let asked = self.connection.page(&span, 1, None, false);
        let (header, found, _) = self.writer.answer("the history's name", asked).await?;
        let name = found.first().map(|kv| kv.value.clone());
        let behind = header.revision < self.memory.revision;
        let lost = name.is_none() && self.memory.history.is_some();
        self.memory.revision = header.revision;
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
        self.apply(&[Op::Put { key: HISTORY.into(), value, lease: None }]).await
    }

    /// Says that everything is there. Anew after each comparison: readers take it as "complete as of now".
    pub(super) async fn put_canaries(&mut self) -> Result<(), EtcdError> {
        let value = timestamp_value(SystemTime::now());
        let put = |key| Op::Put { key, value: value.clone().into(), lease: None };
        let ops = canaries(&self.writer.cluster.settings.name).map(put);
        self.apply(&ops).await
    }

    /// Says that the writer lives.
    pub(super) async fn beat(&mut self) -> Result<(), EtcdError> {
        let beat = self.heartbeat().await?;
        self.apply(&[beat]).await?;
        self.writer.metrics.heartbeats.inc();
        Ok(())
    }

    /// Says how far of the source everything is here.
    pub(super) async fn put_position(&mut self, key: &str) -> Result<(), EtcdError> {
        let Some(position) = &self.position else { return Ok(()) };
        // The source says what changes at once: that nothing changed since is known as of now.
        let position = Position::new(position.source.clone(), SystemTime::now());
        self.apply(&[Op::Put { key: key.into(), value: position.encode(), lease: None }]).await
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
