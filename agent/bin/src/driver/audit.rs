//! Audits: compares what clusters report with what the tables should hold, and that with what the kernel has, in
//! slices, between which everything else goes on.

use std::{
    mem,
    time::{Duration, Instant},
    vec,
};

use mesh_dataplane::{AuditCursor, Repairs};
use mesh_health::Order;
use mesh_model::{
    ServiceName,
    lb::{Change, Frontend},
};

use super::Driver;

/// The progress of an audit, and when it goes on.
#[derive(Debug)]
pub(crate) struct Audits {
    interval: Duration,
    due: Instant,
    begun: Instant,
    stage: Stage,
    deviations: u64,
    repairs: Repairs,
}

/// The stages of an audit, one after the other.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Begin,
    /// Whether these services are in the tables as clusters report them.
    Wanted(vec::IntoIter<ServiceName>),
    /// Whether the frontends after one are wanted.
    Surplus(Option<Frontend>),
    /// Whether the kernel has what the tables wrote.
    Kernel(AuditCursor),
}

/// An audit takes no more of the time than one part in this many.
const SHARE: u32 = 100;
/// How much a slice compares: services, frontends, and units of [`mesh_dataplane::Tables::audit_slice`]. Each is about
/// a millisecond.
const SERVICES: usize = 16;
const FRONTENDS: usize = 1_000;
const UNITS: usize = 20_000;

// === impl Audits ===

impl Audits {
    /// The first one is due after an interval.
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            due: now + interval,
            begun: now,
            stage: Stage::Begin,
            deviations: 0,
            repairs: Repairs::default(),
        }
    }

    /// When the next slice is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }
}

// === impl Driver ===

impl Driver {
    /// Looks at the next slice, if it is time to, and repairs what differs.
    pub(super) fn audit(&mut self, now: Instant) {
        if now < self.audits.due {
            return;
        }
        self.audits.stage = match mem::take(&mut self.audits.stage) {
            Stage::Begin => {
                self.audits.begun = now;
                self.audits.deviations = self.audit_unbalanced();
                let services = self.node.core.merge().services();
                let services: Vec<_> = services.map(|(service, ..)| service.clone()).collect();
                Stage::Wanted(services.into_iter())
            }
            Stage::Wanted(mut services) => {
                let next: Vec<_> = services.by_ref().take(SERVICES).collect();
                next.iter().for_each(|service| self.audit_service(service, now));
                if services.len() > 0 { Stage::Wanted(services) } else { Stage::Surplus(None) }
            }
            Stage::Surplus(after) => match self.audit_surplus(after, now) {
                Some(after) => Stage::Surplus(Some(after)),
                None => Stage::Kernel(AuditCursor::default()),
            },
            Stage::Kernel(mut cursor) => {
                let found = self.node.lb.tables_mut().audit_slice(&mut cursor, UNITS);
                match found {
                    Ok(repairs) => self.audits.repairs += repairs,
                    Err(error) => {
                        tracing::error!(%error, "the tables cannot be compared with the kernel");
                        self.node.audit.last = Some(error.to_string());
                        self.finish_audit();
                        return;
                    }
                }
                if cursor.is_done() {
                    self.finish_audit();
                    return;
                }
                Stage::Kernel(cursor)
            }
        };
        self.audits.due = now + now.elapsed() * SHARE;
    }

    fn finish_audit(&mut self) {
        let (deviations, repairs) =
            (mem::take(&mut self.audits.deviations), mem::take(&mut self.audits.repairs));
        let repaired = repairs.total();
        if repaired > 0 {
            self.node.audit.last = Some(repairs.to_string());
        }
        if deviations + repaired > 0 {
            let last = self.node.audit.last.as_deref().unwrap_or_default();
            tracing::error!(deviations, repaired, last, "the tables were not what they should be");
        }
        self.node.audit.passes += 1;
        self.node.audit.repairs += deviations + repaired;
        self.node.writers.health.order(Order::Audit);
        self.audits.due = self.audits.begun + self.audits.interval;
    }

    /// Compares what clusters report of a service, not the derived state, with what the tables should hold.
    fn audit_service(&mut self, service: &ServiceName, now: Instant) {
        let wanted = self.node.core.wanted_content(service);
        for (frontend, content) in wanted {
            let deviations = self.node.lb.tables().deviations_of(&frontend, &content);
            self.repair(deviations, now);
        }
    }

    /// Removes frontends that no service has any more. Returns the last one that was compared, if there are more.
    fn audit_surplus(&mut self, after: Option<Frontend>, now: Instant) -> Option<Frontend> {
        let claimed = self.node.lb.tables().claimed_after(after);
        let claimed: Vec<Frontend> = claimed.take(FRONTENDS).copied().collect();
        let (merge, balancer) = (self.node.core.merge(), self.node.core.balancer());
        let is_wanted = |frontend: &Frontend| {
            let traffic = merge.service_of(frontend).and_then(|service| merge.traffic_of(service));
            traffic.is_some_and(|traffic| balancer.takes_traffic(traffic))
        };
        let surplus = claimed.iter().filter(|frontend| !is_wanted(frontend));
        let surplus: Vec<Change> = surplus.map(|f| Change::RemoveFrontend(*f)).collect();
        self.repair(surplus, now);
        (claimed.len() == FRONTENDS).then(|| claimed.last().copied()).flatten()
    }

    /// Makes the changes that are missing. Those that had no room are known already.
    fn repair(&mut self, deviations: Vec<Change>, now: Instant) {
        for change in deviations {
            if self.node.lb.repair(change, now) {
                self.audits.deviations += 1;
                self.node.audit.last = Some(format!("a change was not made: {change}"));
            }
        }
    }

    /// Compares whose sockets the programs leave alone with whose they should. How many were otherwise.
    fn audit_unbalanced(&mut self) -> u64 {
        let found = match self.node.lb.tables().unbalanced() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the pods that opted out cannot be read from the kernel");
                return 0;
            }
        };
        let Some(wanted) = self.node.core.unbalanced() else { return 0 };
        let different = found.symmetric_difference(wanted).count();
        if different > 0
            && let Err(error) = self.node.lb.tables_mut().set_unbalanced(wanted)
        {
            tracing::error!(%error, "the pods that opted out cannot be written to the kernel");
        }
        u64::try_from(different).unwrap_or(u64::MAX)
    }
}
