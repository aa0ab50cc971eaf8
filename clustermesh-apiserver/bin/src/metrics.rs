//! The apiserver's metrics (`docs/metrics.md`).

use std::{collections::BTreeSet, sync::atomic::AtomicU64, time::UNIX_EPOCH};

use mesh_admin::metrics::{self, Gauges};
use mesh_certs::Credentials;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use crate::{
    cluster::PolicyView,
    writer::{Fill, ForeignWrite, Reason},
};

/// The label `reason`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    reason: &'static str,
}

/// The label `kind`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// The labels `kind` and `reason`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindReasonLabels {
    kind: &'static str,
    reason: &'static str,
}

/// The label with a file of certificates.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FileLabel {
    file: String,
}

/// The apiserver's metrics, `clustermesh_apiserver_…`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) errors: Counter,
    trouble: Family<ReasonLabel, Gauge>,
    troubles: Family<ReasonLabel, Counter>,
    foreign: Family<ReasonLabel, Counter>,
    pub(crate) foreign_repairs: Counter,
    pub(crate) refused_keys: Gauge<u64, AtomicU64>,
    pub(crate) etcd_size: Gauge<u64, AtomicU64>,
    pub(crate) etcd_quota: Gauge<u64, AtomicU64>,
    /// A family without labels instead of a gauge, so that it can be absent.
    etcd_time_to_full: Gauges<Vec<(String, String)>>,
    pub(crate) heartbeats: Counter,
    pub(crate) connected: Gauge,
    pub(crate) desired_keys: Gauge<u64, AtomicU64>,
    pub(crate) written_keys: Gauge<u64, AtomicU64>,
    pub(crate) objects: Gauge<u64, AtomicU64>,
    pub(crate) identities: Gauge<u64, AtomicU64>,
    pub(crate) identities_limit: Gauge<u64, AtomicU64>,
    pub(crate) manifest_problems: Gauge<u64, AtomicU64>,
    pub(crate) problems: Gauge<u64, AtomicU64>,
    pub(crate) drained: Gauge,
    policies: Family<KindLabel, Gauge<u64, AtomicU64>>,
    refused_policies: Family<KindReasonLabels, Gauge<u64, AtomicU64>>,
    pub(crate) drained_nodes: Gauge<u64, AtomicU64>,
    certificates: Gauges<FileLabel, f64>,
    pub(crate) file_watch_fallback: Gauge,
}

impl Metrics {
    /// All metrics, registered with their names and help.
    pub(crate) fn exported(&self) -> metrics::Metrics {
        let mut all = metrics::Metrics::new("clustermesh_apiserver", &[]);
        self.register_etcd(&mut all);
        for (name, help, gauge) in [
            (
                "problems",
                "Problems that `clustermesh status` shows of this apiserver",
                &self.problems,
            ),
            ("desired_keys", "Keys that the etcd should have", &self.desired_keys),
            (
                "written_keys",
                "Keys that the etcd has, with the value that they should have",
                &self.written_keys,
            ),
            ("objects", "Kubernetes objects from which keys are made", &self.objects),
            ("identities", "Allocated identity IDs", &self.identities),
            (
                "identities_limit",
                "Identity IDs that the cluster can allocate in total",
                &self.identities_limit,
            ),
            (
                "manifest_problems",
                "Problems of the source and its objects",
                &self.manifest_problems,
            ),
            ("drained_nodes", "Drained nodes of the cluster", &self.drained_nodes),
        ] {
            all.register(name, help, gauge.clone());
        }
        let help = "1 while the whole cluster is drained";
        all.register("drained", help, self.drained.clone());
        self.set_policies(&PolicyView::default());
        let help = "Policies that are exported to the cluster's nodes, by kind";
        all.register("policies", help, self.policies.clone());
        let help = "Policies of which something is refused, by kind and class of reasons; one with several classes counts in each";
        all.register("policies_refused", help, self.refused_policies.clone());
        let help = "Heartbeats written to the etcd, by default one a minute: they show peers that this apiserver runs";
        all.register("heartbeats", help, self.heartbeats.clone());
        let help = "1 while folders cannot be watched and are polled every second instead";
        all.register("file_watch_fallback", help, self.file_watch_fallback.clone());
        let help = "When the certificate in the file expires, in seconds since 1970; with several CAs in one file, the last one";
        all.register("certificate_not_after_timestamp_seconds", help, self.certificates.clone());
        all
    }

