//! Requests to the kernel for one route. All of this blocks.

use std::{io, net::IpAddr};

use ipnet::IpNet;
use mesh_reconcile::{Class, Failure};
use nix::libc::{EEXIST, EHOSTUNREACH, ENETUNREACH, ESRCH};

use super::{OtherRoute, RouteError};
use crate::{
    PROTOCOL, metric,
    netlink::{
        AF_INET, AF_INET6, NetlinkSocket, Refused,
        route::{self, Hop, IfPresent, RouteEntry},
    },
};

/// What is wanted for a range, and what exists.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) range: IpNet,
    /// The next hop; none for no route.
    pub(super) via: Option<IpAddr>,
    pub(super) present: Vec<RouteEntry>,
}

/// The result of a change.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) range: IpNet,
    pub(super) via: Option<IpAddr>,
    /// The present routes.
    pub(super) present: Vec<RouteEntry>,
    pub(super) result: Result<(), Failure>,
    /// The other program's route that comes before ours.
    pub(super) other: Option<OtherRoute>,
}

/// The error where a next hop cannot be reached directly: a packet to it would need a router, or a tunnel.
const OFF_LINK: &str = "the next hop is not on a link of this node";
const TAKEN: &str = "another program has a route with our metric";

// === impl Change ===

impl Change {
    /// Makes the change. The wanted route is added before others of ours are removed. If it is on no link, no route is
    /// better than the one over a node that no longer has the range.
    pub(super) fn make(mut self, socket: &mut NetlinkSocket) -> Changed {
        let added = match self.via {
            Some(via) => self.add(via, socket),
            None => Ok(()),
        };
        let is_wanted = |entry: &RouteEntry| self.via.is_some_and(|via| is_over(entry, via));
        let (wanted, stale): (Vec<RouteEntry>, Vec<RouteEntry>) =
            self.present.drain(..).partition(is_wanted);
        let mut present = wanted;
        let mut removed = Ok(());
        let keeps = added.as_ref().err().is_some_and(|failure| failure.class() != Class::Deferred);
        for entry in stale {
            let gone = if keeps { None } else { Some(remove(&entry, socket)) };
            match gone {
                Some(Ok(())) => {}
                Some(Err(failure)) => {
                    present.push(entry);
                    removed = Err(failure);
                }
                None => present.push(entry),
            }
        }
        let result = added.and(removed);
        let has_ours = self.via.is_some() && result.is_ok();
        let other = if has_ours { other(socket, self.range) } else { None };
        Changed { range: self.range, via: self.via, present, result, other }
    }

    fn add(&mut self, via: IpAddr, socket: &mut NetlinkSocket) -> Result<(), Failure> {
        let hop = Hop::Via { via, interface: 0 };
        let metric = metric(via);
        let entry = RouteEntry { range: self.range, metric, protocol: PROTOCOL, hop };
        if self.has(via) {
            return Ok(());
        }
        let mut request = |present: &[RouteEntry]| {
            let ours = present.iter().any(|entry| entry.metric == metric);
            let if_present = if ours { IfPresent::Replace } else { IfPresent::Refuse };
            socket.request(route::add(&entry, via, if_present)).map_err(Failure::failed)
        };
        match request(&self.present)? {
            Ok(()) => {}
            // Ours, and the report of it was lost; or another program's.
            Err(refused) if refused.errno == EEXIST => {
                let listed = list(socket).map_err(Failure::failed)?;
                self.present = listed.into_iter().filter(|e| e.range == self.range).collect();
                if self.has(via) {
                    return Ok(());
                }
                if self.present.iter().all(|entry| entry.metric != metric) {
                    return Err(Failure::failed(TAKEN));
                }
                let replace = route::add(&entry, via, IfPresent::Replace);
                socket.request(replace).map_err(Failure::failed)?.map_err(failure)?;
            }
            Err(refused) => return Err(failure(refused)),
        }
        self.present.retain(|entry| entry.metric != metric);
        self.present.push(entry);
        Ok(())
    }

    fn has(&self, via: IpAddr) -> bool {
        self.present.iter().any(|entry| is_over(entry, via))
    }
}

/// Whether a route is as we make it over a next hop.
pub(super) fn is_over(entry: &RouteEntry, wanted: IpAddr) -> bool {
    entry.metric == metric(wanted) && matches!(entry.hop, Hop::Via { via, .. } if via == wanted)
}

/// All routes of ours, of both families.
pub(super) fn list(socket: &mut NetlinkSocket) -> Result<Vec<RouteEntry>, RouteError> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = route::list(family, PROTOCOL);
        let listed = socket.list(&request, |message| {
            let ours = |entry: &RouteEntry| {
                entry.protocol == PROTOCOL && entry.range.addr().is_ipv4() == (family == AF_INET)
            };
            route::read(message).filter(ours)
        });
        found.extend(listed?.map_err(|refused| RouteError::Refused(refused.to_string()))?);
    }
    Ok(found)
}

/// The program whose route to exactly this range comes before ours, if any.
pub(super) fn other(socket: &mut NetlinkSocket, range: IpNet) -> Option<OtherRoute> {
    let answer = socket.ask(route::lookup(range.network()), route::read);
    let entry = answer.ok()?.ok()??;
    let comes_first = entry.range == range && entry.protocol != PROTOCOL;
    comes_first.then_some(OtherRoute { protocol: entry.protocol, metric: entry.metric })
}

fn remove(entry: &RouteEntry, socket: &mut NetlinkSocket) -> Result<(), Failure> {
    let removed: io::Result<Result<(), Refused>> = socket.request(route::remove(entry));
    match removed.map_err(Failure::failed)? {
        Err(refused) if refused.errno != ESRCH => Err(failure(refused)),
        _ => Ok(()),
    }
}

fn failure(refused: Refused) -> Failure {
    match refused.errno {
        ENETUNREACH | EHOSTUNREACH => Failure::deferred(OFF_LINK),
        _ => Failure::failed(refused),
    }
}
