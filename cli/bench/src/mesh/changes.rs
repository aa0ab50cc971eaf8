//! Changes in the peers' etcds: the time until each is in the reader's kernel, and the agent's CPU time.
//!
//! A change removes a backend of a service, or adds it again: one put of its endpoint slice, in a revision of its own.
//! There are three threads in the reader's network namespace: one makes changes at a rate, one runs plain watches, and one
//! makes the timed changes one after another and reads the kernel's tables. All end with the measurement.

use std::{
    net::SocketAddr,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use mesh_etcd::Connection;
use mesh_follow::{KeyRange, WatchEvent};
use mesh_lab::within_netns;
use serde::Serialize;
use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    etcds::{Peer, connect, failed},
    slice::{PATIENCE, Reader, Slice, apply, slices_of},
};
use crate::{
    error::{BenchError, io},
    stats::Distribution,
    usage::cpu_without_prober,
};

/// The cost of changes at a rate.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// Changes a second that were requested; 0: one at a time, each when the previous one is in the kernel.
    pub rate: u32,
    /// Changes a second that were made.
    pub achieved: f64,
    /// The number of changes, timed ones included.
    pub changes: u64,
    /// CPU time of the agent for a change, in microseconds, less its idle CPU time. Without that of its prober.
    pub cpu_micros: f64,
    /// From the beginning of the put to the event of a plain watch of the same key.
    pub watch: Distribution,
    /// From the beginning of the put to the entry in the reader's kernel.
    pub kernel: Distribution,
    /// The ratio of the medians, kernel to watch.
    pub ratio: f64,
}

/// The slices to change.
pub(super) struct Plan {
    peers: Vec<Peer>,
    /// Slices whose changes are timed, of different services.
    timed: Vec<Slice>,
    /// Slices that make up the rest of the rate.
    others: Vec<Slice>,
}

/// The rate and number of changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Changes a second, timed ones included; 0: one at a time.
    pub(super) rate: u32,
    /// How many changes.
    pub(super) changes: u32,
}

/// The peers with timed changes: each needs a connection for its plain watch.
const TIMED_PEERS: usize = 10;
/// The pause between two timed changes, and about how many of them there are in a second then.
const PAUSE: Duration = Duration::from_millis(30);
const TIMED_A_SECOND: u32 = 30;
/// This many slices lose a backend before they get it back.
const WINDOW: usize = 32;

// === impl Plan ===

impl Plan {
    /// Reads the slices of all peers. The changes of half of the services are timed.
    pub(super) fn read(
        netns: &str,
        peers: &[Peer],
        frontend: impl Fn(&str) -> Option<(SocketAddr, u32)> + Sync,
    ) -> Result<Self, BenchError> {
        let mut slices = Vec::new();
        within_netns(netns, || {
            runtime()?.block_on(async {
                for (index, peer) in peers.iter().enumerate() {
                    slices.extend(slices_of(index, peer, &frontend).await?);
                }
                Ok::<_, BenchError>(())
            })
        })??;
        let mut services: Vec<SocketAddr> = slices.iter().map(|slice| slice.frontend).collect();
        services.sort_unstable();
        services.dedup();
        let (for_timed, _) = services.split_at(services.len().div_ceil(2));
        let (timed, others): (Vec<Slice>, Vec<Slice>) =
            slices.into_iter().partition(|slice| for_timed.contains(&slice.frontend));
        // One slice of each service, of peers far apart.
        let step = peers.len().div_ceil(TIMED_PEERS).max(1);
        let timed = for_timed.iter().enumerate().filter_map(|(index, frontend)| {
            let peer = index * step % peers.len().max(1);
            timed.iter().find(|slice| slice.frontend == *frontend && slice.peer == peer).cloned()
        });
        let plan = Self { peers: peers.to_vec(), timed: timed.collect(), others };
        if plan.timed.is_empty() || plan.others.is_empty() {
            return Err(BenchError::Unexpected("too few services to change".into()));
        }
        Ok(plan)
    }

    /// Makes changes at a pace.
    pub(super) fn run(&self, reader: &Reader<'_>, pace: Pace) -> Result<Changes, BenchError> {
        let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
        let (seen, events) = channel();
        thread::scope(|scope| {
            let stopping = Stop(&stop);
            let watching = scope.spawn(|| within_netns(reader.netns, || self.watch(&stop, &seen)));
            let loading = scope.spawn(|| {
                within_netns(reader.netns, || match pace.rate {
                    0 => Ok(()),
                    rate => self.load(rate, &stop, &made),
                })
            });
            let timed = within_netns(reader.netns, {
                let made = &made;
                move || self.time(reader, pace, &events, made)
            })?;
            drop(stopping);
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Result<(), BenchError>, _>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            let ended = (join(watching)??, join(loading)??);
            let ((), ()) = ended;
            timed
        })
    }