    fn register_etcd(&self, all: &mut metrics::Metrics) {
        all.register("etcd_puts", "Keys written to the etcd", self.puts.clone());
        all.register("etcd_deletes", "Keys deleted from the etcd", self.deletes.clone());
        let help = "Connections to the etcd, and attempts at one, that ended with an error";
        all.register("etcd_errors", help, self.errors.clone());
        let help = "1 for each reason for which the etcd cannot be written to now, else 0";
        all.register("etcd_trouble", help, self.trouble.clone());
        let help = "Failures of the etcd, and changes in it that had to be repaired, by reason";
        all.register("etcd_troubles", help, self.troubles.clone());
        let help = "Writes of other programs to keys of this cluster, by what they did";
        all.register("etcd_foreign_writes", help, self.foreign.clone());
        let help = "Keys that were repaired after another program changed them";
        all.register("etcd_foreign_repairs", help, self.foreign_repairs.clone());
        let help = "Keys whose value the etcd does not accept, because it is too large";
        all.register("etcd_refused_keys", help, self.refused_keys.clone());
        all.register("etcd_size_bytes", "Size of the etcd's database file", self.etcd_size.clone());
        let help = "Quota of the etcd's database file";
        all.register("etcd_quota_bytes", help, self.etcd_quota.clone());
        let help = "Time until the etcd is full if it continues to grow like this; absent if it does not grow, and in the first ten minutes";
        all.register("etcd_time_to_full_seconds", help, self.etcd_time_to_full.clone());
        let help = "1 while the apiserver is connected to the etcd";
        all.register("etcd_connected", help, self.connected.clone());
        // Export all reasons from the start, with 0.
        for label in Reason::ALL.into_iter().flat_map(labels) {
            let _ = (self.trouble.get_or_create(&label), self.troubles.get_or_create(&label));
        }
        for write in ForeignWrite::ALL {
            let _ = self.foreign.get_or_create(&ReasonLabel { reason: write.as_str() });
        }
    }

    /// Sets when the certificates in use expire.
    pub(crate) fn set_certificates(&self, credentials: &Credentials) {
        let certificates = credentials.certificates().iter().map(|(file, not_after)| {
            let since = not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            (FileLabel { file: file.display().to_string() }, since.as_secs_f64())
        });
        self.certificates.set(certificates);
    }

    /// Sets how full the etcd is.
    pub(crate) fn set_fill(&self, fill: &Fill) {
        self.etcd_size.set(fill.size);
        self.etcd_quota.set(fill.quota);
        self.etcd_time_to_full.set(fill.full_in.map(|full_in| (Vec::new(), full_in.as_secs())));
    }

    /// Sets the numbers of policies.
    pub(crate) fn set_policies(&self, policies: &PolicyView) {
        let count = |n: usize| n.try_into().unwrap_or(u64::MAX);
        for (kind, policies) in policies.counts() {
            let label = KindLabel { kind: kind.as_str() };
            self.policies.get_or_create(&label).set(count(policies));
        }
        for (kind, class, refused) in policies.refused_counts() {
            let labels = KindReasonLabels { kind: kind.as_str(), reason: class.as_str() };
            self.refused_policies.get_or_create(&labels).set(count(refused));
        }
    }

    /// Counts a failure of the etcd, or a repair.
    pub(crate) fn count_trouble(&self, reason: Reason) {
        for label in labels(reason) {
            self.troubles.get_or_create(&label).inc();
        }
    }

    /// Sets the reasons why the etcd cannot be written to.
    pub(crate) fn set_trouble(&self, now: &BTreeSet<Reason>) {
        for reason in Reason::ALL {
            for label in labels(reason) {
                self.trouble.get_or_create(&label).set(now.contains(&reason).into());
            }
        }
    }

    /// Counts a write of another program to a key of this cluster.
    pub(crate) fn count_foreign(&self, write: ForeignWrite) {
        self.foreign.get_or_create(&ReasonLabel { reason: write.as_str() }).inc();
    }
}

/// The labels of a reason: its name, and its former name if it had one.
fn labels(reason: Reason) -> impl Iterator<Item = ReasonLabel> {
    [Some(reason.as_str()), reason.former_str()]
        .into_iter()
        .flatten()
        .map(|reason| ReasonLabel { reason })
}

#[cfg(test)]
mod tests {
    use mesh_admin::metrics::conventions::violations;

    use super::*;

    #[test]
    fn metrics_are_as_their_table_says() {
        let text = Metrics::default().exported().text().unwrap();
        let documentation = include_str!("../../../docs/metrics.md");
        assert_eq!(violations(&text, "clustermesh_apiserver", documentation), Vec::<String>::new());
        assert!(text.contains("etcd_foreign_writes_total{reason=\"removed\"} 0\n"));
    }

    #[test]
    fn a_forecast_is_exported_while_the_etcd_fills_up() {
        let metrics = Metrics::default();
        let exported = metrics.exported();
        let series = |full_in: Option<u64>| {
            let full_in = full_in.map(std::time::Duration::from_secs);
            metrics.set_fill(&Fill { size: 3, used: 2, quota: 4, full_in, uncompacted: None });
            let text = exported.text().unwrap();
            assert!(text.contains("clustermesh_apiserver_etcd_size_bytes 3\n"), "{text}");
            let documentation = include_str!("../../../docs/metrics.md");
            let found = violations(&text, "clustermesh_apiserver", documentation);
            assert_eq!(found, Vec::<String>::new());
            let name = "clustermesh_apiserver_etcd_time_to_full_seconds";
            text.lines().find(|line| line.starts_with(name)).map(str::to_owned)
        };
        assert_eq!(series(None), None);
        let wanted = "clustermesh_apiserver_etcd_time_to_full_seconds{} 60";
        assert_eq!(series(Some(60)).as_deref(), Some(wanted));
        assert_eq!(series(None), None);
    }
}
