//! What an operator should look at.

use std::{collections::BTreeMap, time::Instant};

use mesh_dataplane::{LbKey, Level, flag_of};
use mesh_model::lb::Frontend;
use mesh_reconcile::Failure;

use super::Node;

/// How many services are shown by name.
const SHOWN: usize = 8;

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
        let unmade = self.unmade_changes();
        unready(self)
            .into_iter()
            .chain(self.core.problems(Instant::now()))
            .chain(self.writers.programs.report().problems.clone())
            .chain(self.writers.snapshots.problems().cloned())
            .chain(self.attachment_problems.iter().cloned())
            .chain(self.writers.sockets.problem())
            .chain(self.health_problems())
            .chain(self.writers.probe_answer.report().problems.clone())
            .chain(self.writers.routes.problems())
            .chain(audit)
            .chain(tables)
            .chain(unmade)
            .collect()
    }

    /// Nodes that are used only where there are no others, and why nodes cannot be asked.
    fn health_problems(&self) -> Vec<String> {
        let report = self.writers.health.report();
        let unverified = report.clusters.iter().filter(|(_, health)| !health.unverified.is_empty());
        let unverified = unverified.map(|(name, health)| {
            let nodes: Vec<&str> = health.unverified.iter().take(5).map(AsRef::as_ref).collect();
            let more = if health.unverified.len() > nodes.len() { ", …" } else { "" };
            format!(
                "{} nodes of {name} have no address or have never answered a probe, while others of it do, so their pods \
                 are used only where there are no others: {}{more}",
                health.unverified.len(),
                nodes.join(", ")
            )
        });
        report.problems.iter().cloned().chain(unverified).collect()
    }

    /// Services that the tables do not have as they should, a line for each of the first few.
    fn unmade_changes(&self) -> Vec<String> {
        let mut by_frontend: BTreeMap<Frontend, (usize, &LbKey, &Failure)> = BTreeMap::new();
        for (key, failure) in self.lb.failures() {
            let entry = by_frontend.entry(key.frontend()).or_insert((0, key, failure));
            entry.0 += 1;
            // The others need the frontend itself.
            if matches!(key, LbKey::Frontend(_)) {
                (entry.1, entry.2) = (key, failure);
            }
        }
        if by_frontend.is_empty() {
            return Vec::new();
        }
        let line = |(frontend, (count, key, failure)): (&Frontend, &(usize, &LbKey, &Failure))| {
            let service = self.core.merge().service_of(frontend);
            let name =
                service.map_or("a service".into(), |s| format!("{}/{}", s.namespace, s.name));
            let what = match key {
                LbKey::Frontend(_) => "cannot be added".into(),
                LbKey::Backend(..) if *count == 1 => "a backend cannot be added".into(),
                LbKey::Backend(..) => format!("{count} backends cannot be added"),
                LbKey::Weights(_) => "its weights cannot be set".into(),
            };
            format!("{name} ({frontend}): {what}: {failure}")
        };
        let mut lines: Vec<String> = by_frontend.iter().take(SHOWN).map(line).collect();
        let more = by_frontend.len().saturating_sub(SHOWN);
        if more > 0 {
            lines.push(format!("{more} more services do not have all that they should"));
        }
        lines
    }
}
