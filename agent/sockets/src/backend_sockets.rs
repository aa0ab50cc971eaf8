//! The node's sockets by the state of their backends: those that their clusters removed, and those that are
//! unreachable. Nothing here waits: the thread of [`SocketTerminator`] ends them.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use mesh_model::{Protocol, lb::Backend};

use crate::{Counts, Netns, Reason, RemovedBackends, SocketTerminator, Target};

/// The node's sockets, as far as our programs connected them.
#[derive(Debug)]
pub struct BackendSockets {
    terminator: Option<SocketTerminator>,
    /// Why none can be ended.
    problem: Option<String>,
    removed_backends: RemovedBackends,
    /// Backends that clusters removed, and did not report again, since the tables last had all changes.
    taken_back: Vec<Backend>,
    /// Backends that were reported again, while sockets waited for their end.
    set_again: HashSet<Backend>,
}

/// How long a request on its way to a backend may still be answered, after its cluster removed the backend.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

// === impl BackendSockets ===

impl BackendSockets {
    /// Ends sockets by this terminator. If the kernel cannot list them, which is the problem, none is ended.
    pub fn new(terminator: Result<SocketTerminator, String>) -> Self {
        let (terminator, problem) = match terminator {
            Ok(terminator) => (Some(terminator), None),
            Err(error) => {
                (None, Some(format!("sockets to removed backends are not ended: {error}")))
            }
        };
        Self {
            terminator,
            problem,
            removed_backends: RemovedBackends::default(),
            taken_back: Vec::new(),
            set_again: HashSet::new(),
        }
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        self.terminator.as_ref().map(SocketTerminator::counts).unwrap_or_default()
    }

    /// A problem for an operator.
    pub fn problem(&self) -> Option<String> {
        self.problem.clone().or_else(|| self.counts().problem)
    }

    fn end(&self, targets: Vec<Target>, reason: Reason, due: Instant) {
        if let Some(terminator) = self.terminator.as_ref().filter(|_| !targets.is_empty()) {
            tracing::debug!(backends = targets.len(), ?reason, "their sockets are ended");
            terminator.end(targets, reason, due);
        }
    }

    /// The network namespaces to look through.
    pub fn set_namespaces(&self, namespaces: Vec<Netns>) {
        if let Some(terminator) = &self.terminator {
            terminator.set_namespaces(namespaces);
        }
    }

    /// A cluster removed a backend.
    pub fn removed(&mut self, backend: Backend) {
        self.set_again.remove(&backend);
        self.taken_back.push(backend);
    }

    /// A cluster reported a backend: if that exists again within the time for late answers, it is the one that sockets
    /// are connected to.
    pub fn reported(&mut self, backend: Backend) {
        if self.is_waiting() {
            self.taken_back.retain(|removed| *removed != backend);
            self.set_again.insert(backend);
        }
    }

    /// The tables have what clusters reported: connected UDP sockets to backends that were removed, and to which no
    /// frontend leads any more, are ended. The peer of a TCP connection ends it, or its node's kernel does. `released`:
    /// backends that the tables no longer have.
    pub fn end_removed(
        &mut self,
        released: impl Iterator<Item = Target>,
        is_used: impl Fn(&Backend) -> bool,
        now: Instant,
    ) {
        released.for_each(|target| self.removed_backends.released(target));
        let mut taken_back = std::mem::take(&mut self.taken_back);
        // Another service has it still: it lives, and so do sockets that got it before.
        taken_back.retain(|backend| !is_used(backend));
        let removed = &mut self.removed_backends;
        let gone = taken_back.iter().flat_map(|backend| removed.taken_back(backend)).collect();
        self.end_udp(gone, now);
        let set_again = std::mem::take(&mut self.set_again);
        if let Some(terminator) = self.terminator.as_ref().filter(|_| !set_again.is_empty()) {
            terminator.restored(|removed| set_again.contains(removed));
        }
    }

    /// State of the previous run was removed from the tables: for backends that were removed while no agent ran there
    /// was no event. `known`: what clusters report now.
    pub fn pruned(&mut self, known: &HashSet<Backend>, now: Instant) {
        let gone = self.removed_backends.gone(|backend| !known.contains(backend));
        self.end_udp(gone.into_iter().collect(), now);
    }

    /// Nothing has answered for long enough: sockets of a protocol end that have one of these backends, of which `used` are in
    /// the tables.
    pub fn end_unreachable(
        &self,
        protocol: Protocol,
        used: impl Iterator<Item = Target>,
        is_meant: impl Fn(&Backend) -> bool,
        now: Instant,
    ) {
        let ends = |backend: &Backend| backend.protocol == protocol && is_meant(backend);
        let used = used.filter(|used| ends(&used.backend));
        let left = self.removed_backends.among(ends);
        self.end(used.chain(left).collect(), Reason::Unreachable, now);
    }

    /// Something answers again: sockets stay that have not been ended yet.
    pub fn spare(&self, is_meant: impl Fn(&Backend) -> bool) {
        if let Some(terminator) = &self.terminator {
            terminator.spare(is_meant);
        }
    }

    fn is_waiting(&self) -> bool {
        !self.taken_back.is_empty()
            || self.terminator.as_ref().is_some_and(SocketTerminator::is_waiting)
    }

    fn end_udp(&self, mut gone: Vec<Target>, now: Instant) {
        gone.retain(|target| target.backend.protocol == Protocol::Udp);
        self.end(gone, Reason::Removed, now + ON_ITS_WAY);
    }
}
