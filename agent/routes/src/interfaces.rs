//! The node's interfaces: their kind, addresses and state, and a stream of their changes.
//!
//! [`Interfaces`] follows them by netlink: a list first, then the kernel's reports, and a list again where reports were
//! lost. [`attachments`] returns the interfaces at which a probe to this node arrives.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{
    IPV4_ADDRESS, IPV6_ADDRESS, LINK, Message, Multicast, NetlinkSocket, Received, Refused,
    link::{self, AddressEntry, LinkEntry, RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK},
};

/// Follows the interfaces of one network namespace.
#[derive(Debug)]
pub struct Interfaces {
    requests: NetlinkSocket,
    multicast: Multicast,
    by_index: BTreeMap<u32, Interface>,
    /// Addresses whose interface was not reported yet, which the kernel does not promise to do first.
    early: BTreeMap<u32, BTreeSet<IpNet>>,
    /// Something was read and not returned yet.
    moved: bool,
    lost: bool,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: InterfaceKind,
    /// Whether it is up and has a carrier.
    pub is_up: bool,
    /// Its Ethernet address; empty where it has none.
    pub mac: Vec<u8>,
    /// The bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// Its addresses, each with the length of its prefix.
    pub addresses: BTreeSet<IpNet>,
}

/// The link layer of an interface, and its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// Ethernet: a network card, or what a driver of this name makes (`bridge`, `bond`, `vlan`, `veth`, …).
    Ethernet {
        /// The driver's name; none for a network card.
        driver: Option<String>,
    },
    /// The node itself.
    Loopback,
    /// IP packets without a link layer: a tunnel, WireGuard, PPP.
    Layer3 {
        /// The driver's name, or the number of its kind (`ARPHRD_…`).
        driver: String,
    },
}

/// Where a probe to this node's addresses arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachments {
    /// Ethernet interfaces with a node address: answered by the kernel there.
    pub ethernet: Vec<Interface>,
    /// Interfaces with a node address where that is not possible: the agent answers, and status names them.
    pub others: Vec<Interface>,
    /// Node addresses that no interface has.
    pub missing: Vec<IpAddr>,
}

/// Why interfaces cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// No netlink.
    #[error("netlink: {0}")]
    Netlink(#[from] io::Error),
    /// The kernel refuses the list.
    #[error("listing interfaces: {0}")]
    Refused(String),
}

