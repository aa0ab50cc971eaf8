//! Which sockets are ended because their backend is gone or cannot be reached. A thread of `mesh-sockets` ends them; nothing
//! here waits.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use mesh_core::{Core, ReachabilityChange};
use mesh_dataplane::{Kernel, Numbered, Programs, Tables};
use mesh_model::{ClusterId, Protocol, lb::Backend};
use mesh_pods::Pods;
use mesh_sockets::{Counts, Netns, Reason, RemovedBackends, SocketTerminator, Target};

use crate::prober::Prober;

/// The node's sockets, as far as our programs connected them.
#[derive(Debug)]
pub(crate) struct Sockets {
    terminator: Option<SocketTerminator>,
    /// Why none can be ended.
    problem: Option<String>,
    /// Whether TCP connections to a cluster that is cut are ended too.
    end_tcp: bool,
    removed_backends: RemovedBackends,
}

/// How long a request that is on its way to a backend may still be answered, once its cluster took it back.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

// === impl Sockets ===

impl Sockets {
    /// Has the programs' sockets looked after. Where the kernel cannot say which they are, none is ended.
    pub(crate) fn new(programs: &mut Programs, end_tcp: bool) -> Self {
        let terminator = programs
            .take_sockets()
            .map_err(io::Error::other)
            .and_then(|list| SocketTerminator::start(move || list.read()));
        let (terminator, problem) = match terminator {
            Ok(terminator) => (Some(terminator), None),
            Err(error) => (None, Some(format!("sockets of vanished backends stay: {error}"))),
        };
        Self { terminator, problem, end_tcp, removed_backends: RemovedBackends::default() }
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

    /// Clusters removed backends: connected UDP sockets to those that no frontend leads to any more are ended.
    pub(crate) fn removed<K: Kernel>(
        &mut self,
        removed: Vec<Backend>,
        tables: &mut Tables<K>,
        now: Instant,
    ) {
        for released in tables.take_released() {
            if released.backend.protocol == Protocol::Udp {
                self.removed_backends.released(target(released));
            }
        }
        let gone: Vec<Target> =
            removed.iter().flat_map(|backend| self.removed_backends.taken_back(backend)).collect();
        self.end(gone, Reason::Removed, now + ON_ITS_WAY);
    }

    /// State of the previous run was removed from the tables: of what went while no agent looked there was no event.
    pub(crate) fn pruned(&mut self, core: &Core, now: Instant) {
        let known = core.reported_backends();
        let gone = self.removed_backends.gone(|backend| !known.contains(backend));
        self.end(gone.into_iter().collect(), Reason::Removed, now + ON_ITS_WAY);
    }

    /// A cluster or node became unreachable: sockets to its backends are ended. Or it answers again, and those that are not
    /// ended yet stay. TCP connections to a cluster end only where another one answers: where none does, it may be our own
    /// way out that is cut, and they outlive that. Those to a node are left: it may be busy, and they outlive that too.
    pub(crate) fn reachability<K: Kernel>(
        &mut self,
        change: &ReachabilityChange,
        core: &Core,
        tables: &Tables<K>,
        prober: &Prober,
        now: Instant,
    ) {
        let (ReachabilityChange::Cluster { cluster, .. }
        | ReachabilityChange::Node { cluster, .. }) = change;
        let Some(id) = core.merge().id_of(cluster) else { return };
        match change {
            ReachabilityChange::Cluster { reachable: true, .. } => {
                self.spare(|backend| backend.cluster == id);
            }
            ReachabilityChange::Cluster { reachable: false, .. } => {
                let report = prober.report();
                let mut others = report.clusters.iter().filter(|(other, _)| *other != cluster);
                let tcp = self.end_tcp && others.any(|(_, of)| of.answering > 0);
                self.end_unreachable(id, |_| true, tcp, tables, now);
            }
            ReachabilityChange::Node { node, alive, .. } => {
                let on_it =
                    |used: &Numbered| core.merge().node_of(id, used.backend.address) == Some(node);
                let backends = tables.backends_in(id).filter(on_it);
                let backends: HashSet<Backend> = backends.map(|used| used.backend).collect();
                match alive {
                    true => self.spare(|backend| backends.contains(backend)),
                    false => {
                        self.end_unreachable(id, |b| backends.contains(b), false, tables, now);
                    }
                }
            }
        }
    }

    fn end_unreachable<K: Kernel>(
        &mut self,
        cluster: ClusterId,
        is_meant: impl Fn(&Backend) -> bool,
        tcp: bool,
        tables: &Tables<K>,
        now: Instant,
    ) {
        let used = tables.backends_in(cluster).map(target);
        let ends = |used: &Target| tcp || used.backend.protocol == Protocol::Udp;
        let used = used.filter(|used| ends(used) && is_meant(&used.backend));
        let left = self.removed_backends.among(|left| left.cluster == cluster && is_meant(left));
        let targets: Vec<Target> = used.chain(left).collect();
        self.end(targets, Reason::Unreachable, now);
    }

    fn spare(&self, back: impl Fn(&Backend) -> bool) {
        if let Some(terminator) = &self.terminator {
            terminator.spare(back);
        }
    }
}

fn target(Numbered { id, backend }: Numbered) -> Target {
    Target { id, backend }
}
