//! Problems for an operator.

use std::time::{Duration, Instant};

use mesh_admin::{ProblemCode, v1::Problem};
use mesh_core::ProblemKind;
use mesh_dataplane::{Level, larger_table};

use crate::{Node, PolicyWriter};

/// Repairs older than this are no news; the counters contain them.
const NEWS: Duration = Duration::from_secs(600);

/// When the last of some repairs was seen.
#[derive(Debug, Default)]
pub struct RecentRepairs {
    total: u64,
    last: Option<Instant>,
}

/// Why the agent is not ready: its local cluster's etcd, and programs that are not in use yet. A peer is never a
/// reason.
pub fn unready(node: &Node) -> Vec<String> {
    unready_problems(node).map(|problem| problem.message).collect()
}

fn unready_problems(node: &Node) -> impl Iterator<Item = Problem> + use<> {
    let is_followed = node.followers.contains_key(node.core.local());
    let local = node.status(node.core.local());
    let local = match (&local.failure, local.is_complete()) {
        (_, true) => None,
        (Some(failure), false) => Some(format!("the local cluster's etcd: {failure}")),
        (None, false) if is_followed => Some("the local cluster's etcd is not synced yet".into()),
        (None, false) => Some(
            "the local cluster's etcd is not known: waiting for the file that --local-config names. In Kubernetes the local \
             apiserver writes it, to the ConfigMap clustermesh-local"
                .into(),
        ),
    };
    let local = local.map(|why| ProblemCode::LocalEtcd.problem(why));
    let programs = node.writers.programs.report().unready.clone();
    local.into_iter().chain(programs.map(|why| ProblemCode::Programs.problem(why)))
}

/// A problem of the core, with what to do.
pub(crate) fn core_problem(problem: mesh_core::Problem) -> Problem {
    let code = match problem.kind {
        ProblemKind::PeerFile => ProblemCode::PeerFile,
        ProblemKind::RecordsRefused => ProblemCode::RecordsRefused,
        ProblemKind::MissingGrant => ProblemCode::MissingGrant,
        ProblemKind::AddressesContested => ProblemCode::AddressesContested,
        ProblemKind::AddressesOutside => ProblemCode::AddressesOutside,
        ProblemKind::PeerStale => ProblemCode::PeerStale,
        ProblemKind::LocalApiserver => ProblemCode::LocalApiserver,
        ProblemKind::PodsWaiting => ProblemCode::PodsWaiting,
        ProblemKind::KubeProxy => ProblemCode::KubeProxy,
    };
    match &problem.peer {
        Some(peer) => code.of_peer(peer.as_str(), problem.message),
        // The reason that files are not watched comes with what is wrong with them.
        None if Some(&problem.message) == mesh_files::watch_fallback().as_ref() => {
            ProblemCode::FileWatch.problem(problem.message)
        }
        None => code.problem(problem.message),
    }
}

// === impl RecentRepairs ===

impl RecentRepairs {
    /// Takes the total so far.
    pub fn observe(&mut self, total: u64, now: Instant) {
        if total > self.total {
            (self.total, self.last) = (total, Some(now));
        }
    }

    fn are_news(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < NEWS)
    }
}

// === impl Node ===

impl Node {
    /// All problems, what keeps the agent from being ready first.
    pub fn problems(&self, now: Instant) -> Vec<Problem> {
        let coded = |code: ProblemCode| move |message: String| code.problem(message);
        let tables = self.levels().filter(Level::is_high);
        let tables = tables
            .map(|level| format!("{level}: {}", larger_table(level.map, level.size, level.size)));
        let merge = self.core.merge();
        let unmade = self.lb.problems(|frontend| {
            merge.service_of(frontend).map(|s| format!("{}/{}", s.namespace, s.name))
        });
        let routes = self.writers.routes.problems(|route| self.may_be_routed(route));
        let health = self.writers.health.report();
        let (programs, answer) =
            (self.writers.programs.report(), self.writers.probe_answer.report());
        unready_problems(self)
            .chain(self.core.problems(now).into_iter().map(core_problem))
            .chain(programs.problems.iter().cloned().map(coded(ProblemCode::Programs)))
            .chain(self.writers.snapshots.problems().cloned().map(coded(ProblemCode::Snapshots)))
            .chain(self.attachment_problems.iter().cloned().map(coded(ProblemCode::Attachments)))
            .chain(self.writers.sockets.problem().map(coded(ProblemCode::Sockets)))
            .chain(health.problems.iter().cloned().map(coded(ProblemCode::Health)))
            .chain(health.unverified().map(|(cluster, message)| {
                ProblemCode::NodesUnverified.of_peer(cluster.as_str(), message)
            }))
            .chain(answer.problems.iter().cloned().map(coded(ProblemCode::ProbeAnswer)))
            .chain(self.policy_problems().map(coded(ProblemCode::PolicyNotEnforced)))
            .chain(routes.into_iter().map(coded(ProblemCode::Routes)))
            .chain(self.repairs(now).into_iter().map(coded(ProblemCode::Repaired)))
            .chain(tables.map(coded(ProblemCode::TableFilling)))
            .chain(unmade.into_iter().map(coded(ProblemCode::TableFull)))
            .collect()
    }

    /// What of policies is not enforced.
    fn policy_problems(&self) -> impl Iterator<Item = String> {
        self.policy.iter().flat_map(|PolicyWriter { enforcer, interfaces, .. }| {
            let refused = enforcer.refused();
            let refused = refused.first().map(|(policy, why)| {
                let count = refused.len();
                format!("policies that are not in force: {count}, first {policy}: {why}")
            });
            let unwritten =
                enforcer.problem().map(|why| format!("policies are not written: {why}"));
            refused.into_iter().chain(unwritten).chain(interfaces.problem())
        })
    }

    /// Records the repairs up to now.
    pub fn observe_repairs(&mut self, now: Instant) {
        let routes: u64 = self.writers.routes.repairs().into_iter().map(|(count, _)| count).sum();
        let total = self.audit().repairs + routes;
        self.recent_repairs.observe(total, now);
    }

    /// The recent repairs.
    fn repairs(&self, now: Instant) -> Vec<String> {
        if !self.recent_repairs.are_news(now) {
            return Vec::new();
        }
        let audit = self.audit();
        let tables = (audit.repairs > 0).then(|| {
            let last = audit.last.unwrap_or_default();
            format!(
                "audits repaired {} entries of the tables and hooks, last {last}",
                audit.repairs
            )
        });
        let routes = self.writers.routes.repairs().into_iter().map(|(repairs, what)| {
            format!("{repairs} {what} were changed by another program and repaired")
        });
        tables.into_iter().chain(routes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_is_news_for_a_while() {
        let (mut repairs, now) = (RecentRepairs::default(), Instant::now());
        repairs.observe(0, now);
        assert!(!repairs.are_news(now));
        repairs.observe(2, now);
        repairs.observe(2, now + NEWS / 2);
        assert!(repairs.are_news(now + NEWS / 2));
        assert!(!repairs.are_news(now + NEWS));
        repairs.observe(3, now + NEWS);
        assert!(repairs.are_news(now + NEWS));
    }
}
