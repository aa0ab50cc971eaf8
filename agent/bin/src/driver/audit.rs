//! Looking again: what clusters say, what the tables should hold, and what the kernel has.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use mesh_balance::KnownBackend;
use mesh_model::lb::{Content, Frontend};

use mesh_health::Order;

use super::Driver;

/// When to look again.
#[derive(Debug)]
pub(crate) struct AuditTimes {
    interval: Duration,
    due: Instant,
}

/// An audit takes no more of the time than one part in so many.
const SHARE: u32 = 100;

impl AuditTimes {
    /// The first one is due after an interval.
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, due: now + interval }
    }
}

impl Driver {
    /// Compares everything, if it is time to. Repairs what differs.
    pub(super) fn audit_tables(&mut self, now: Instant) {
        if now < self.audits.due {
            return;
        }
        let deviations = self.repair_deviations(now) + self.audit_unbalanced();
        let repaired = match self.node.lb.tables_mut().audit() {
            Ok(repairs) => {
                if repairs.total() > 0 {
                    self.node.audit.last = Some(format!("{repairs:?}"));
                }
                repairs.total()
            }
            Err(error) => {
                self.node.audit.last = Some(error.to_string());
                0
            }
        };
        if deviations + repaired > 0 {
            let last = self.node.audit.last.as_deref().unwrap_or_default();
            tracing::error!(deviations, repaired, last, "the tables were not what they should be");
        }
        self.node.audit.passes += 1;
        self.node.audit.repairs += deviations + repaired;
        self.node.writers.health.order(Order::Audit);
        self.audits.due = now + self.audits.interval.max(now.elapsed() * SHARE);
    }

    /// What clusters say, against what the tables were told. What there was no room for is known already.
    fn repair_deviations(&mut self, now: Instant) -> u64 {
        let deviations = self.node.lb.tables().deviations(&self.wanted());
        let mut count = 0;
        for change in deviations {
            if self.node.lb.repair(change, now) {
                count += 1;
                let last = &mut self.node.audit.last;
                if count == 1 {
                    *last = Some(format!("a change was not made: {change:?}"));
                }
            }
        }
        count
    }

    /// Every frontend that is taken with its backends, from what clusters say and not from what became of it.
    fn wanted(&self) -> HashMap<Frontend, Content> {
        let (merge, balancer) = (self.node.core.merge(), self.node.core.balancer());
        let mut wanted = HashMap::new();
        for (service, traffic, frontends) in merge.services() {
            for (frontend, port_name) in frontends {
                let backends = merge.backends_of(service);
                let backends = backends.map(|(backend, port_name, state)| KnownBackend {
                    backend,
                    port_name,
                    condition: state.condition,
                    node: state.node.as_deref(),
                });
                let port = (&frontend, port_name);
                let content = balancer.content_from(service, traffic, port, backends);
                wanted.extend(content.map(|content| (frontend, content)));
            }
        }
        wanted
    }

    /// Compares whose sockets the programs leave alone with whose they should. How many were otherwise.
    fn audit_unbalanced(&mut self) -> u64 {
        let found = match self.node.lb.tables().unbalanced() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "whose sockets are left alone cannot be read");
                return 0;
            }
        };
        let Some(wanted) = self.node.core.unbalanced() else { return 0 };
        let different = found.symmetric_difference(wanted).count();
        if different > 0
            && let Err(error) = self.node.lb.tables_mut().set_unbalanced(wanted)
        {
            tracing::error!(%error, "pods' sockets cannot be left alone");
        }
        u64::try_from(different).unwrap_or(u64::MAX)
    }
}
