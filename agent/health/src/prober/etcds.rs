//! Asks the etcds of clusters whose nodes do not answer.

use std::time::Instant;

use mesh_model::ClusterName;

use super::{Prober, cluster::Cluster, etcd::EtcdCheck};

impl Prober {
    /// The clusters whose etcd is to get a keepalive.
    pub fn etcds_to_ask(&self, now: Instant) -> Vec<ClusterName> {
        let wants = |(name, cluster): &(&ClusterName, &Cluster)| {
            **name != self.local && cluster.wants_to_ask_etcd(now)
        };
        let undecided = self.undecided.iter().filter_map(|name| self.clusters.get_key_value(name));
        undecided.filter(wants).map(|(name, _)| name.clone()).collect()
    }

    /// An etcd was asked, or there is no connection to it; it answered so often before.
    pub fn etcd_asked(&mut self, name: &ClusterName, connected: bool, answers: u64, now: Instant) {
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.etcd = EtcdCheck::asked(connected, answers, now);
            if cluster.etcd.is_asked() {
                self.awaited.insert(name.clone());
            }
        }
    }

    /// The clusters whose etcd was asked and has not answered.
    pub fn etcds_awaited(&self) -> Vec<ClusterName> {
        self.awaited.iter().cloned().collect()
    }

    /// Takes the state of the connection to an etcd, and the number of its answers. Returns whether it has just
    /// answered.
    pub fn observe_etcd(
        &mut self,
        name: &ClusterName,
        connected: bool,
        answers: u64,
        now: Instant,
    ) -> bool {
        let Some(cluster) = self.clusters.get_mut(name) else { return false };
        let patience = cluster.etcd_patience();
        let answered = cluster.etcd.observe(connected, answers, patience, now);
        if answered {
            // The uplink works, whatever nodes do.
            self.self_check.note(now);
        }
        if !cluster.etcd.is_asked() {
            self.awaited.remove(name);
        }
        answered
    }

    /// Whether an etcd answers, if it was asked lately; if not, it may be asked.
    pub fn etcd_answers(&self, name: &ClusterName, now: Instant) -> Option<bool> {
        match self.clusters.get(name)?.etcd {
            // Not yet.
            EtcdCheck::Asked { .. } => Some(true),
            known => known.answers_since(None, now),
        }
    }
}