/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK`.
const ETHERNET: u16 = 1;
const LOOPBACK: u16 = 772;
/// The driver of interfaces that hold addresses, and at which nothing arrives.
const DUMMY: &str = "dummy";

// === impl Interfaces ===

impl Interfaces {
    /// Opens the interfaces of the current thread's network namespace, inside a runtime, and lists them.
    ///
    /// # Errors
    /// Where there is no netlink.
    pub fn open() -> Result<Self, InterfaceError> {
        // Reports first: what changes while it is listed is reported.
        let multicast = Multicast::open(&[LINK, IPV4_ADDRESS, IPV6_ADDRESS])?;
        let requests = NetlinkSocket::open(NETLINK_ROUTE)?;
        let mut interfaces = Self {
            requests,
            multicast,
            by_index: BTreeMap::new(),
            early: BTreeMap::new(),
            moved: false,
            lost: false,
        };
        interfaces.list()?;
        Ok(interfaces)
    }

    /// The interfaces as they were last reported, by their number.
    pub fn all(&self) -> impl Iterator<Item = &Interface> {
        self.by_index.values()
    }

    /// Waits until an interface or an address was added, removed or changed. Events within a fifth of a second are one
    /// change.
    ///
    /// Cancel safety: nothing is lost when this future is dropped.
    ///
    /// # Errors
    /// Where they cannot be read any more; a later call tries again.
    pub async fn changed(&mut self) -> Result<(), InterfaceError> {
        loop {
            if self.lost {
                // Short, and only needed when reports were lost.
                self.list()?;
                (self.lost, self.moved) = (false, true);
            }
            if std::mem::take(&mut self.moved) {
                return Ok(());
            }
            let Self { multicast, by_index, early, moved, lost, .. } = self;
            let read = multicast.read(|received| match received {
                Received::Message(message) => *moved |= take(message, by_index, early),
                Received::Overrun => *lost = true,
            });
            read.await?;
        }
    }

    fn list(&mut self) -> Result<(), InterfaceError> {
        let refused = |refused: Refused| InterfaceError::Refused(refused.to_string());
        let links = self.requests.list(&link::list_links(), link::read_link)?.map_err(refused)?;
        let addresses = self.requests.list(&link::list_addresses(), link::read_address)?;
        self.by_index = links.into_iter().map(|link| (link.index, interface(link))).collect();
        self.early.clear();
        for AddressEntry { interface, local, .. } in addresses.map_err(refused)? {
            if let Some(interface) = self.by_index.get_mut(&interface) {
                interface.addresses.insert(local);
            }
        }
        Ok(())
    }
}

/// Takes a report; returns whether anything changed.
fn take(
    message: Message<'_>,
    by_index: &mut BTreeMap<u32, Interface>,
    early: &mut BTreeMap<u32, BTreeSet<IpNet>>,
) -> bool {
    match message.kind {
        RTM_NEWLINK => {
            let Some(mut new) = link::read_link(message).map(interface) else { return false };
            let before = by_index.get(&new.index);
            new.addresses = match before {
                Some(before) => before.addresses.clone(),
                None => early.remove(&new.index).unwrap_or_default(),
            };
            let is_new = before != Some(&new);
            by_index.insert(new.index, new);
            is_new
        }
        RTM_DELLINK => {
            // A port that leaves its bridge is reported by the bridge as deleted, in a family of its own.
            if message.body.first() != Some(&crate::netlink::AF_UNSPEC) {
                return false;
            }
            link::index(message).is_some_and(|index| {
                early.remove(&index);
                by_index.remove(&index).is_some()
            })
        }
        RTM_NEWADDR | RTM_DELADDR => {
            let Some(AddressEntry { interface, local, .. }) = link::read_address(message) else {
                return false;
            };
            let addresses = match by_index.get_mut(&interface) {
                Some(interface) => &mut interface.addresses,
                None => early.entry(interface).or_default(),
            };
            if message.kind == RTM_NEWADDR {
                addresses.insert(local)
            } else {
                addresses.remove(&local)
            }
        }
        _ => false,
    }
}

fn interface(link: LinkEntry) -> Interface {
    let LinkEntry { index, name, hardware, kind, mac, master, is_up } = link;
    let kind = match hardware {
        ETHERNET => InterfaceKind::Ethernet { driver: kind },
        LOOPBACK => InterfaceKind::Loopback,
        other => InterfaceKind::Layer3 { driver: kind.unwrap_or_else(|| other.to_string()) },
    };
    Interface { index, name, kind, is_up, mac, master, addresses: BTreeSet::new() }
}

/// Where probes to a node's addresses arrive. A bridge, a bond or a VLAN interface counts by itself, and its ports do not:
/// what arrives at a port is seen again at the interface that carries the address. An address of the loopback or of a dummy
/// interface arrives at any of them, so the agent answers there.
pub fn attachments<'a>(
    interfaces: impl Iterator<Item = &'a Interface>,
    node: &BTreeSet<IpAddr>,
) -> Attachments {
    let mut attachments = Attachments::default();
    let mut missing = node.clone();
    for interface in interfaces {
        let carried = interface.addresses.iter().map(IpNet::addr).filter(|ip| node.contains(ip));
        let carried: Vec<IpAddr> = carried.collect();
        if carried.is_empty() {
            continue;
        }
        missing.retain(|address| !carried.contains(address));
        match &interface.kind {
            InterfaceKind::Ethernet { driver } if driver.as_deref() != Some(DUMMY) => {
                attachments.ethernet.push(interface.clone());
            }
            _ => attachments.others.push(interface.clone()),
        }
    }
    attachments.missing = missing.into_iter().collect();
    attachments
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this machine's kernel may have no driver for.
    #[test]
    fn an_interface_counts_by_what_its_packets_are() {
        let node: BTreeSet<IpAddr> = ["172.31.1.1".parse().unwrap()].into();
        let at = |hardware, driver: Option<&str>, address: &str| {
            let kind = driver.map(str::to_owned);
            let (name, mac) = (driver.unwrap_or("eth0").to_owned(), Vec::new());
            let link = LinkEntry { index: 2, name, hardware, kind, mac, master: None, is_up: true };
            let addresses = [address.parse().unwrap()].into();
            let interface = Interface { addresses, ..interface(link) };
            let Attachments { ethernet, others, missing } =
                attachments([&interface].into_iter(), &node);
            (ethernet.len(), others.len(), missing.len())
        };
        for driver in [None, Some("vlan"), Some("bond"), Some("bridge"), Some("macvlan")] {
            assert_eq!(at(ETHERNET, driver, "172.31.1.1/16"), (1, 0, 0), "{driver:?}");
        }
        assert_eq!(at(ETHERNET, Some("dummy"), "172.31.1.1/32"), (0, 1, 0));
        // ARPHRD_NONE and ARPHRD_TUNNEL.
        for (hardware, driver) in [(65_534, "wireguard"), (768, "ipip")] {
            assert_eq!(at(hardware, Some(driver), "172.31.1.1/32"), (0, 1, 0), "{driver}");
        }
        assert_eq!(at(LOOPBACK, None, "172.31.1.1/32"), (0, 1, 0));
        assert_eq!(at(ETHERNET, None, "172.31.1.2/16"), (0, 0, 1));
    }
}
