//! This node, as everything that looks at it sees it: what clusters report, what the kernel has of it, and how the writers
//! stand.

use std::collections::BTreeMap;

use mesh_core::Core;
use mesh_dataplane::{Forecast, KernelMaps, LbWriter, Level};
use mesh_follow::Status;
use mesh_health::Health;
use mesh_hooks::{ProbeAnswerHandle, ProgramsHandle};
use mesh_model::{ClusterName, Identity, lb::Route};
use mesh_peers::Follower;
use mesh_pods::Attachment;
use mesh_routes::RouteWriters;
use mesh_sockets::BackendSockets;
use mesh_state_dir::Snapshots;
use tokio::sync::{mpsc, watch};

mod condition;
mod metrics;
mod phases;
mod problems;

pub use phases::{Relation, phases};
pub use problems::{RecentRepairs, unready};

/// The core, its followers and its writers.
pub struct Node {
    /// What is wanted.
    pub core: Core,
    /// The followed clusters, the local one among them.
    pub followers: BTreeMap<ClusterName, Follower>,
    /// The kernel's tables of services.
    pub lb: LbWriter<KernelMaps>,
    /// The other writers.
    pub writers: Writers,
    /// What is wrong with the files of attachments.
    pub attachment_problems: Vec<String>,
    /// When the tables will be full.
    pub forecast: Forecast,
    /// What audits of the tables found.
    pub audit: Audit,
    /// Whether something was put right lately.
    pub recent_repairs: RecentRepairs,
}

/// What does what is wanted elsewhere.
pub struct Writers {
    /// The prober, and the words of nodes that programs read.
    pub health: Health,
    /// The programs at their hooks.
    pub programs: ProgramsHandle,
    /// Routes and masquerading.
    pub routes: RouteWriters,
    /// The program that answers probes.
    pub probe_answer: ProbeAnswerHandle,
    /// What is kept on disk for the next run.
    pub snapshots: Snapshots,
    /// Sockets that are to be ended.
    pub sockets: BackendSockets,
    /// Identities that attachments got, which their files keep.
    pub remember: mpsc::UnboundedSender<(Attachment, Identity)>,
    /// Whether it matters if a kube-proxy runs.
    pub kube_proxy: watch::Sender<bool>,
}

/// What audits found, which should be nothing.
#[derive(Debug, Default)]
pub struct Audit {
    /// How often all was compared.
    pub passes: u64,
    /// How many entries were put right.
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

    /// What all audits found.
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
