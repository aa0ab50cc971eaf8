//! Our table of nftables, spoken to by netlink: no other program has to be there, and none can hang.
//!
//! The table `clustermesh`, in the families `ip` and `ip6`, is
//! ```text
//! set pods { type ipv4_addr; flags interval; }
//! set mesh { type ipv4_addr; flags interval; }
//! chain postrouting {
//!     type nat hook postrouting priority srcnat - 5;
//!     ip saddr @pods ip daddr @mesh snat to ip saddr
//! }
//! ```

mod intervals;
mod messages;
mod read;

use std::{fmt, io};

pub(crate) use intervals::{Interval, Intervals};
use mesh_reconcile::Failure;
pub(crate) use messages::{Family, Transaction};
use netlink_sys::protocols::NETLINK_NETFILTER;
pub(crate) use read::{Form, Installed};

use crate::netlink::{NetlinkSocket, Refused};

/// One of the table's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExemptSet {
    /// Of the local cluster's pods: the sources of packets.
    Pods,
    /// Of other clusters' pods: where packets go.
    Mesh,
}

/// A socket of nftables in the network namespace of the thread that opened it. Calls block, and changes wait for those of
/// other programs.
pub(crate) struct Nftables {
    socket: NetlinkSocket,
}

/// Room for a transaction with all ranges of a large mesh. Bytes.
const ROOM: usize = 32 * 1024 * 1024;

// === impl ExemptSet ===

impl ExemptSet {
    pub(crate) const ALL: [Self; 2] = [Self::Pods, Self::Mesh];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Mesh => "mesh",
        }
    }
}

impl fmt::Display for ExemptSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Nftables ===

impl Nftables {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = NetlinkSocket::open(NETLINK_NETFILTER)?;
        socket.make_room(ROOM);
        Ok(Self { socket })
    }

    /// The number of the rule set's generation: another one after each transaction of any program. Waits for none.
    pub(crate) fn generation(&mut self) -> io::Result<u32> {
        let asked = self.socket.ask(messages::get_generation(), read::generation)?;
        asked.map_err(|refused| io::Error::other(refused.to_string()))
    }

    /// The content of our table in a family.
    pub(crate) fn read(&mut self, family: Family) -> io::Result<Installed> {
        read::installed(&mut self.socket, family)
    }

    /// Carries out all of a transaction, or nothing of it.
    pub(crate) fn commit(&mut self, transaction: Transaction) -> Result<(), Failure> {
        let committed = self.socket.transaction(transaction.finish()).map_err(Failure::failed)?;
        committed.map_err(|(_, refused): (usize, Refused)| Failure::failed(refused))
    }

    /// Whether there is a table of this name in any family.
    pub(crate) fn has_table(&mut self, name: &str) -> io::Result<bool> {
        let listed = self.socket.list(&messages::list_tables(), read::table_name)?;
        Ok(listed.is_ok_and(|tables| tables.iter().any(|table| table == name)))
    }

    /// Whether a table has a chain of this name.
    pub(crate) fn has_chain(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
    ) -> io::Result<bool> {
        Ok(self.socket.ask(messages::get_chain(family, table, chain), |_| ())?.is_ok())
    }
}

impl fmt::Debug for Nftables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nftables")
    }
}
