//! Looking again: what clusters say, what the tables should hold, and what the kernel has.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use mesh_balance::Known;
use mesh_model::lb::{Change, Content, Frontend};

use super::Mesh;

/// What audits found, which should be nothing.
#[derive(Debug)]
pub(crate) struct Audit {
    interval: Duration,
    due: Instant,
    pub(crate) passes: u64,
    pub(crate) repairs: u64,
    /// The last one that was not in vain, or that failed.
    pub(crate) last: Option<String>,
}

/// An audit takes no more of the time than one part in so many.
const SHARE: u32 = 100;

impl Audit {
    /// The first one is due after an interval.
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, due: now + interval, passes: 0, repairs: 0, last: None }
    }
}

impl Mesh {
    /// Compares everything, if it is time to. Repairs what differs.
    pub(super) fn audit_tables(&mut self, now: Instant) {
        if now < self.audit.due {
            return;
        }
        let deviations = self.repair_deviations(now) + self.audit_unbalanced();
        let repaired = match self.tables.audit() {
            Ok(repairs) => {
                if repairs.total() > 0 {
                    self.audit.last = Some(format!("{repairs:?}"));
                }
                repairs.total()
            }
            Err(error) => {
                self.audit.last = Some(error.to_string());
                0
            }
        };
        if deviations + repaired > 0 {
            let last = self.audit.last.as_deref().unwrap_or_default();
            tracing::error!(deviations, repaired, last, "the tables were not what they should be");
        }
        self.audit.passes += 1;
        self.audit.repairs += deviations + repaired;
        self.metrics.audit_passes.inc();
        self.metrics.audit_repairs.inc_by(deviations + repaired);
        self.audit.due = now + self.audit.interval.max(now.elapsed() * SHARE);
    }

    /// What clusters say, against what the tables were told. What there was no room for is known already.
    fn repair_deviations(&mut self, now: Instant) -> u64 {
        let deviations = self.tables.deviations(&self.wanted());
        let unknown = deviations.into_iter().filter(|change| !self.failed.contains(change));
        let unknown: Vec<Change> = unknown.collect();
        if let Some(first) = unknown.first() {
            self.audit.last = Some(format!("{} changes not made, first {first:?}", unknown.len()));
        }
        let count = u64::try_from(unknown.len()).unwrap_or(u64::MAX);
        self.apply(unknown, now);
        count
    }

    /// Every frontend that is taken with its backends, from what clusters say and not from what became of it.
    fn wanted(&self) -> HashMap<Frontend, Content> {
        let mut wanted = HashMap::new();
        for (service, traffic, frontends) in self.merge.services() {
            for (frontend, port_name) in frontends {
                let backends = self.merge.backends_of(service);
                let backends = backends.map(|(backend, port_name, state)| Known {
                    backend,
                    port_name,
                    condition: state.condition,
                    node: state.node.as_deref(),
                });
                let port = (&frontend, port_name);
                let content = self.balancer.content_from(service, traffic, port, backends);
                wanted.extend(content.map(|content| (frontend, content)));
            }
        }
        wanted
    }
}
