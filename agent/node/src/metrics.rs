//! Sets the metrics when they may be scraped.

use std::{
    sync::atomic::Ordering,
    time::{Instant, UNIX_EPOCH},
};

use mesh_metrics::{CertificateLabel, KindLabel, Metrics, PeerLabel, SocketLabel};
use mesh_model::ClusterName;
use prometheus_client::metrics::counter::Counter;

use crate::Node;

impl Node {
    /// Sets all metrics to what is so now.
    pub fn set_metrics(&self, metrics: &Metrics, now: Instant) {
        self.set_peer_metrics(metrics, now);
        self.set_health_metrics(metrics);
        self.set_table_metrics(metrics);
        self.set_socket_metrics(metrics);
        metrics.problems.set(count(self.problems(now).len()));
        metrics.staleness_budget.set(self.core.staleness_budget().as_secs());
        metrics.local_last_seen.set(self.core.writer_last_seen(now).as_secs_f64());
        metrics.local_stale.set(self.core.is_writer_away(now).into());
        let pods = self.core.pod_counts();
        let pods = [("bound", pods.bound), ("waiting", pods.waiting)];
        metrics.pods.set(pods.map(|(kind, pods)| (KindLabel { kind }, count(pods))));
        let audit = self.audit();
        store(&metrics.audit_passes, audit.passes);
        store(&metrics.audit_repairs, audit.repairs);
        set_file_watch(metrics);
        metrics.addresses_contested.set(count(self.core.merge().contested()));
        let routes = self.writers.routes.table();
        metrics.routes.set(count(routes.len()));
        metrics.failed_routes.set(count(routes.not_in_place().count()));
    }

    fn set_peer_metrics(&self, metrics: &Metrics, now: Instant) {
        let (peers, core) = (&metrics.peers, &self.core);
        let status = |name: &ClusterName| self.status(name);
        peers.ready.set(self.each_peer(|name| status(name).is_synced().into()));
        peers.reconnects.set(self.each_peer(|name| status(name).reconnects));
        let refused = |name: &ClusterName| status(name).rejected + core.refused(name).count;
        peers.refused.set(self.each_peer(refused));
        peers.records.set(self.each_peer(|name| core.merge().kept(name).keys));
        let outside = |name: &ClusterName| count(core.merge().strays_of(name));
        peers.outside_ranges.set(self.each_peer(outside));
        peers.record_bytes.set(self.each_peer(|name| core.merge().kept(name).bytes));
        let in_tables = self.lb.tables().backends_by_cluster();
        let backends = |name: &ClusterName| {
            let id = core.merge().id_of(name);
            id.and_then(|id| in_tables.get(&id).copied()).unwrap_or_default().into()
        };
        peers.backends.set(self.each_peer(backends));
        peers.quarantined.set(self.each_peer(|name| core.quarantined(name).is_some().into()));
        let last_seen = |name: &ClusterName| {
            let away = core.away(name);
            away.map_or(0.0, |away| now.saturating_duration_since(away.since).as_secs_f64())
        };
        peers.last_seen.set(self.each_remote(last_seen));
        let stale = |name: &ClusterName| core.away(name).is_some_and(|away| away.stale).into();
        peers.stale.set(self.each_remote(stale));
        peers.drained.set(self.each_remote(|name| core.is_drained(name).into()));
        let by_operator = |name: &ClusterName| status(name).drained.cluster.into();
        peers.drained_by_operator.set(self.each_peer(by_operator));
        let nodes = |name: &ClusterName| count(status(name).drained.nodes.len());
        peers.drained_nodes.set(self.each_peer(nodes));
        peers.unreachable.set(self.each_peer(|name| core.is_unreachable(name).into()));
        let certificates = self.followers.iter().flat_map(|(peer, follower)| {
            follower.certificates().into_iter().map(|(file, not_after)| {
                let label =
                    CertificateLabel { file: file.display().to_string(), peer: peer.to_string() };
                let since = not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
                (label, since.as_secs_f64())
            })
        });
        peers.certificates.set(certificates);
    }

    /// A value of each followed cluster.
    fn each_peer<V>(
        &self,
        value: impl Fn(&ClusterName) -> V,
    ) -> impl Iterator<Item = (PeerLabel, V)> {
        self.followers.keys().map(move |name| (PeerLabel { peer: name.to_string() }, value(name)))
    }

