//! A served cluster: its keys, and who may write them.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use mesh_certs::admin_user;
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_wire::{Position, key, timestamp_value};
use prost::bytes::Bytes;
use tokio::sync::watch;
use tonic::{Request, Status};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    error::ReplayError,
    file::ClusterFile,
    proto::ResponseHeader,
    recording::{Become, Recording},
    store::{Span, Store, StoreError, Write},
};

#[derive(Debug)]
pub(crate) struct Served {
    name: ClusterName,
    /// Differs between clusters, so that clients see different etcds.
    cluster_id: u64,
    store: Mutex<Store>,
    changed: watch::Sender<()>,
}

/// The member ID in headers; clients ignore it.
const MEMBER: u64 = 0x8e9e_05c5_2164_694d;
/// The raft term of an etcd that had one election.
const TERM: u64 = 2;

// === impl Served ===

impl Served {
    pub(crate) fn new(recording: &Recording, file: &ClusterFile) -> Result<Self, ReplayError> {
        let invalid = |reason: String| {
            ReplayError::file(&file.name)(io::Error::new(io::ErrorKind::InvalidInput, reason))
        };
        let name = ClusterName::new(&file.name).map_err(|error| invalid(error.to_string()))?;
        let id = ClusterId::new(file.id, ClusterLimit::Max511);
        let id = id.map_err(|error| invalid(error.to_string()))?;
        let other = Become { name: &name, id, ranges: &file.ranges };
        let entries = recording.of_cluster(&other)?;
        let mut store = Store::default();
        for (key, value) in in_order(entries) {
            store
                .write(&[Write::Put(key.into(), value.into())])
                .map_err(|error| invalid(error.to_string()))?;
        }
        let cluster_id = u64::from(file.id) << 32 | u64::from(std::process::id());
        Ok(Self { name, cluster_id, store: Mutex::new(store), changed: watch::Sender::new(()) })
    }

    pub(crate) fn header(&self, revision: i64) -> Option<ResponseHeader> {
        let (cluster_id, member_id, raft_term) = (self.cluster_id, MEMBER, TERM);
        Some(ResponseHeader { cluster_id, member_id, revision, raft_term })
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&self.store.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the revision, and the number of keys that each write set or deleted.
    pub(crate) fn write(&self, writes: &[Write]) -> Result<(i64, Vec<usize>), StoreError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let done = store.write(writes)?;
        let revision = store.revision();
        drop(store);
        self.changed.send_replace(());
        Ok((revision, done))
    }

    pub(crate) fn compact(&self, revision: i64) -> Result<i64, StoreError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.compact(revision)?;
        Ok(store.revision())
    }

    /// Notifies after each write.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Refuses all users but the cluster's administrator: other clients may only read.
    pub(crate) fn only_admin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        match user(request) {
            Some(user) if user == admin_user(self.name.as_str()) => Ok(()),
            _ => Err(Status::permission_denied("etcdserver: permission denied")),
        }
    }

    /// Updates the position, and the heartbeat if `heartbeat`, as an apiserver does.
    pub(crate) fn sign_of_life(&self, now: SystemTime, heartbeat: bool) {
        let position = self.read(|store| {
            let span = Span::new(Bytes::from_static(key::POSITION.as_bytes()), Bytes::new());
            let page = store.range(&span, None, None).ok()?;
            Position::decode(&page.entries.first()?.value).ok()
        });
        let position = position.map(|position| Position::new(position.source, now).encode());
        let put = |key: &'static str, value: Vec<u8>| {
            Write::Put(Bytes::from_static(key.as_bytes()), value.into())
        };
        let mut writes: Vec<Write> =
            position.map(|value| put(key::POSITION, value)).into_iter().collect();
        if heartbeat {
            writes.push(put(key::HEARTBEAT, timestamp_value(now).into_bytes()));
        }
        // A write fails only if a key occurs twice.
        let _ = self.write(&writes);
    }
}

/// Canaries last, as an apiserver writes them: they confirm that everything before them is written.
fn in_order(entries: BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = (String, Vec<u8>)> {
    let (canaries, first): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|(key, _)| key.starts_with(key::CANARIES));
    first.into_iter().chain(canaries)
}

/// The common name of the certificate with which a client sent a request.
fn user<T>(request: &Request<T>) -> Option<String> {
    let certificates = request.peer_certs()?;
    let (_, certificate) = X509Certificate::from_der(certificates.first()?).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(ToOwned::to_owned)
}