    /// Makes timed changes one after another, until the number of all changes is reached.
    fn time(
        &self,
        reader: &Reader<'_>,
        pace: Pace,
        events: &Receiver<(String, Instant)>,
        made: &AtomicU64,
    ) -> Result<Changes, BenchError> {
        // A new thread is in the network namespace of the thread that starts it.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().map_err(io("a runtime"))?;
        let connections = runtime.block_on(self.connections())?;
        // The plain watch reports when it has started.
        let ready = events.recv_timeout(PATIENCE);
        ready.map_err(|_| BenchError::late("the plain watch did not begin"))?;
        let (mut watch, mut kernel, mut timed) = (Vec::new(), Vec::new(), 0);
        let (began, begin) = (Instant::now(), cpu_without_prober(reader.pid)?);
        let before = made.load(Ordering::Relaxed);
        for slice in self.timed.iter().cycle() {
            let others = made.load(Ordering::Relaxed).saturating_sub(before);
            if others + timed >= u64::from(pace.changes) {
                break;
            }
            // Removes the backend and adds it again, so that each slice ends as it was.
            for value in [1, 0] {
                thread::sleep(PAUSE);
                let took = slice.change(value, reader, &runtime, &connections, events)?;
                watch.push(took.0);
                kernel.push(took.1);
                timed += 1;
            }
        }
        let (spent, elapsed) =
            (cpu_without_prober(reader.pid)?.saturating_sub(begin), began.elapsed());
        let changes = made.load(Ordering::Relaxed).saturating_sub(before) + timed;
        let busy = (spent.as_secs_f64() - reader.idle * elapsed.as_secs_f64()).max(0.0);
        let (watch, kernel) = (Distribution::of(watch), Distribution::of(kernel));
        Ok(Changes {
            rate: pace.rate,
            achieved: changes as f64 / elapsed.as_secs_f64(),
            changes,
            cpu_micros: busy * 1e6 / changes.max(1) as f64,
            watch,
            kernel,
            ratio: kernel.p50_nanos as f64 / watch.p50_nanos.max(1) as f64,
        })
    }

    /// Makes untimed changes at a rate, until it is stopped. All slices are then as they were.
    fn load(&self, rate: u32, stop: &AtomicBool, made: &AtomicU64) -> Result<(), BenchError> {
        // The rate includes the timed changes.
        let period = Duration::from_secs(1) / rate.saturating_sub(TIMED_A_SECOND).max(1);
        runtime()?.block_on(async {
            let connections = self.connections().await?;
            let mut ticks = tokio::time::interval(period);
            let mut puts = JoinSet::new();
            for slices in self.others.chunks(WINDOW).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // Removes, and then adds again: a key never has two puts in flight.
                for value in [1, 0] {
                    for slice in slices {
                        ticks.tick().await;
                        let Some(connection) = connections.get(slice.peer).cloned() else {
                            continue;
                        };
                        let op = slice.put(value);
                        puts.spawn(async move { apply(&connection, op).await });
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                    while let Some(put) = puts.join_next().await {
                        put.map_err(|error| failed("a change", &error))??;
                    }
                }
            }
            Ok(())
        })
    }

    /// Watches the keys of the timed slices, and reports their events. The first report is that the watches have started.
    fn watch(&self, stop: &AtomicBool, seen: &Sender<(String, Instant)>) -> Result<(), BenchError> {
        runtime()?.block_on(async {
            let mut watches = JoinSet::new();
            for (index, peer) in self.peers.iter().enumerate() {
                let keys = self.timed.iter().filter(|slice| slice.peer == index);
                let ranges: Vec<KeyRange> = keys.map(|slice| KeyRange::key(&slice.key)).collect();
                if ranges.is_empty() {
                    continue;
                }
                let connection = connect(&peer.admin).await?;
                let everything = KeyRange::key("-");
                let (now, _) =
                    connection.list(&everything).await.map_err(|e| failed("a list", &e))?;
                let watch = connection.watch(&ranges, now + 1).await;
                let mut watch = watch.map_err(|error| failed("a plain watch", &error))?;
                let seen = seen.clone();
                watches.spawn(async move {
                    loop {
                        let next = watch.next().await;
                        let at = Instant::now();
                        let (_, events) = next.map_err(|error| failed("a plain watch", &error))?;
                        for event in events {
                            let (WatchEvent::Put(kv), key) = (event, String::from_utf8_lossy)
                            else {
                                continue;
                            };
                            if seen.send((key(&kv.key).into_owned(), at)).is_err() {
                                return Ok::<_, BenchError>(());
                            }
                        }
                    }
                });
            }
            let _ = seen.send((String::new(), Instant::now()));
            while !stop.load(Ordering::Relaxed) {
                tokio::select! {
                    Some(ended) = watches.join_next() => {
                        ended.map_err(|error| failed("a plain watch", &error))??;
                    }
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
            Ok(())
        })
    }

    async fn connections(&self) -> Result<Vec<Connection>, BenchError> {
        let mut all = Vec::new();
        for peer in &self.peers {
            all.push(connect(&peer.admin).await?);
        }
        Ok(all)
    }
}

/// Stops the other threads when its thread is done, also after an error.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn runtime() -> Result<Runtime, BenchError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("a runtime"))
}
