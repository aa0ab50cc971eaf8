//! Whoever hangs on a backend that is gone is told so: his socket is ended.
//!
//! Called where changes are applied, and where nodes and clusters are said to be dead. What it asks for is done by a thread of `mesh-sockets`; nothing here waits.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use mesh_dataplane::{Numbered, Programs};
use mesh_model::{
    ClusterId, ClusterName, Protocol,
    lb::{Backend, ServiceDelta},
};
use mesh_sockets::{Counts, Netns, Reason, RemovedBackends, SocketTerminator, Target};

use super::Mesh;
use crate::metrics::SocketLabel;

/// The node's sockets, as far as our programs connected them.
#[derive(Debug)]
pub(crate) struct Sockets {
    terminator: Option<SocketTerminator>,
    /// Why none can be ended.
    problem: Option<String>,
    /// Whether TCP connections to a cluster that is cut are ended too.
    end_tcp: bool,
    removed_backends: RemovedBackends,
    /// What clusters took back since the last look.
    taken_back: Vec<Backend>,
    /// What a former life left in the tables was let go of since the last look.
    pub(super) pruned: bool,
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
        let (removed_backends, taken_back) = (RemovedBackends::default(), Vec::new());
        Self { terminator, problem, end_tcp, removed_backends, taken_back, pruned: false }
    }

    /// A cluster said something about a service.
    pub(super) fn hear(&mut self, delta: &ServiceDelta) {
        match delta {
            ServiceDelta::BackendRemoved { backend, .. } if backend.protocol == Protocol::Udp => {
                self.taken_back.push(*backend);
            }
            _ => {}
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

impl Mesh {
    /// Ends UDP sockets to backends that no frontend leads to any more and that their clusters took back.
    pub(super) fn end_sockets_to_the_gone(&mut self, now: Instant) {
        for released in self.tables.take_released() {
            if released.backend.protocol == Protocol::Udp {
                self.sockets.removed_backends.released(target(released));
            }
        }
        let removed_backends = &mut self.sockets.removed_backends;
        let taken_back = std::mem::take(&mut self.sockets.taken_back);
        let mut gone: Vec<Target> =
            taken_back.iter().flat_map(|backend| removed_backends.taken_back(backend)).collect();
        // Of what went while no agent looked, nobody was told.
        if std::mem::take(&mut self.sockets.pruned) {
            let services = self.merge.services().map(|(service, ..)| service);
            let known = services.flat_map(|service| self.merge.backends_of(service));
            let known: HashSet<Backend> = known.map(|(backend, ..)| backend).collect();
            gone.extend(removed_backends.gone(|backend| !known.contains(backend)));
        }
        self.name_namespaces(!gone.is_empty());
        self.sockets.end(gone, Reason::Removed, now + ON_ITS_WAY);
    }

    /// A cluster is cut: whoever is connected to its backends is told so. Or it is back, and whoever was not told yet stays.
    /// TCP connections end only where somebody else answers: where nobody does, it may be our own way out that is cut, and
    /// they outlive that.
    pub(super) fn sockets_of_cluster(&mut self, name: &ClusterName, cut: bool, now: Instant) {
        let Some(id) = self.merge.id_of(name) else { return };
        if !cut {
            return self.spare_sockets(|backend| backend.cluster == id);
        }
        let health = self.health.prober.report();
        let mut others = health.clusters.iter().filter(|(other, _)| *other != name);
        let tcp = self.sockets.end_tcp && others.any(|(_, of)| of.answering > 0);
        self.end_sockets_to_the_unreachable(id, |_| true, tcp, now);
    }

    /// A node is dead, or is back. TCP connections to it are left to themselves: it may be busy, and they outlive that.
    pub(super) fn sockets_of_node(
        &mut self,
        name: &ClusterName,
        node: &str,
        alive: bool,
        now: Instant,
    ) {
        let Some(id) = self.merge.id_of(name) else { return };
        let on_it = |used: &Numbered| self.merge.node_of(id, used.backend.address) == Some(node);
        let backends = self.tables.backends_in(id).filter(on_it);
        let backends: HashSet<Backend> = backends.map(|used| used.backend).collect();
        match alive {
            true => self.spare_sockets(|backend| backends.contains(backend)),
            false => {
                self.end_sockets_to_the_unreachable(id, |b| backends.contains(b), false, now);
            }
        }
    }

    fn end_sockets_to_the_unreachable(
        &mut self,
        cluster: ClusterId,
        is_meant: impl Fn(&Backend) -> bool,
        tcp: bool,
        now: Instant,
    ) {
        let used = self.tables.backends_in(cluster).map(target);
        let ends = |used: &Target| tcp || used.backend.protocol == Protocol::Udp;
        let used = used.filter(|used| ends(used) && is_meant(&used.backend));
        let left =
            self.sockets.removed_backends.among(|left| left.cluster == cluster && is_meant(left));
        let targets: Vec<Target> = used.chain(left).collect();
        self.name_namespaces(!targets.is_empty());
        self.sockets.end(targets, Reason::Unreachable, now);
    }

    fn spare_sockets(&self, back: impl Fn(&Backend) -> bool) {
        if let Some(terminator) = &self.sockets.terminator {
            terminator.spare(back);
        }
    }

    /// Before sockets are ended: the namespaces to look through, if pods came or went since.
    fn name_namespaces(&mut self, soon: bool) {
        if let Some(terminator) = self.sockets.terminator.as_ref().filter(|_| soon)
            && std::mem::take(&mut self.pods.moved)
        {
            let pods = self.pods.table.iter().map(|(attachment, _)| Netns {
                path: attachment.netns.path.clone(),
                inode: attachment.netns.inode,
            });
            terminator.set_namespaces(pods.collect());
        }
    }

    pub(super) fn set_socket_metrics(&self) {
        let counts = self.sockets.counts();
        let ended = [("removed", counts.removed), ("unreachable", counts.unreachable)];
        for (reason, ended) in ended {
            for (protocol, count) in [("tcp", ended.tcp), ("udp", ended.udp)] {
                let label = SocketLabel { protocol, reason };
                self.metrics.sockets_ended.get_or_create(&label).set(count);
            }
        }
        self.metrics.socket_passes.set(counts.passes);
        self.metrics.socket_failures.set(counts.failures);
    }
}

fn target(Numbered { id, backend }: Numbered) -> Target {
    Target { id, backend }
}
