//! One pass through a node's network namespaces.

use std::{collections::HashMap, io};

use mesh_layout::ListedSocket;
use mesh_model::Protocol;

use crate::{
    diag::Connection,
    kernel::{Diag, Fate},
    namespace::{Home, Netns},
};

/// Sockets that are to be ended, by their cookies, each with its protocol. Those that are found are taken out.
pub(crate) struct Scan<'a> {
    pub(crate) home: &'a Home,
    pub(crate) looked_for: HashMap<u64, (Protocol, ListedSocket)>,
}

/// What whoever has a pass done is asked, and told.
pub(crate) trait ScanObserver {
    /// Waits until one more may be ended. `Stop`: no more of them.
    fn may_end(&mut self, socket: &ListedSocket) -> Verdict;
    /// One was ended.
    fn ended(&mut self, socket: &ListedSocket);
    /// A namespace could not be looked through.
    fn failed(&mut self, place: &str, why: &io::Error);
}

/// Whether a socket is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is.
    End,
    /// Its backend is back.
    Spare,
    /// Nothing is ended any more.
    Stop,
}

impl Scan<'_> {
    /// Goes through the namespaces, the own one first, until all are found. One that fails keeps nobody from the others.
    pub(crate) fn run(mut self, namespaces: &[Netns], observer: &mut impl ScanObserver) {
        let home = self.home;
        let own = home.inode().ok();
        if let Err(error) = self.look_here(observer) {
            observer.failed("the node's own network", &error);
        }
        // Pods of the node's own network have been seen with it.
        for netns in namespaces.iter().filter(|netns| Some(netns.inode) != own) {
            if self.looked_for.is_empty() {
                return;
            }
            if let Err(error) = home.visit(netns, || self.look_here(observer)) {
                observer.failed(&netns.path.display().to_string(), &error);
            }
        }
    }

    fn look_here(&mut self, observer: &mut impl ScanObserver) -> io::Result<()> {
        let mut diag = Diag::open()?;
        for wanted in [Protocol::Udp, Protocol::Tcp] {
            if !self.looked_for.values().any(|(protocol, _)| *protocol == wanted) {
                continue;
            }
            for connection in diag.connections(wanted)? {
                let Some((_, socket)) = self.looked_for.remove(&connection.cookie()) else {
                    continue;
                };
                // What it keeps is of before, if it is connected elsewhere by now.
                if !leads_to(&connection, &socket) {
                    continue;
                }
                match observer.may_end(&socket) {
                    Verdict::End => {}
                    Verdict::Spare => continue,
                    Verdict::Stop => return Ok(()),
                }
                if diag.destroy(wanted, &connection)? == Fate::Ended {
                    observer.ended(&socket);
                }
            }
        }
        Ok(())
    }
}

/// Whether a socket is connected to the backend that it keeps.
fn leads_to(connection: &Connection, socket: &ListedSocket) -> bool {
    connection.address == socket.address() && connection.port == socket.port()
}
