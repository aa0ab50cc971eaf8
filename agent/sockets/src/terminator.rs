//! The thread that ends sockets.
//!
//! It is a thread of its own because it goes into other network namespaces, where no task of a runtime may find itself,
//! and because the kernel takes milliseconds to list its sockets. Whoever asks it only takes a lock for as long as a table
//! is changed. It may be stopped anywhere: a socket is ended whole or not at all.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use mesh_layout::ListedSocket;
use mesh_model::{Protocol, lb::Backend};

use crate::{
    namespace::{Home, Netns},
    pace::{Pace, rest_after},
    queue::{Target, TerminationQueue},
    scan::{Scan, ScanObserver, Verdict},
};

/// Ends sockets, in a thread of its own that lives as long as this.
#[derive(Debug)]
pub struct SocketTerminator {
    shared: Arc<Shared>,
}

/// Why sockets are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Their backend is gone.
    Removed,
    /// Nothing reaches their backend, which may come back.
    Unreachable,
}

/// What was done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sockets ended because their backend was gone.
    pub removed: Ended,
    /// Sockets ended because nothing reached their backend.
    pub unreachable: Ended,
    /// Passes through all namespaces.
    pub passes: u64,
    /// Namespaces that could not be looked through.
    pub failures: u64,
    /// What went wrong in the last pass, if something did.
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

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Rings when there is more to do, or nothing ever again.
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: TerminationQueue,
    namespaces: Arc<[Netns]>,
    counts: Counts,
    stopped: bool,
}

/// The thread's own.
struct Worker<L> {
    shared: Arc<Shared>,
    home: Home,
    list: L,
    pace: Pace,
}

// === impl SocketTerminator ===

impl SocketTerminator {
    /// Starts the thread, which is at home in the network namespace of the caller. `list` lists the sockets that our
    /// programs connected to backends.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        list: impl Fn() -> io::Result<Vec<ListedSocket>> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (home, pace) = (Home::here()?, Pace::new(Instant::now()));
        let worker = Worker { shared: Arc::clone(&shared), home, list, pace };
        thread::Builder::new().name("sockets".into()).spawn(|| worker.run())?;
        Ok(Self { shared })
    }

    /// From now on these are the namespaces that are gone through beside the own one.
    pub fn set_namespaces(&self, namespaces: Vec<Netns>) {
        self.shared.lock().namespaces = namespaces.into();
    }

    /// Has the sockets of these backends ended, from a time on.
    pub fn end(&self, targets: impl IntoIterator<Item = Target>, reason: Reason, due: Instant) {
        let mut state = self.shared.lock();
        targets.into_iter().for_each(|target| state.wanted.add(target, reason, due));
        self.shared.bell.notify_all();
    }

    /// Spares those that could not be reached and can be again, as far as `back` says so.
    pub fn spare(&self, back: impl Fn(&Backend) -> bool) {
        self.shared.lock().wanted.spare(back);
    }

    /// What was done so far.
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
    /// Whoever held the lock changed single entries: what a panic left is sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is due; `None` when it is time to stop.
    fn next(&self) -> Option<(TerminationQueue, Arc<[Netns]>)> {
        let mut state = self.lock();
        while !state.stopped {
            let now = Instant::now();
            match state.wanted.first_due() {
                Some(due) if due <= now => {
                    return Some((state.wanted.due(now), Arc::clone(&state.namespaces)));
                }
                Some(due) => state = self.wait(state, due.saturating_duration_since(now)),
                None => {
                    state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        None
    }

    /// Waits for so long, or until it is time to stop.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.stopped && Instant::now() < until {
            state = self.wait(state, until.saturating_duration_since(Instant::now()));
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.bell.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }
}

// === impl Worker ===

impl<L: Fn() -> io::Result<Vec<ListedSocket>>> Worker<L> {
    fn run(mut self) {
        while let Some((wanted, namespaces)) = self.shared.next() {
            let begin = Instant::now();
            let failures = self.shared.lock().counts.failures;
            self.pass(&wanted, &namespaces);
            let mut state = self.shared.lock();
            state.wanted.remove(&wanted);
            state.counts.passes += 1;
            if state.counts.failures == failures {
                state.counts.problem = None;
            }
            drop(state);
            self.shared.pause(rest_after(begin.elapsed()));
        }
    }

    fn pass(&mut self, wanted: &TerminationQueue, namespaces: &[Netns]) {
        let Self { shared, home, list, pace } = self;
        let mut observer = Counting { shared, pace };
        let listed = match list() {
            Ok(listed) => listed,
            Err(error) => return observer.failed("any network", &error),
        };
        let looked_for: HashMap<_, _> = listed
            .into_iter()
            .filter_map(|socket| Some((socket.cookie(), (wanted.verdict(&socket)?.0, socket))))
            .collect();
        // Mostly nobody hangs on a backend that goes, and nothing else is looked at.
        if !looked_for.is_empty() {
            Scan { home, looked_for }.run(namespaces, &mut observer);
        }
    }
}

/// Keeps the pace, asks whether a socket is still to be ended, and counts.
struct Counting<'a> {
    shared: &'a Shared,
    pace: &'a mut Pace,
}

impl ScanObserver for Counting<'_> {
    fn may_end(&mut self, socket: &ListedSocket) -> Verdict {
        while let Err(pause) = self.pace.take(Instant::now()) {
            self.shared.pause(pause);
            if self.shared.lock().stopped {
                return Verdict::Stop;
            }
        }
        let state = self.shared.lock();
        match (state.stopped, state.wanted.verdict(socket)) {
            (true, _) => Verdict::Stop,
            (false, Some(_)) => Verdict::End,
            (false, None) => Verdict::Spare,
        }
    }

    fn ended(&mut self, socket: &ListedSocket) {
        let State { wanted, counts, .. } = &mut *self.shared.lock();
        let ended = match wanted.verdict(socket) {
            Some((protocol, Reason::Removed)) => (protocol, &mut counts.removed),
            Some((protocol, Reason::Unreachable)) => (protocol, &mut counts.unreachable),
            // It came back while the kernel was at it.
            None => return,
        };
        match ended {
            (Protocol::Udp, ended) => ended.udp += 1,
            (Protocol::Tcp | Protocol::Sctp, ended) => ended.tcp += 1,
        }
    }

    fn failed(&mut self, place: &str, why: &io::Error) {
        let counts = &mut self.shared.lock().counts;
        counts.failures += 1;
        counts.problem =
            Some(format!("sockets to backends that are gone are not ended in {place}: {why}"));
    }
}
