//! The state of this node for its status, metrics and API: what clusters report, what the kernel has of it, and the
//! state of the writers.

use std::collections::BTreeMap;

use mesh_core::Core;
use mesh_dataplane::{Forecast, KernelMaps, LbWriter, Level};
use mesh_enforce::{Enforcer, Interfaces};
use mesh_follow::Status;
use mesh_health::Health;
use mesh_hooks::{ProbeAnswerHandle, ProgramsHandle};
use mesh_model::{ClusterName, Identity, RecordKind, lb::Route};
use mesh_peers::Follower;
use mesh_pods::Attachment;
use mesh_routes::{KubeProxyNeed, RouteWriters};
use mesh_sockets::BackendSockets;
use mesh_state_dir::Snapshots;
use tokio::sync::{mpsc, watch};

pub mod absences;
mod condition;
mod metrics;
mod phases;
mod problems;

pub use phases::{Relation, phases};
pub use problems::{RecentRepairs, unready};

/// The core, its followers and its writers.
pub struct Node {
    /// The wanted state.
    pub core: Core,
    /// The followed clusters, the local one among them.
    pub followers: BTreeMap<ClusterName, Follower>,
    /// The kernel's tables of services.
    pub lb: LbWriter<KernelMaps>,
    /// The other writers.
    pub writers: Writers,
    /// Errors in the files of attachments.
    pub attachment_problems: Vec<String>,
    /// When the tables will be full.
    pub forecast: Forecast,
    /// The findings of the tables' audits.
    pub audit: Audit,
    /// Repairs of the last minutes.
    pub recent_repairs: RecentRepairs,
    /// What enforces policies, where that is switched on.
    pub policy: Option<PolicyWriter>,
}

/// What enforces policies on this node's pods.
#[derive(Debug)]
pub struct PolicyWriter {
    /// The tables.
    pub enforcer: Enforcer,
    /// The programs at the interfaces of pods.
    pub interfaces: Interfaces,
    /// All that policies are about was known once in this run. Until then the programs of an earlier run judge, by what
    /// that run knew.
    pub is_filled: bool,
}

// === impl PolicyWriter ===

impl PolicyWriter {
    /// Has the pods judged that are under policy, as soon as the tables are filled.
    pub fn attach(&mut self, core: &Core) {
        self.is_filled = self.is_filled || knows_enough(core);
        if self.is_filled {
            self.interfaces.want(self.enforcer.wanted());
        }
    }
}

/// Whether the own cluster reported all that policies need, and each peer its addresses, in this run or the last one. A peer
/// that cannot be reached is not waited for: its addresses are unknown of it.
fn knows_enough(core: &Core) -> bool {
    use RecordKind::{Address, Identity, Pod, Policy};
    let merge = core.merge();
    let own = core.local();
    core.peers().all(|name| {
        if name == own {
            return [Policy, Pod, Identity, Address]
                .iter()
                .all(|kind| merge.is_confirmed(own, *kind));
        }
        let listed = [Identity, Address].iter().all(|kind| merge.is_confirmed(name, *kind));
        listed || merge.has_restored_addresses(name) || !core.connection(name).connected
    }) && core.peers().any(|name| name == own)
}

/// The tasks that write the wanted state elsewhere.
pub struct Writers {
    /// The prober, and the state words that programs read.
    pub health: Health,
    /// The programs at their hooks.
    pub programs: ProgramsHandle,
    /// Routes and masquerading.
    pub routes: RouteWriters,
    /// The program that answers probes.
    pub probe_answer: ProbeAnswerHandle,
    /// The files for the next run.
    pub snapshots: Snapshots,
    /// Sockets that are to be ended.
    pub sockets: BackendSockets,
    /// Identities that attachments got, which their files keep.
    pub remember: mpsc::UnboundedSender<(Attachment, Identity)>,
    /// Whether it matters if a kube-proxy runs.
    pub kube_proxy: watch::Sender<KubeProxyNeed>,
}

/// The findings of audits, of which there should be none.
#[derive(Debug, Default)]
pub struct Audit {
    /// How often all was compared.
    pub passes: u64,
    /// How many entries were repaired.
    pub repairs: u64,
    /// The last one that was not in vain, or that failed.
    pub last: Option<String>,
}

impl Node {
    /// The state of a cluster's follower.
    pub fn status(&self, name: &ClusterName) -> Status {
        self.followers
            .get(name)
            .map(|follower| follower.status.borrow().clone())
            .unwrap_or_default()
    }

    /// The findings of all audits.
    pub fn audit(&self) -> Audit {
        let words = self.writers.health.report().words;
        let hooks = self.writers.programs.report();
        Audit {
            passes: self.audit.passes,
            repairs: self.audit.repairs
                + hooks.repairs
                + words.repairs
                + self.writers.probe_answer.report().repairs,
            last: hooks.last_repair.clone().or_else(|| self.audit.last.clone()),
        }
    }

    /// Whether the network may lead to a route's next hop by itself: probes of nodes of that cluster were answered, or the
    /// first answer may still come, and this node is not one that has never answered.
    pub fn may_be_routed(&self, route: &Route) -> bool {
        let report = self.writers.health.report();
        let of_cluster = report.clusters.get(&route.cluster);
        of_cluster.is_some_and(|health| {
            health.all() > health.never_answered && !health.unverified.contains(&*route.node)
        })
    }

    /// How full the tables are, and when they will be.
    pub fn levels(&self) -> impl Iterator<Item = Level> + use<> {
        self.forecast.levels(&self.lb.tables().occupancy(), std::time::Instant::now()).into_iter()
    }
}
