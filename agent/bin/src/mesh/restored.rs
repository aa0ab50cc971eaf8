//! What a former life knew, where the kernel has nothing of it: a node that starts while a cluster is away begins with what
//! that cluster said last. It is let go of as soon as the cluster is heard, turns out to be another, or is silent for too
//! long.

use std::{
    collections::BTreeSet,
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use mesh_etcd::LastAddresses;
use mesh_files::{Access, write_atomic};
use mesh_merge::Expired;
use mesh_model::{ClusterConfig, ClusterLimit, ClusterName, RecordEvent, RecordKind};
use mesh_snapshot::{HostAddresses, Snapshot, decode_addresses, encode_addresses};
use uuid::Uuid;

use super::Mesh;
use crate::snapshots::Snapshots;

/// What is kept for the next life, and what is left of the last one.
#[derive(Debug)]
pub(crate) struct RestoredState {
    snapshots: Snapshots,
    /// Clusters that are only known from a snapshot, and which clusters they were then.
    believed: Vec<(ClusterName, Option<Uuid>)>,
    /// When this life began.
    began: Instant,
    /// How long a silent cluster is believed.
    budget: Duration,
    /// The budget of those that were not heard until now is spent.
    is_spent: bool,
    addresses: LastAddresses,
    addresses_file: PathBuf,
    addresses_written: HostAddresses,
    addresses_problem: Option<String>,
    /// Whose state expired.
    expired: BTreeSet<ClusterName>,
}

impl RestoredState {
    /// Opens what is kept in a folder. Snapshots are for a kernel that is `bare`: any other knows better.
    pub(crate) fn open(
        folder: &std::path::Path,
        own: &ClusterName,
        limit: ClusterLimit,
        bare: bool,
        budget: Duration,
        now: Instant,
    ) -> io::Result<Self> {
        let addresses_file = folder.join("etcd-addresses.jsonl");
        let (known, problem) = match fs::read(&addresses_file) {
            Ok(file) => match decode_addresses(&file) {
                Ok(known) => (known, None),
                Err(error) => {
                    let problem = format!("{}: not used: {error}", addresses_file.display());
                    (HostAddresses::new(), Some(problem))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (HostAddresses::new(), None),
            Err(error) => {
                (HostAddresses::new(), Some(format!("{}: {error}", addresses_file.display())))
            }
        };
        Ok(Self {
            snapshots: Snapshots::open(folder.join("snapshots"), own, limit, bare, now)?,
            believed: Vec::new(),
            began: now,
            budget,
            is_spent: false,
            addresses: LastAddresses::new(known.clone()),
            addresses_file,
            addresses_written: known,
            addresses_problem: problem,
            expired: BTreeSet::new(),
        })
    }

    /// Where etcds were when they were last reached.
    pub(crate) fn addresses(&self) -> LastAddresses {
        self.addresses.clone()
    }

    /// Whether what is known of a cluster is what a former life knew.
    pub(crate) fn believes(&self, name: &ClusterName) -> bool {
        self.believed.iter().any(|(believed, _)| believed == name)
    }

    /// Whether a cluster that was not heard until now has been silent for too long.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// What an operator should look at.
    pub(crate) fn problems(&self) -> Vec<String> {
        let expired = self.expired.iter().map(|name| {
            format!(
                "{name}: not heard since the agent started, {} s ago or more: what it said before is no longer used",
                self.budget.as_secs()
            )
        });
        let files = self.snapshots.problems().chain(&self.addresses_problem).cloned();
        files.chain(expired).collect()
    }

    /// Keeps the etcds' addresses where they have changed.
    fn write_addresses(&mut self) {
        let addresses = self.addresses.all();
        if addresses == self.addresses_written {
            return;
        }
        let written =
            write_atomic(&self.addresses_file, &encode_addresses(&addresses), Access::Owner);
        self.addresses_problem =
            written.err().map(|error| format!("{}: {error}", self.addresses_file.display()));
        self.addresses_written = addresses;
    }
}

impl Mesh {
    /// A cluster is followed from now on: until it is heard it says what it said.
    pub(super) fn remember(&mut self, name: &ClusterName, uuid: Option<Uuid>) {
        let Some(snapshot) = self.restored.snapshots.take(name) else { return };
        if let (Some(expected), Some(found)) = (uuid, snapshot.uuid)
            && expected != found
        {
            tracing::warn!(peer = %name, %found, %expected, "a snapshot is of another cluster");
            return;
        }
        let count = snapshot.records.len();
        match self.merge.remember(name, snapshot.id, snapshot.records) {
            Ok(refused) => {
                tracing::info!(peer = %name, records = count, refused = refused.len(), "as in a former life");
                if let Some(last) = refused.last() {
                    let (all, reason) = self.refused.entry(name.clone()).or_default();
                    *all += u64::try_from(refused.len()).unwrap_or(u64::MAX);
                    *reason = last.to_string();
                }
                self.restored.believed.push((name.clone(), snapshot.uuid));
            }
            Err(in_use) => tracing::warn!(peer = %name, %in_use, "a snapshot is not used"),
        }
    }

    /// A cluster shows its config. If it is another than the one that was believed, nothing of that one stays.
    pub(super) fn recognise(&mut self, name: &ClusterName, config: &ClusterConfig) {
        self.restored.snapshots.is_now(name, config.uuid, Instant::now());
        let another = |(believed, was): &(ClusterName, Option<Uuid>)| {
            believed == name && matches!((was, config.uuid), (Some(was), Some(is)) if *was != is)
        };
        if self.restored.believed.iter().any(another) {
            tracing::warn!(peer = %name, "it is another cluster than before");
            self.merge.expire(name);
            self.restored.believed.retain(|(believed, _)| believed != name);
        }
    }

    /// A cluster said something: what is on disk may be old.
    pub(super) fn heard(&mut self, name: &ClusterName, event: &RecordEvent) {
        let kind = match event {
            RecordEvent::Upsert(record) => record.key().kind(),
            RecordEvent::Remove(key) => key.kind(),
            RecordEvent::Confirmed(kind) | RecordEvent::Without(kind) => *kind,
            RecordEvent::Begin(_) | RecordEvent::Keep(_) => return,
        };
        if kind == RecordKind::Node {
            self.health.refresh();
        }
        let kept = match kind {
            RecordKind::Node
            | RecordKind::Service
            | RecordKind::EndpointSlice
            | RecordKind::LocalService
            | RecordKind::LocalEndpointSlice => true,
            RecordKind::Identity
            | RecordKind::Address
            | RecordKind::Namespace
            | RecordKind::Pod => false,
        };
        if kept {
            self.restored.snapshots.changed(name, Instant::now());
        }
    }

    /// A kind of record was told in full: nothing else of that kind is believed any more.
    pub(super) fn told_in_full(&mut self, name: &ClusterName) {
        if self.merge.is_confirmed(name, RecordKind::Node) && self.merge.has_told_services(name) {
            self.restored.believed.retain(|(believed, _)| believed != name);
            self.restored.expired.remove(name);
        }
    }

    /// Writes what has changed, and lets go of what was believed for too long.
    pub(super) async fn keep_for_the_next_life(&mut self, now: Instant) {
        self.restored.write_addresses();
        self.restored.snapshots.finish(now).await;
        let merge = &self.merge;
        self.restored.snapshots.write(now, |name, uuid| {
            let (id, records) = merge.records(name)?;
            Some(Snapshot { cluster: name.clone(), id, uuid, records })
        });
        if !self.restored.is_spent && now - self.restored.began >= self.restored.budget {
            self.restored.is_spent = true;
            self.expire_believed();
            self.prune(now);
            self.settle().await;
            self.release_held();
        }
    }

    /// What the own cluster said stays: there is nobody who would know better.
    fn expire_believed(&mut self) {
        let own = self.own.clone();
        let (stays, goes) = std::mem::take(&mut self.restored.believed)
            .into_iter()
            .partition(|(name, _)| *name == own);
        self.restored.believed = stays;
        let goes: Vec<(ClusterName, Option<Uuid>)> = goes;
        for (name, _) in goes {
            tracing::warn!(peer = %name, "not heard for too long: what it said before is no longer used");
            if self.merge.expire(&name) == Expired::Something {
                self.restored.expired.insert(name);
            }
        }
    }

    /// Of clusters that are no peers nothing is kept.
    pub(super) async fn forget_strangers(&mut self) {
        let (own, peers) = (&self.own, &self.peers);
        self.restored.snapshots.retain(|name| name == own || peers.contains_key(name)).await;
        self.restored.believed.retain(|(name, _)| name == own || peers.contains_key(name));
        self.restored.expired.retain(|name| peers.contains_key(name));
    }
}
