//! What is counted, set when a scraper may look.

use std::sync::atomic::Ordering;

use super::Node;
use crate::metrics::{Metrics, PeerLabel, PodLabel, SocketLabel, TableLabel};

impl Node {
    pub(crate) fn set_metrics(&self, metrics: &Metrics) {
        let count = |n: usize| n.try_into().unwrap_or(u64::MAX);
        for (name, follower) in &self.followers {
            let label = PeerLabel { peer: name.to_string() };
            let status = follower.status.borrow();
            let kept = self.core.merge().kept(name);
            metrics.peer_ready.get_or_create(&label).set(status.is_synced().into());
            metrics.peer_reconnects.get_or_create(&label).set(status.reconnects);
            metrics
                .peer_rejected
                .get_or_create(&label)
                .set(status.rejected + self.core.refused(name).count);
            metrics.peer_records.get_or_create(&label).set(kept.keys);
            metrics.peer_record_bytes.get_or_create(&label).set(kept.bytes);
            let quarantined = self.core.quarantined(name).is_some();
            metrics.peer_quarantined.get_or_create(&label).set(quarantined.into());
        }
        let pods = self.core.pod_counts();
        for (state, n) in [("bound", pods.bound), ("waiting", pods.waiting)] {
            metrics.pods.get_or_create(&PodLabel { state }).set(count(n));
        }
        self.set_socket_metrics(metrics);
        let audit = self.audit();
        metrics.audit_passes.inner().store(audit.passes, Ordering::Relaxed);
        metrics.audit_repairs.inner().store(audit.repairs, Ordering::Relaxed);
        metrics.table_writes.set(self.lb.tables().writes());
        for level in self.levels() {
            let label = TableLabel { table: level.map };
            metrics.table_used.get_or_create(&label).set(level.used.into());
            metrics.table_size.get_or_create(&label).set(level.size.into());
            match level.full_in {
                Some(full_in) => {
                    metrics.table_full_in.get_or_create(&label).set(full_in.as_secs());
                }
                None => {
                    metrics.table_full_in.remove(&label);
                }
            }
        }
        let report = self.writers.health.report();
        let counts = report.counts;
        metrics.probes_sent.set(counts.sent);
        metrics.probes_answered.set(counts.answered);
        metrics.probes_refused.set(counts.refused);
        metrics.node_deaths.set(counts.deaths);
        metrics.node_returns.set(counts.returns);
        metrics.node_relapses.set(counts.damped);
        metrics.cluster_cuts.set(counts.cuts);
        metrics.addresses_in_use.set(report.in_use.into());
        metrics.detection.set(u64::try_from(report.detection.as_millis()).unwrap_or(u64::MAX));
        for (name, health) in &report.clusters {
            let label = PeerLabel { peer: name.to_string() };
            metrics.nodes_dead.get_or_create(&label).set(count(health.dead.len()));
            metrics.nodes_without_agent.get_or_create(&label).set(count(health.without_agent));
            metrics.nodes_damped.get_or_create(&label).set(count(health.damped));
            metrics.cut.get_or_create(&label).set(self.core.is_unreachable(name).into());
        }
        let held = self.lb.tables().inherited();
        metrics.inherited_frontends.set(count(held.frontends));
        metrics.inherited_backends.set(count(held.backends));
        metrics.failed_changes.set(count(self.lb.status().failing));
        metrics.file_watch_fallback.set(mesh_files::watch_fallback().is_some().into());
        let routes = self.writers.routes.table();
        metrics.routes.set(count(routes.len()));
        metrics.failed_routes.set(count(routes.not_in_place().count()));
    }

    fn set_socket_metrics(&self, metrics: &Metrics) {
        let counts = self.writers.sockets.counts();
        let ended = [("removed", counts.removed), ("unreachable", counts.unreachable)];
        for (reason, ended) in ended {
            for (protocol, count) in [("tcp", ended.tcp), ("udp", ended.udp)] {
                let label = SocketLabel { protocol, reason };
                metrics.sockets_ended.get_or_create(&label).set(count);
            }
        }
        metrics.socket_passes.set(counts.passes);
        metrics.socket_failures.set(counts.failures);
    }
}
