//! Many clusters in one process.
//!
//! Tasks: one a listener, one a watch stream, and one that keeps the writers' signs of life. All end with [`serve`].

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use mesh_certs::{ClusterPki, admin_user};
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_wire::{Position, key, timestamp_value};
use prost::bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::interval};
use tonic::{Request, Status};

use crate::{
    error::ReplayError,
    listener,
    proto::ResponseHeader,
    recording::{Become, Recording},
    store::{Store, StoreError, Write},
};

/// What to serve.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayFile {
    /// The clusters.
    pub clusters: Vec<ClusterFile>,
    /// Whether heartbeats and positions are put, as a living writer puts them.
    pub keep_alive: bool,
}

/// A cluster to serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFile {
    /// Its name.
    pub name: String,
    /// Its ID.
    pub id: u32,
    /// Where its etcd listens.
    pub listen: SocketAddr,
    /// Its certificates, as [`ClusterPki`] has them: `ca`, and `server` with its key.
    pub pki: PathBuf,
    /// Address ranges of the recorded cluster, each with the one that takes its place.
    pub ranges: Vec<(IpNet, IpNet)>,
}

/// A cluster that is served.
#[derive(Debug)]
pub(crate) struct Served {
    name: ClusterName,
    /// Another for each cluster: readers take it for another etcd.
    cluster_id: u64,
    store: Mutex<Store>,
    changed: watch::Sender<()>,
}

/// How often a writer of ours puts its position and its heartbeat (`docs/wire.md`).
const POSITION: Duration = Duration::from_secs(5);
const HEARTBEAT: u32 = 12;
/// What etcd calls a member; readers do not look at it.
const MEMBER: u64 = 0x8e9e_05c5_2164_694d;
/// The term of an etcd that elected once.
const TERM: u64 = 2;

/// Serves a recording as each of these clusters, until the future is dropped. `ready` is called when all listen.
pub async fn serve(
    recording: &Recording,
    file: &ReplayFile,
    ready: impl FnOnce(),
) -> Result<(), ReplayError> {
    let mut tasks = JoinSet::new();
    let mut all = Vec::new();
    for cluster in &file.clusters {
        let served = Arc::new(Served::new(recording, cluster)?);
        let address = cluster.listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ReplayError::Listen { address, source })?;
        let tls = listener::tls(&ClusterPki::new(&cluster.pki))?;
        let serving = listener::serve(listener, tls, Arc::clone(&served));
        tasks.spawn(serving);
        all.push(served);
    }
    if file.keep_alive {
        tasks.spawn(async move {
            keep_alive(&all).await;
            Ok(())
        });
    }
    ready();
    while let Some(ended) = tasks.join_next().await {
        // A task that is aborted or panics ends the process's use; none is aborted here.
        ended.map_err(|error| ReplayError::file("a listener")(io::Error::other(error)))??;
    }
    Ok(())
}

/// Puts what a living writer puts.
async fn keep_alive(all: &[Arc<Served>]) {
    let mut ticks = interval(POSITION);
    for round in 0_u32.. {
        ticks.tick().await;
        for served in all {
            served.sign_of_life(SystemTime::now(), round % HEARTBEAT == 0);
        }
    }
}

// === impl Served ===

impl Served {
    fn new(recording: &Recording, file: &ClusterFile) -> Result<Self, ReplayError> {
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

    /// Returns the revision, and how many keys each write wrote or removed.
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

    /// Rings after each write.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whoever else has a certificate of this cluster reads.
    pub(crate) fn only_admin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        match listener::user(request) {
            Some(user) if user == admin_user(self.name.as_str()) => Ok(()),
            _ => Err(Status::permission_denied("etcdserver: permission denied")),
        }
    }

    fn sign_of_life(&self, now: SystemTime, heartbeat: bool) {
        let position = self.read(|store| {
            let span =
                crate::store::Span::new(Bytes::from_static(key::POSITION.as_bytes()), Bytes::new());
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
        // Two keys that are not the same are never refused.
        let _ = self.write(&writes);
    }
}

/// Canaries last, as a writer puts them: what they vouch for is older.
fn in_order(entries: BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = (String, Vec<u8>)> {
    let (canaries, first): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|(key, _)| key.starts_with(key::CANARIES));
    first.into_iter().chain(canaries)
}

/// A file's text.
pub(crate) fn read(path: &Path) -> Result<String, ReplayError> {
    fs::read_to_string(path).map_err(ReplayError::file(path))
}
