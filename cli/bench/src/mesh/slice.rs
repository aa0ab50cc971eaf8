//! A slice whose changes are measured.

use std::{
    net::SocketAddr,
    sync::mpsc::Receiver,
    thread,
    time::{Duration, Instant},
};

use mesh_dump::Dump;
use mesh_etcd::{Connection, Op};
use mesh_follow::KeyRange;
use mesh_model::{ClusterLimit, Record};
use mesh_wire::{Key, Layout, Prefix, Role, decode, encode};
use tokio::runtime::Runtime;

use super::etcds::{Peer, connect, failed};
use crate::error::BenchError;

#[derive(Clone)]
pub(super) struct Slice {
    /// The index of the peer.
    pub(super) peer: usize,
    pub(super) key: String,
    /// The value with all endpoints, and that without the last one.
    pub(super) values: [Vec<u8>; 2],
    /// The service's address for clients in the reading cluster.
    pub(super) frontend: SocketAddr,
    /// The number of the service's backends there, with all endpoints of the slice.
    pub(super) backends: u32,
}

/// The agent that is measured.
pub(super) struct Reader<'a> {
    pub(super) netns: &'a str,
    pub(super) pid: i32,
    pub(super) dump: &'a Dump,
    /// Its idle CPU time, in seconds a second, without that of its prober.
    pub(super) idle: f64,
}

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// The interval of checks of the kernel's tables.
const LOOK: Duration = Duration::from_micros(20);
const TCP: u8 = 6;

// === impl Slice ===

impl Slice {
    pub(super) fn put(&self, value: usize) -> Op {
        let value = self.values.get(value).cloned().unwrap_or_default();
        Op::Put { key: self.key.clone(), value, lease: None }
    }

    /// Puts one of the values, and waits until the watch and the kernel have it. Returns both times, in nanoseconds.
    pub(super) fn change(
        &self,
        value: usize,
        reader: &Reader<'_>,
        runtime: &Runtime,
        connections: &[Connection],
        events: &Receiver<(String, Instant)>,
    ) -> Result<(u64, u64), BenchError> {
        let gone = || BenchError::Unexpected(format!("{} has no entry", self.frontend));
        let counter = reader.dump.counter((self.frontend, TCP))?.ok_or_else(gone)?;
        let connection = connections.get(self.peer).ok_or_else(gone)?.clone();
        let wanted = self.backends - u32::try_from(value).unwrap_or_default();
        let put = self.put(value);
        let began = Instant::now();
        // On the runtime's thread, since the kernel may have the change before the put is answered.
        let put = runtime.spawn(async move { apply(&connection, put).await });
        let in_kernel = loop {
            if counter() == wanted {
                break Instant::now();
            }
            if began.elapsed() > PATIENCE {
                let found = counter();
                return Err(BenchError::late(format!(
                    "{} had {found} backends, not {wanted}, after a change of {}",
                    self.frontend, self.key
                )));
            }
            thread::sleep(LOOK);
        };
        runtime.block_on(put).map_err(|error| failed("a change", &error))??;
        let seen = events.recv_timeout(PATIENCE);
        let (key, seen) = seen
            .map_err(|_| BenchError::late(format!("the plain watch did not see {}", self.key)))?;
        if key != self.key {
            return Err(BenchError::Unexpected(format!(
                "the plain watch saw {key}, not {}",
                self.key
            )));
        }
        let nanos = |at: Instant| {
            u64::try_from(at.saturating_duration_since(began).as_nanos()).unwrap_or(u64::MAX)
        };
        Ok((nanos(seen), nanos(in_kernel)))
    }
}

pub(super) async fn apply(connection: &Connection, op: Op) -> Result<(), BenchError> {
    connection.apply(&[op]).await.map(drop).map_err(|error| failed("a change", &error))
}

/// The slices of a peer with more than one endpoint.
pub(super) async fn slices_of(
    index: usize,
    peer: &Peer,
    frontend: impl Fn(&str) -> Option<(SocketAddr, u32)>,
) -> Result<Vec<Slice>, BenchError> {
    let connection = connect(&peer.admin).await?;
    let prefix = Prefix::EndpointSlices.of_cluster(Layout::State, &peer.name);
    let listed = connection.list(&KeyRange::prefix(&prefix)).await;
    let (_, listed) = listed.map_err(|error| failed("reading slices", &error))?;
    let of = mesh_wire::Peer {
        name: peer.name.clone(),
        role: Role::Remote,
        id: peer.id,
        limit: ClusterLimit::Max255,
        layout: Layout::State,
    };
    let mut slices = Vec::new();
    for kv in listed {
        let record = decode(&of, &kv.key, &kv.value).map_err(|error| failed("a slice", &error))?;
        let Some(Record::EndpointSlice(mut slice)) = record else { continue };
        let service = slice.service().and_then(|service| frontend(&service.name));
        let (Some((frontend, backends)), true) = (service, slice.endpoints.len() > 1) else {
            continue;
        };
        let record = Record::EndpointSlice(slice.clone());
        let key = Key::of_record(Layout::State, &peer.name, record.key()).to_string();
        let whole = encode(&record);
        slice.endpoints.pop();
        let values = [whole, encode(&Record::EndpointSlice(slice))];
        slices.push(Slice { peer: index, key, values, frontend, backends });
    }
    Ok(slices)
}
