//! What an operator should look at.

use std::time::Instant;

use mesh_dataplane::{Level, flag_of};

use super::Node;

/// What keeps the agent from being ready: its local cluster's etcd, and programs that are not in use yet. A peer never does.
pub(crate) fn unready(node: &Node) -> Vec<String> {
    let local = node.status(node.core.local());
    let local = match (&local.failure, local.is_complete()) {
        (_, true) => None,
        (Some(failure), false) => Some(format!("the local cluster's etcd: {failure}")),
        (None, false) => Some("the local cluster's etcd is not synced yet".into()),
    };
    local.into_iter().chain(node.writers.programs.report().unready.clone()).collect()
}

impl Node {
    /// All problems, what keeps the agent from being ready first.
    pub(crate) fn problems(&self) -> Vec<String> {
        let audit = self.audit();
        let audit = (audit.repairs > 0).then(|| {
            let last = audit.last.unwrap_or_default();
            format!(
                "audits repaired {} entries of the tables and hooks, last {last}",
                audit.repairs
            )
        });
        let tables = self.levels().filter(Level::is_high);
        let tables = tables.map(|level| format!("{level} ({})", flag_of(level.map)));
        let merge = self.core.merge();
        let unmade = self.lb.problems(|frontend| {
            merge.service_of(frontend).map(|s| format!("{}/{}", s.namespace, s.name))
        });
        unready(self)
            .into_iter()
            .chain(self.core.problems(Instant::now()))
            .chain(self.writers.programs.report().problems.clone())
            .chain(self.writers.snapshots.problems().cloned())
            .chain(self.attachment_problems.iter().cloned())
            .chain(self.writers.sockets.problem())
            .chain(self.writers.health.report().all_problems())
            .chain(self.writers.probe_answer.report().problems.clone())
            .chain(self.writers.routes.problems(|route| self.may_be_routed(route)))
            .chain(audit)
            .chain(tables)
            .chain(unmade)
            .collect()
    }
}
