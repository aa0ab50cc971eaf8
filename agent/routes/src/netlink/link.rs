//! Interfaces and their addresses as `rtnetlink(7)` has them.

use ipnet::IpNet;

use super::{AF_UNSPEC, Message, Request, address, attributes, number, short, text};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkEntry {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Of its hardware: `ARPHRD_…`.
    pub(crate) hardware: u16,
    /// The driver's name for it, such as `bridge`; none for a network card.
    pub(crate) kind: Option<String>,
    pub(crate) mac: Vec<u8>,
    /// The bridge or bond that it is a port of.
    pub(crate) master: Option<u32>,
    pub(crate) is_up: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressEntry {
    pub(crate) interface: u32,
    /// The interface's own, with the length of the prefix.
    pub(crate) local: IpNet,
    /// The addresses on the link: the prefix, or the other end.
    pub(crate) on_link: IpNet,
}

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Set by its administrator, and with a carrier.
const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;
/// Bytes of `ifinfomsg` and `ifaddrmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;

/// Lists all interfaces.
pub(crate) fn list_links() -> Request {
    Request::new(RTM_GETLINK, 0, &[0; LINK])
}

/// Lists all addresses.
pub(crate) fn list_addresses() -> Request {
    Request::new(RTM_GETADDR, 0, &[AF_UNSPEC; ADDRESS])
}

/// The interface that a message is about, without its name and the like: what costs nothing to read.
pub(crate) fn index(message: Message<'_>) -> Option<u32> {
    let at = match message.kind {
        RTM_NEWLINK | RTM_DELLINK | RTM_NEWADDR | RTM_DELADDR => 4..8,
        _ => return None,
    };
    message.body.get(at).map(number)
}

/// Whether an interface is up, and has a carrier.
pub(crate) fn is_up(message: Message<'_>) -> bool {
    let flags = message.body.get(8..12).map_or(0, number);
    flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0
}

/// The interface that a message is about.
pub(crate) fn read_link(message: Message<'_>) -> Option<LinkEntry> {
    if message.kind != RTM_NEWLINK && message.kind != RTM_DELLINK {
        return None;
    }
    let mut link = LinkEntry {
        index: index(message)?,
        name: String::new(),
        hardware: short(message.body.get(2..4)?),
        kind: None,
        mac: Vec::new(),
        master: None,
        is_up: is_up(message),
    };
    for (kind, value) in message.attributes(LINK) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.mac = value.to_vec(),
            IFLA_MASTER => link.master = Some(number(value)),
            IFLA_LINKINFO => {
                let found = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = found.map(|(_, value)| text(value));
            }
            _ => {}
        }
    }
    Some(link)
}

/// The address that a message is about.
pub(crate) fn read_address(message: Message<'_>) -> Option<AddressEntry> {
    if message.kind != RTM_NEWADDR && message.kind != RTM_DELADDR {
        return None;
    }
    let length = *message.body.get(1)?;
    let interface = index(message)?;
    let (mut local, mut other) = (None, None);
    for (kind, value) in message.attributes(ADDRESS) {
        match kind {
            IFA_LOCAL => local = address(value),
            IFA_ADDRESS => other = address(value),
            _ => {}
        }
    }
    // IPv6 has a local one only where there is another end.
    let (local, other) = (local.or(other)?, other.or(local)?);
    let on_link = IpNet::new(other, length).ok()?.trunc();
    Some(AddressEntry { interface, local: IpNet::new(local, length).ok()?, on_link })
}
