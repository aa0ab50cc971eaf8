//! The kernel's routes, as a target of a writer.
//!
//! Requests go through a socket of their own on a thread that may block. Reports come through another one, and the port
//! that made a change distinguishes this process's changes from others'. Our routes in the kernel are mirrored, for two
//! reasons: a route is replaced only if it is ours, and a link that goes down removes IPv4 routes without a report.

use std::{collections::BTreeMap, io, net::IpAddr};

use ipnet::IpNet;
use mesh_reconcile::{
    Arrival, Blocking, CallError, Failure, Job, Listed, Options, Report, Settings, Target,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::sync::mpsc;

use crate::netlink::{
    IPV4_ADDRESS, IPV4_ROUTE, IPV6_ADDRESS, IPV6_ROUTE, LINK, Multicast, NetlinkSocket, Received,
};

mod change;
mod mirror;
mod reports;
mod waiting;

use change::{Change, Changed};
use mirror::Mirror;
use reports::Reports;
use waiting::Waiting;

/// The routes of one network namespace: range to next hop.
#[derive(Debug)]
pub struct RouteTarget {
    requests: Blocking<NetlinkSocket>,
    multicast: Multicast,
    /// The port that our own requests come from.
    port: u32,
    mirror: Mirror,
    waiting: Waiting,
    reports: Reports,
    /// For ranges that we have a route to: another program's route that comes first.
    others: BTreeMap<IpNet, OtherRoute>,
    events: mpsc::UnboundedSender<RouteEvent>,
}

/// The next hop of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// This node, by a route as we make it.
    Via(IpAddr),
    /// A route of ours in another form: of an earlier release, or changed by another program.
    Otherwise,
}

/// A route of another program to a range of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherRoute {
    /// Its protocol number: `/etc/iproute2/rt_protos`.
    pub protocol: u8,
    /// Its metric, which is below ours.
    pub metric: u32,
}

/// The outcome of a route, where that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteEvent {
    /// It could not be made before, and is in place.
    Recovered(IpNet),
    /// It cannot be made, for this new reason. [`mesh_reconcile::Class::Deferred`]: its next hop is not on a link.
    Failed(IpNet, Failure),
    /// Another program's route to the same range comes first, or does not any more.
    Other(IpNet, Option<OtherRoute>),
}

