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

mod metrics_collect;
mod problems;

pub(crate) use problems::{RecentRepairs, unready};

/// The core, its followers and its writers.
pub(crate) struct Node {
    pub(crate) core: Core,
    pub(crate) followers: BTreeMap<ClusterName, Follower>,
    pub(crate) lb: LbWriter<KernelMaps>,
    pub(crate) writers: Writers,
    pub(crate) attachment_problems: Vec<String>,
    pub(crate) forecast: Forecast,
    pub(crate) audit: Audit,
    pub(crate) recent_repairs: RecentRepairs,
}

/// What does what is wanted elsewhere.
pub(crate) struct Writers {
    pub(crate) health: Health,
    pub(crate) programs: ProgramsHandle,
    pub(crate) routes: RouteWriters,
    pub(crate) probe_answer: ProbeAnswerHandle,
    pub(crate) snapshots: Snapshots,
    pub(crate) sockets: BackendSockets,
    pub(crate) remember: mpsc::UnboundedSender<(Attachment, Identity)>,
    /// Whether it matters if a kube-proxy runs.
    pub(crate) kube_proxy: watch::Sender<bool>,
}

/// What audits found, which should be nothing.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub(crate) passes: u64,
    pub(crate) repairs: u64,
    /// The last one that was not in vain, or that failed.
    pub(crate) last: Option<String>,
}

impl Node {
    /// The state of a cluster's follower.
    pub(crate) fn status(&self, name: &ClusterName) -> Status {
        self.followers
            .get(name)
            .map(|follower| follower.status.borrow().clone())
            .unwrap_or_default()
    }

    /// What all audits found.
    pub(crate) fn audit(&self) -> Audit {
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
    pub(crate) fn may_be_routed(&self, route: &Route) -> bool {
        let report = self.writers.health.report();
        let of_cluster = report.clusters.get(&route.cluster);
        of_cluster.is_some_and(|health| {
            health.all() > health.never_answered && !health.unverified.contains(&*route.node)
        })
    }

    /// How full the tables are, and when they will be.
    pub(crate) fn levels(&self) -> impl Iterator<Item = Level> + use<> {
        self.forecast.levels(&self.lb.tables().occupancy(), std::time::Instant::now()).into_iter()
    }
}
