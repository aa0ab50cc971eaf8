//! Routes as `rtnetlink(7)` has them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    AF_INET, AF_INET6, Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Request, address, family,
    number, octets,
};

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteEntry {
    pub(crate) range: IpNet,
    pub(crate) metric: u32,
    /// Who made it: `/etc/iproute2/rt_protos`.
    pub(crate) protocol: u8,
    pub(crate) hop: Hop,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Over a neighbour, on an interface.
    Via { via: IpAddr, interface: u32 },
    /// To neighbours themselves.
    OnLink,
    /// Over several, or of a kind that we do not make.
    Other,
}

/// What to do if the route exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfPresent {
    Refuse,
    Replace,
}

pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;

const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_UNIVERSE: u8 = 0;
/// Of a request to remove: of any scope.
const RT_SCOPE_NOWHERE: u8 = 255;
const RTN_UNICAST: u8 = 1;
/// Learned for one destination, and not a route of its own.
const RTM_F_CLONED: u32 = 0x200;
/// Answer with the route itself, not with what it gives for the address.
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// Bytes of `rtmsg`.
const FIXED: usize = 12;

/// Makes a route over a neighbour.
pub(crate) fn add(entry: &RouteEntry, via: IpAddr, if_present: IfPresent) -> Request {
    let flags = match if_present {
        IfPresent::Refuse => NLM_F_CREATE | NLM_F_EXCL,
        IfPresent::Replace => NLM_F_CREATE | NLM_F_REPLACE,
    };
    named(RTM_NEWROUTE, flags, entry, RT_SCOPE_UNIVERSE).attribute(RTA_GATEWAY, &octets(via))
}

/// Removes exactly this route.
pub(crate) fn remove(entry: &RouteEntry) -> Request {
    let request = named(RTM_DELROUTE, 0, entry, RT_SCOPE_NOWHERE);
    match entry.hop {
        Hop::Via { via, .. } => request.attribute(RTA_GATEWAY, &octets(via)),
        Hop::OnLink | Hop::Other => request,
    }
}

/// Lists a family's routes of a protocol.
pub(crate) fn list(of: u8, protocol: u8) -> Request {
    let fixed = fixed(of, 0, protocol, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0);
    Request::new(RTM_GETROUTE, 0, &fixed)
}

/// Asks which route leads to an address.
pub(crate) fn lookup(to: IpAddr) -> Request {
    let length = if to.is_ipv4() { 32 } else { 128 };
    let mut fixed = fixed(family(to), length, 0, RT_SCOPE_UNIVERSE, 0, RTM_F_FIB_MATCH);
    // Of whatever table the rules lead to.
    if let Some(table) = fixed.get_mut(4) {
        *table = 0;
    }
    Request::new(RTM_GETROUTE, 0, &fixed).attribute(RTA_DST, &octets(to))
}

/// The route that a message is about, if it is a unicast one of the main table.
pub(crate) fn read(message: Message<'_>) -> Option<RouteEntry> {
    if message.kind != RTM_NEWROUTE && message.kind != RTM_DELROUTE {
        return None;
    }
    let &[of, length, _, _, table, protocol, _, kind] = message.body.first_chunk::<8>()?;
    let flags = number(message.body.get(8..FIXED)?);
    let is_ip = of == AF_INET || of == AF_INET6;
    if !is_ip || kind != RTN_UNICAST || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let mut table = u32::from(table);
    let (mut to, mut via, mut interface, mut metric, mut other) = (None, None, 0, 0, false);
    for (kind, value) in message.attributes(FIXED) {
        match kind {
            RTA_DST => to = address(value),
            RTA_GATEWAY => via = address(value),
            RTA_OIF => interface = number(value),
            RTA_PRIORITY => metric = number(value),
            RTA_TABLE => table = number(value),
            RTA_MULTIPATH | RTA_VIA | RTA_NH_ID => other = true,
            _ => {}
        }
    }
    let all = || if of == AF_INET { IpAddr::from([0; 4]) } else { IpAddr::from([0_u8; 16]) };
    let range = IpNet::new(to.unwrap_or_else(all), length).ok()?;
    let hop = match via {
        _ if other => Hop::Other,
        Some(via) => Hop::Via { via, interface },
        None => Hop::OnLink,
    };
    (table == u32::from(RT_TABLE_MAIN)).then_some(RouteEntry { range, metric, protocol, hop })
}

fn named(kind: u16, flags: u16, entry: &RouteEntry, scope: u8) -> Request {
    let (to, length) = (entry.range.network(), entry.range.prefix_len());
    let fixed = fixed(family(to), length, entry.protocol, scope, RTN_UNICAST, 0);
    let request = Request::new(kind, flags, &fixed).attribute(RTA_DST, &octets(to));
    request.attribute(RTA_PRIORITY, &entry.metric.to_ne_bytes())
}

fn fixed(of: u8, length: u8, protocol: u8, scope: u8, kind: u8, flags: u32) -> [u8; FIXED] {
    let [a, b, c, d] = flags.to_ne_bytes();
    [of, length, 0, 0, RT_TABLE_MAIN, protocol, scope, kind, a, b, c, d]
}