/// Why the kernel's routes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No netlink.
    #[error("netlink: {0}")]
    Netlink(#[from] io::Error),
    /// A call hangs.
    #[error("routes: {0}")]
    Call(#[from] CallError),
    /// The kernel refuses the list.
    #[error("listing routes: {0}")]
    Refused(String),
}

/// Retries of routes a second: of 5,000 that are off link they take a quarter of a percent of a core, and each comes up
/// once in 100 seconds. Retries because of the kernel's reports are not bounded by this.
const RETRIES: u32 = 50;

// === impl NextHop ===

impl NextHop {
    /// The node's address.
    pub fn via(&self) -> Option<IpAddr> {
        match self {
            Self::Via(via) => Some(*via),
            Self::Otherwise => None,
        }
    }
}

// === impl RouteTarget ===

impl RouteTarget {
    /// Opens the routes of the current thread's network namespace, inside a runtime. Events go to `events`.
    ///
    /// # Errors
    /// Where there is no netlink.
    pub fn open(events: mpsc::UnboundedSender<RouteEvent>) -> Result<Self, RouteError> {
        let requests = NetlinkSocket::open(NETLINK_ROUTE)?;
        let groups = [LINK, IPV4_ADDRESS, IPV6_ADDRESS, IPV4_ROUTE, IPV6_ROUTE];
        Ok(Self {
            multicast: Multicast::open(&groups)?,
            port: requests.port(),
            requests: Blocking::new(requests),
            mirror: Mirror::default(),
            waiting: Waiting::default(),
            reports: Reports::default(),
            others: BTreeMap::new(),
            events,
        })
    }

    /// How a writer of routes is to be run. `seed` makes the pauses of two agents differ.
    pub fn options(seed: u64) -> Options {
        let retries_per_second = Some(RETRIES);
        let settings = Settings { retries_per_second, seed, ..Settings::default() };
        Options { settings, ..Options::default() }
    }

    fn take(&mut self, changed: Changed) -> Result<(), Failure> {
        let Changed { range, via, present, result, other } = changed;
        self.mirror.set(range, present);
        self.waiting.set(range, via.filter(|_| result.is_err()));
        self.set_other(range, other);
        result
    }

    fn set_other(&mut self, range: IpNet, other: Option<OtherRoute>) {
        let before = match other {
            Some(other) => self.others.insert(range, other),
            None => self.others.remove(&range),
        };
        if before != other {
            self.send(RouteEvent::Other(range, other));
        }
    }

    fn send(&self, event: RouteEvent) {
        // Without a receiver the agent is about to end.
        let _ = self.events.send(event);
    }

    /// The meaning of the reports for keys.
    fn conclude(&mut self) -> Vec<Report<IpNet>> {
        let found = self.reports.take();
        let covered = found.on_link.iter().flat_map(|net| self.waiting.on_link(net));
        let mut concluded: Vec<Report<IpNet>> = covered.map(Report::Relevant).collect();
        concluded.extend(found.gone.into_iter().map(Report::Gone));
        if found.look {
            concluded.push(Report::Look);
        }
        concluded
    }
}

impl Target for RouteTarget {
    type Key = IpNet;
    type Value = NextHop;
    type Order = Arrival;
    type Error = RouteError;

    async fn apply(&mut self, jobs: &[Job<IpNet, NextHop>]) -> Vec<Result<(), Failure>> {
        let change = |job: &Job<IpNet, NextHop>| Change {
            range: job.key,
            via: job.action.value().and_then(NextHop::via),
            present: self.mirror.get(&job.key),
        };
        let changes: Vec<Change> = jobs.iter().map(change).collect();
        let call = move |socket: &mut NetlinkSocket| {
            changes.into_iter().map(|change| change.make(socket)).collect::<Vec<Changed>>()
        };
        match self.requests.run(call).await {
            Ok(changed) => changed.into_iter().map(|changed| self.take(changed)).collect(),
            Err(error) => jobs.iter().map(|_| Err(Failure::failed(error))).collect(),
        }
    }

    async fn list(&mut self) -> Result<Listed<Self>, RouteError> {
        let ask = self.reports.take_other();
        let (listed, others) = self
            .requests
            .run(move |socket| {
                let others = ask.into_iter().map(|range| (range, change::other(socket, range)));
                let others: Vec<(IpNet, Option<OtherRoute>)> = others.collect();
                change::list(socket).map(|listed| (listed, others))
            })
            .await??;
        self.mirror = Mirror::new(listed);
        others.into_iter().for_each(|(range, other)| self.set_other(range, other));
        Ok(self.mirror.next_hops())
    }

    async fn changed(&mut self) -> Vec<Report<IpNet>> {
        // Reports that were read are kept in `self`, so that nothing is lost when this future is dropped.
        while self.reports.is_quiet() {
            let Self { multicast, mirror, reports, port, .. } = self;
            let read = multicast.read(|received| match received {
                Received::Message(message) => reports.read(message, mirror, *port),
                Received::Overrun => reports.look(),
            });
            if read.await.is_err() {
                self.reports.look();
            }
        }
        self.conclude()
    }

    fn describe(&self, range: &IpNet) -> String {
        format!("the route to {range}")
    }

    fn outcome(&mut self, range: &IpNet, result: Result<(), &Failure>) {
        self.send(match result {
            Ok(()) => RouteEvent::Recovered(*range),
            Err(failure) => RouteEvent::Failed(*range, failure.clone()),
        });
    }
}