    /// The same without the local cluster: what that reported never expires, and how long it is away is not measured.
    fn each_remote<V>(
        &self,
        value: impl Fn(&ClusterName) -> V,
    ) -> impl Iterator<Item = (PeerLabel, V)> {
        let local = self.core.local().as_str();
        self.each_peer(value).filter(move |(label, _)| label.peer != local)
    }

    fn set_health_metrics(&self, metrics: &Metrics) {
        let (report, health) = (self.writers.health.report(), &metrics.health);
        let counts = report.counts;
        store(&health.probes_sent, counts.sent);
        store(&health.probes_answered, counts.answered);
        store(&health.probes_refused, counts.refused);
        store(&health.deaths, counts.deaths);
        store(&health.returns, counts.returns);
        store(&health.relapses, counts.damped);
        store(&health.unreachable, counts.cuts);
        health.detection.set(report.detection.as_secs_f64());
        health.addresses_in_use.set(report.in_use.into());
        let of = |name: &ClusterName| report.clusters.get(name).cloned().unwrap_or_default();
        health.dead.set(self.each_peer(|name| count(of(name).dead.len())));
        health.without_agent.set(self.each_peer(|name| count(of(name).without_agent)));
        health.damped.set(self.each_peer(|name| count(of(name).damped)));
    }

    fn set_table_metrics(&self, metrics: &Metrics) {
        let tables = &metrics.tables;
        store(&tables.writes, self.lb.tables().writes());
        let levels: Vec<_> = self.levels().collect();
        let label = |kind| KindLabel { kind };
        tables.used.set(levels.iter().map(|level| (label(level.map), level.used.into())));
        tables.max.set(levels.iter().map(|level| (label(level.map), level.size.into())));
        let time_to_full =
            levels.iter().filter_map(|level| Some((label(level.map), level.full_in?.as_secs())));
        tables.time_to_full.set(time_to_full);
        let inherited = self.lb.tables().inherited();
        tables.inherited_frontends.set(count(inherited.frontends));
        tables.inherited_backends.set(count(inherited.backends));
        let empty = self.lb.tables().frontends_without_backends();
        tables.frontends_without_backends.set(count(empty));
        tables.failing.set(count(self.lb.status().failing));
    }

    fn set_socket_metrics(&self, metrics: &Metrics) {
        let counts = self.writers.sockets.counts();
        let ended = [("removed", counts.removed), ("unreachable", counts.unreachable)];
        let ended = ended.into_iter().flat_map(|(reason, ended)| {
            let kinds = [("tcp", ended.tcp), ("udp", ended.udp)];
            kinds.map(|(kind, count)| (SocketLabel { kind, reason }, count))
        });
        metrics.sockets_ended.set(ended);
        store(&metrics.socket_scans, counts.passes);
        store(&metrics.socket_failures, counts.failures);
    }
}

/// Whether folders of this process are looked at and not watched.
fn set_file_watch(metrics: &Metrics) {
    metrics.file_watch_fallback.set(mesh_files::watch_fallback().is_some().into());
}

/// Sets a counter to what was counted elsewhere.
fn store(counter: &Counter, counted: u64) {
    counter.inner().store(counted, Ordering::Relaxed);
}

fn count(n: usize) -> u64 {
    n.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The only test of this crate that watches folders: there is no instance from then on.
    #[test]
    fn folders_that_cannot_be_watched_are_a_problem_and_a_metric() {
        let metrics = Metrics::default();
        set_file_watch(&metrics);
        assert_eq!(metrics.file_watch_fallback.get(), 0);
        mesh_files::exhaust_instances();
        let watch = mesh_files::FolderWatch::shallow(&std::env::temp_dir());
        set_file_watch(&metrics);
        assert_eq!(metrics.file_watch_fallback.get(), 1);
        let message = mesh_files::watch_fallback().unwrap();
        let kind = mesh_core::ProblemKind::PeerFile;
        let problem = mesh_core::Problem { kind, peer: None, message };
        let problem = crate::problems::core_problem(problem);
        assert_eq!(problem.code, "file-watch");
        assert!(problem.remedy.contains("fs.inotify.max_user_instances"), "{problem:?}");
        drop(watch);
    }
}
