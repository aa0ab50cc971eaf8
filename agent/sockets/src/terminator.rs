//! The thread that ends sockets.
//!
//! It is a thread of its own because it enters other network namespaces, in which no task of a runtime may run, and
//! because the kernel takes milliseconds to list its sockets. A caller only takes a lock for as long as a table is
//! changed. It may be stopped anywhere: a socket is ended whole or not at all.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use mesh_layout::ListedSocket;
use mesh_model::{Protocol, lb::Backend};

use crate::{
    namespace::Netns,
    pace::{Outcome, Pace, Schedule},
    queue::{Reason, Target, TerminationQueue},
    scan::{Scan, ScanObserver, Verdict},
};

/// Ends sockets, in a thread of its own that lives as long as this.
#[derive(Debug)]
pub struct SocketTerminator {
    shared: Arc<Shared>,
}

/// The counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sockets ended because their backend was gone.
    pub removed: Ended,
    /// Sockets ended because nothing reached their backend.
    pub unreachable: Ended,
    /// Scans of all namespaces.
    pub passes: u64,
    /// Namespaces that could not be looked through.
    pub failures: u64,
    /// How many namespaces of the last scan do not exist. If all of them: this process does not see the folder in which
    /// the node keeps them.
    pub missing: usize,
    /// The error of the last scan, if there was one.
    pub problem: Option<String>,
}

/// How many sockets were ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Connected UDP sockets.
    pub udp: u64,
    /// TCP connections.
    pub tcp: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rings when there is more to do, or nothing ever again.
    bell: Condvar,
}

#[derive(Debug)]
struct State {
    wanted: TerminationQueue,
    /// `None`: not known yet.
    namespaces: Option<Arc<[Netns]>>,
    schedule: Schedule,
    counts: Counts,
    stopped: bool,
}

/// The thread's own.
struct Worker<L> {
    shared: Arc<Shared>,
    list: L,
    pace: Pace,
}

/// A scan that is to be made.
struct Round {
    wanted: TerminationQueue,
    namespaces: Option<Arc<[Netns]>>,
    now: Instant,
}

// === impl SocketTerminator ===

impl SocketTerminator {
    /// Starts the thread, which is at home in the network namespace of the caller. `list` lists the sockets of the calling
    /// thread's network namespace that our programs connected to backends over a protocol.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        list: impl Fn(Protocol) -> io::Result<Vec<ListedSocket>> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let state = State {
            wanted: TerminationQueue::default(),
            namespaces: None,
            schedule: Schedule::new(now, u64::from(std::process::id())),
            counts: Counts::default(),
            stopped: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), bell: Condvar::new() });
        let worker = Worker { shared: Arc::clone(&shared), list, pace: Pace::new(now) };
        thread::Builder::new().name("sockets".into()).spawn(|| worker.run())?;
        Ok(Self { shared })
    }

    /// Sets the namespaces that are scanned besides the node's own one. Until this is called for the first time no
    /// backend counts as done: the thread scans the node's own namespace for what is due, and again as soon as the
    /// others are known.
    pub fn set_namespaces(&self, namespaces: Vec<Netns>) {
        let mut state = self.shared.lock();
        if state.namespaces.as_deref() != Some(&namespaces) {
            state.namespaces = Some(namespaces.into());
            state.schedule.places_changed();
            self.shared.bell.notify_all();
        }
    }

    /// Ends the sockets of these backends, from a time on. For [`Reason::Unreachable`] that is counted from the last
    /// answer: the time of a later call replaces the former. For [`Reason::Removed`] it is the earliest that was given.
    pub fn end(&self, targets: impl IntoIterator<Item = Target>, reason: Reason, due: Instant) {
        let mut state = self.shared.lock();
        targets.into_iter().for_each(|target| state.wanted.add(target, reason, due));
        self.shared.bell.notify_all();
    }

    /// Spares sockets of unreachable backends that answer again, for which `answers` returns true. Removed backends are
    /// not spared.
    pub fn spare(&self, answers: impl Fn(&Backend) -> bool) {
        self.shared.lock().wanted.spare(answers);
    }

    /// Spares sockets of removed backends that exist again, for which `is_back` returns true.
    pub fn restored(&self, is_back: impl Fn(&Backend) -> bool) {
        self.shared.lock().wanted.restored(is_back);
    }

    /// Whether sockets are to be ended, now or later.
    pub fn is_waiting(&self) -> bool {
        !self.shared.lock().wanted.is_empty()
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts.clone()
    }
}

