//! Which sockets are ended because their backend is gone or cannot be reached. A thread of `mesh-sockets` ends them; nothing
//! here waits.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use mesh_core::{Core, Reported};
use mesh_dataplane::{Kernel, Numbered, Programs, Tables};
use mesh_health::{Ending, Scope};
use mesh_model::{Protocol, lb::Backend};
use mesh_pods::Pods;
use mesh_sockets::{Counts, Netns, Reason, RemovedBackends, SocketTerminator, Target};

/// The node's sockets, as far as our programs connected them.
#[derive(Debug)]
pub(crate) struct Sockets {
    terminator: Option<SocketTerminator>,
    /// Why none can be ended.
    problem: Option<String>,
    removed_backends: RemovedBackends,
    /// What clusters removed, and not reported again, since the tables last had all changes.
    taken_back: Vec<Backend>,
    /// What they reported again meanwhile, while sockets waited for their end.
    set_again: HashSet<Backend>,
}

/// How long a request that is on its way to a backend may still be answered, once its cluster took it back.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

// === impl Sockets ===

impl Sockets {
    /// Has the programs' sockets looked after. Where the kernel cannot say which they are, none is ended.
    pub(crate) fn new(programs: &mut Programs) -> Self {
        let terminator = programs
            .take_sockets()
            .map_err(io::Error::other)
            .and_then(|list| SocketTerminator::start(move |protocol| list.read(protocol)));
        let (terminator, problem) = match terminator {
            Ok(terminator) => (Some(terminator), None),
            Err(error) => (None, Some(format!("sockets of vanished backends stay: {error}"))),
        };
        Self {
            terminator,
            problem,
            removed_backends: RemovedBackends::default(),
            taken_back: Vec::new(),
            set_again: HashSet::new(),
        }
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> Counts {
        self.terminator.as_ref().map(SocketTerminator::counts).unwrap_or_default()
    }

    /// What an operator should look at.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.clone().or_else(|| self.counts().problem)
    }

    fn end(&self, targets: Vec<Target>, reason: Reason, due: Instant) {
        if let Some(terminator) = self.terminator.as_ref().filter(|_| !targets.is_empty()) {
            tracing::debug!(backends = targets.len(), ?reason, "their sockets are ended");
            terminator.end(targets, reason, due);
        }
    }
}

impl Sockets {
    /// The attachments of this node: the network namespaces to look through.
    pub(crate) fn set_namespaces(&self, pods: &Pods) {
        if let Some(terminator) = &self.terminator {
            let pods = pods.iter().map(|(attachment, _)| Netns {
                path: attachment.netns.path.clone(),
                inode: attachment.netns.inode,
            });
            terminator.set_namespaces(pods.collect());
        }
    }

    /// What clusters did with backends.
    pub(crate) fn reported(&mut self, backends: Vec<(Backend, Reported)>) {
        for (backend, reported) in backends {
            match reported {
                Reported::Removed => {
                    self.set_again.remove(&backend);
                    self.taken_back.push(backend);
                }
                // What is there again within the time that answers may take is what sockets are connected to.
                Reported::Set if self.is_waiting() => {
                    self.taken_back.retain(|removed| *removed != backend);
                    self.set_again.insert(backend);
                }
                Reported::Set => {}
            }
        }
    }

    /// The tables have what clusters reported: connected UDP sockets to backends that they removed, and that no frontend
    /// leads to any more, are ended. The peer of a TCP connection ends it, or its node's kernel does.
    pub(crate) fn end_removed<K: Kernel>(&mut self, tables: &mut Tables<K>, now: Instant) {
        for released in tables.take_released() {
            self.removed_backends.released(target(released));
        }
        let mut taken_back = std::mem::take(&mut self.taken_back);
        // Another service has it still: it lives, and so do sockets that got it before.
        taken_back.retain(|backend| !tables.is_used(backend));
        let removed = &mut self.removed_backends;
        let gone = taken_back.iter().flat_map(|backend| removed.taken_back(backend)).collect();
        self.end_udp(gone, now);
        let set_again = std::mem::take(&mut self.set_again);
        if let Some(terminator) = self.terminator.as_ref().filter(|_| !set_again.is_empty()) {
            terminator.restored(|removed| set_again.contains(removed));
        }
    }

    /// State of the previous run was removed from the tables: of what went while no agent looked there was no event.
    pub(crate) fn pruned(&mut self, core: &Core, now: Instant) {
        let known = core.reported_backends();
        let gone = self.removed_backends.gone(|backend| !known.contains(backend));
        self.end_udp(gone.into_iter().collect(), now);
    }

    fn is_waiting(&self) -> bool {
        !self.taken_back.is_empty()
            || self.terminator.as_ref().is_some_and(SocketTerminator::is_waiting)
    }

    fn end_udp(&self, mut gone: Vec<Target>, now: Instant) {
        gone.retain(|target| target.backend.protocol == Protocol::Udp);
        self.end(gone, Reason::Removed, now + ON_ITS_WAY);
    }

    /// Nothing has answered for long enough: sockets end. Or something answers again, and those stay that have not been ended
    /// yet.
    pub(crate) fn ending<K: Kernel>(
        &self,
        ending: &Ending,
        core: &Core,
        tables: &Tables<K>,
        now: Instant,
    ) {
        let (Ending::End { scope, .. } | Ending::Spare { scope }) = ending;
        let Some(id) = core.merge().id_of(scope.cluster()) else { return };
        let is_meant = |backend: &Backend| {
            backend.cluster == id
                && match scope {
                    Scope::Cluster(_) => true,
                    Scope::Node { node, address, .. } => {
                        backend.address.is_ipv4() == address.is_ipv4()
                            && core.merge().node_of(id, backend.address) == Some(node)
                    }
                }
        };
        match ending {
            Ending::Spare { .. } => {
                if let Some(terminator) = &self.terminator {
                    terminator.spare(is_meant);
                }
            }
            Ending::End { protocol, .. } => {
                let ends = |b: &Backend| b.protocol == *protocol && is_meant(b);
                let used = tables.backends_in(id).map(target).filter(|used| ends(&used.backend));
                let left = self.removed_backends.among(ends);
                self.end(used.chain(left).collect(), Reason::Unreachable, now);
            }
        }
    }
}

fn target(Numbered { id, backend }: Numbered) -> Target {
    Target { id, backend }
}
