//! Which sockets are ended because their backend is gone or cannot be reached. A thread of `mesh-sockets` ends them; nothing
//! here waits.

use std::{
    io,
    time::{Duration, Instant},
};

use mesh_core::Core;
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
            .and_then(|list| SocketTerminator::start(move || list.read()));
        let (terminator, problem) = match terminator {
            Ok(terminator) => (Some(terminator), None),
            Err(error) => (None, Some(format!("sockets of vanished backends stay: {error}"))),
        };
        Self { terminator, problem, removed_backends: RemovedBackends::default() }
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

    /// Clusters removed backends: connected UDP sockets to those that no frontend leads to any more are ended. The peer of a
    /// TCP connection ends it, or its node's kernel does.
    pub(crate) fn removed<K: Kernel>(
        &mut self,
        removed: Vec<Backend>,
        tables: &mut Tables<K>,
        now: Instant,
    ) {
        for released in tables.take_released() {
            self.removed_backends.released(target(released));
        }
        let gone = removed.iter().flat_map(|backend| self.removed_backends.taken_back(backend));
        self.end_udp(gone.collect(), now);
    }

    /// State of the previous run was removed from the tables: of what went while no agent looked there was no event.
    pub(crate) fn pruned(&mut self, core: &Core, now: Instant) {
        let known = core.reported_backends();
        let gone = self.removed_backends.gone(|backend| !known.contains(backend));
        self.end_udp(gone.into_iter().collect(), now);
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