impl Drop for SocketTerminator {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.bell.notify_all();
    }
}

// === impl Shared ===

impl Shared {
    /// Single entries are changed under the lock: what a panic left is sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a scan is to be made; `None` when it is time to stop.
    fn next(&self) -> Option<Round> {
        let mut state = self.lock();
        while !state.stopped {
            let now = Instant::now();
            match state.wanted.first_due().map(|due| state.schedule.next(due)) {
                Some(begin) if begin <= now => {
                    let (wanted, namespaces) = (state.wanted.due(now), state.namespaces.clone());
                    return Some(Round { wanted, namespaces, now });
                }
                Some(begin) => state = self.wait(state, begin.saturating_duration_since(now)),
                None => {
                    state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        None
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.bell.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }
}

// === impl Worker ===

impl<L: Fn(Protocol) -> io::Result<Vec<ListedSocket>> + Sync> Worker<L> {
    fn run(mut self) {
        while let Some(round) = self.shared.next() {
            let failures = self.shared.lock().counts.failures;
            let (outcome, missing) = self.scan(&round);
            let now = Instant::now();
            let mut state = self.shared.lock();
            if outcome == Outcome::Complete {
                state.wanted.done(&round.wanted);
            }
            // Meanwhile others may have become known: those are scanned immediately.
            let is_same = state.namespaces == round.namespaces;
            state.schedule.scanned(now, now.saturating_duration_since(round.now), outcome);
            if !is_same {
                state.schedule.places_changed();
            }
            state.counts.passes += 1;
            state.counts.missing = missing;
            if state.counts.failures == failures {
                state.counts.problem = None;
            }
        }
    }

    fn scan(&mut self, round: &Round) -> (Outcome, usize) {
        let Self { shared, list, pace } = self;
        let mut counting = Counting { shared, wanted: &round.wanted, pace, missing: 0 };
        let scan = Scan { list, protocols: round.wanted.protocols() };
        let outcome = scan.run(round.namespaces.as_deref(), &mut counting);
        (outcome, counting.missing)
    }
}

/// Keeps the pace, asks whether a socket is still to be ended, and counts.
struct Counting<'a> {
    shared: &'a Shared,
    /// The targets of the scan.
    wanted: &'a TerminationQueue,
    pace: &'a mut Pace,
    missing: usize,
}

impl ScanObserver for Counting<'_> {
    fn is_wanted(&self, socket: &ListedSocket) -> bool {
        self.wanted.reason(socket, Instant::now()).is_some()
    }

    fn may_end(&mut self, socket: &ListedSocket) -> Verdict {
        let now = Instant::now();
        let state = self.shared.lock();
        if state.stopped {
            return Verdict::Wait(Duration::ZERO);
        }
        if state.wanted.reason(socket, now).is_none() {
            return Verdict::Spare;
        }
        self.pace.take(now).map_or_else(Verdict::Wait, |()| Verdict::End)
    }

    fn ended(&mut self, socket: &ListedSocket, protocol: Protocol) {
        let State { wanted, counts, .. } = &mut *self.shared.lock();
        let ended = match wanted.reason(socket, Instant::now()) {
            Some(Reason::Removed) => &mut counts.removed,
            Some(Reason::Unreachable) => &mut counts.unreachable,
            // It came back while the kernel was at it.
            None => return,
        };
        match protocol {
            Protocol::Udp => ended.udp += 1,
            Protocol::Tcp | Protocol::Sctp => ended.tcp += 1,
        }
    }

    fn failed(&mut self, place: &str, why: &io::Error) {
        let counts = &mut self.shared.lock().counts;
        counts.failures += 1;
        counts.problem =
            Some(format!("sockets to backends that are gone are not ended in {place}: {why}"));
    }

    fn missing(&mut self, _netns: &Netns) {
        self.missing += 1;
    }
}
