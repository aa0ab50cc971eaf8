//! One scan of a node's network namespaces.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use mesh_layout::ListedSocket;
use mesh_model::Protocol;

use crate::{
    diag::Connection,
    kernel::{Diag, Fate},
    namespace::{self, Netns, Visit},
    pace::Outcome,
};

/// The targets of a scan, and its means.
pub(crate) struct Scan<'a, L> {
    /// Lists the sockets of the calling thread's namespace that our programs connected to backends, over one protocol.
    pub(crate) list: &'a L,
    /// Over which protocols sockets are to be ended.
    pub(crate) protocols: HashSet<Protocol>,
}

/// The queries of a scan about each socket, and its reports.
pub(crate) trait ScanObserver: Send {
    /// Whether a socket is wanted. Does not count against the rate limit.
    fn is_wanted(&self, socket: &ListedSocket) -> bool;
    /// Whether it is ended now.
    fn may_end(&mut self, socket: &ListedSocket) -> Verdict;
    /// It was ended.
    fn ended(&mut self, socket: &ListedSocket, protocol: Protocol);
    /// A namespace could not be looked through.
    fn failed(&mut self, place: &str, why: &io::Error);
    /// A namespace does not exist.
    fn missing(&mut self, netns: &Netns);
}

/// Whether a socket is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is.
    End,
    /// Its backend is back.
    Spare,
    /// Nothing more is ended before this time from now.
    Wait(Duration),
}

/// The end of a scan of one namespace.
enum Look {
    /// All of it was looked through.
    Whole,
    /// Nothing more may be ended now.
    Paced(Duration),
}

impl<L: Fn(Protocol) -> io::Result<Vec<ListedSocket>> + Sync> Scan<'_, L> {
    /// Scans the calling thread's namespace, then those of pods. If one fails, the others are scanned all the same.
    /// `None`: the pods are not known yet.
    pub(crate) fn run(&self, pods: Option<&[Netns]>, observer: &mut impl ScanObserver) -> Outcome {
        let mut outcome = if pods.is_some() { Outcome::Complete } else { Outcome::Incomplete };
        match self.look_here(observer) {
            Ok(Look::Whole) => {}
            Ok(Look::Paced(wait)) => return Outcome::Paced(wait),
            Err(error) => {
                observer.failed("the node's own network", &error);
                outcome = Outcome::Incomplete;
            }
        }
        let here = namespace::here().ok();
        // Pods of the node's own network have been seen with it.
        let others = pods.unwrap_or_default().iter().filter(|netns| Some(netns.inode) != here);
        for netns in others {
            match netns.visit(|| self.look_here(observer)) {
                Ok(Visit::Done(Look::Whole)) => {}
                Ok(Visit::Done(Look::Paced(wait))) => return Outcome::Paced(wait),
                Ok(Visit::Gone) => observer.missing(netns),
                Err(error) => {
                    observer.failed(&netns.path.display().to_string(), &error);
                    outcome = Outcome::Incomplete;
                }
            }
        }
        outcome
    }

    fn look_here(&self, observer: &mut impl ScanObserver) -> io::Result<Look> {
        for protocol in &self.protocols {
            let listed = (self.list)(*protocol)?.into_iter();
            let wanted = listed.filter(|socket| observer.is_wanted(socket));
            let wanted: HashMap<u64, ListedSocket> =
                wanted.map(|socket| (socket.cookie(), socket)).collect();
            // Mostly no socket uses a removed backend, and the kernel's other list is not needed.
            if !wanted.is_empty()
                && let Look::Paced(wait) = end(*protocol, wanted, observer)?
            {
                return Ok(Look::Paced(wait));
            }
        }
        Ok(Look::Whole)
    }
}

/// Ends those of the wanted sockets, by their cookies, that still lead to the backend that they keep.
fn end(
    protocol: Protocol,
    mut wanted: HashMap<u64, ListedSocket>,
    observer: &mut impl ScanObserver,
) -> io::Result<Look> {
    let mut diag = Diag::open()?;
    for connection in diag.connections(protocol)? {
        let Some(socket) = wanted.remove(&connection.cookie()) else { continue };
        // Its storage is out of date if it is connected elsewhere by now.
        if !leads_to(&connection, &socket) {
            continue;
        }
        match observer.may_end(&socket) {
            Verdict::End => {}
            Verdict::Spare => continue,
            Verdict::Wait(wait) => return Ok(Look::Paced(wait)),
        }
        if diag.destroy(protocol, &connection)? == Fate::Ended {
            observer.ended(&socket, protocol);
        }
    }
    Ok(Look::Whole)
}

/// Whether a socket is connected to the backend that it keeps.
fn leads_to(connection: &Connection, socket: &ListedSocket) -> bool {
    connection.address == socket.address() && connection.port == socket.port()
}
