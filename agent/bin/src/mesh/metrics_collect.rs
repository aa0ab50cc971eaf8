//! What is counted, set when somebody may look.

use super::Mesh;
use crate::metrics::{PeerLabel, PodLabel, TableLabel};

impl Mesh {
    pub(super) fn set_metrics(&self) {
        let count = |n: usize| n.try_into().unwrap_or(u64::MAX);
        for (name, handle) in &self.peers {
            let label = PeerLabel { peer: name.to_string() };
            let status = handle.status.borrow();
            let told = self.merge.told(name);
            self.metrics.peer_ready.get_or_create(&label).set(status.is_synced().into());
            self.metrics.peer_reconnects.get_or_create(&label).set(status.reconnects);
            self.metrics
                .peer_rejected
                .get_or_create(&label)
                .set(status.rejected + self.refused_count(name));
            self.metrics.peer_records.get_or_create(&label).set(told.keys);
            self.metrics.peer_record_bytes.get_or_create(&label).set(told.bytes);
            let quarantined = self.quarantined.contains_key(name);
            self.metrics.peer_quarantined.get_or_create(&label).set(quarantined.into());
        }
        let pods = self.pods.counts();
        for (state, n) in [("bound", pods.bound), ("waiting", pods.waiting)] {
            self.metrics.pods.get_or_create(&PodLabel { state }).set(count(n));
        }
        self.set_socket_metrics();
        self.metrics.table_writes.set(self.tables.writes());
        for level in self.levels() {
            let label = TableLabel { table: level.map };
            self.metrics.table_used.get_or_create(&label).set(level.used.into());
            self.metrics.table_size.get_or_create(&label).set(level.size.into());
            match level.full_in {
                Some(full_in) => {
                    self.metrics.table_full_in.get_or_create(&label).set(full_in.as_secs());
                }
                None => {
                    self.metrics.table_full_in.remove(&label);
                }
            }
        }
        let report = self.health.prober.report();
        let counts = report.counts;
        let metrics = &self.metrics;
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
            metrics.cut.get_or_create(&label).set(self.health.is_cut(name).into());
        }
        let held = self.tables.inherited();
        self.metrics.inherited_frontends.set(count(held.frontends));
        self.metrics.inherited_backends.set(count(held.backends));
        self.metrics.failed_changes.set(count(self.failed.len()));
        self.metrics.routes.set(count(self.routes.routes().count()));
        self.metrics
            .failed_routes
            .set(count(self.routes.routes().filter(|(_, failure)| failure.is_some()).count()));
    }
}
