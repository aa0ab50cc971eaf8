//! Addresses for ends that have none, or none of the flow's family: a packet needs some.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mesh_policy::{End, Mesh, View};

/// An IPv4 and an IPv6 address for each pod and node, of ranges that no network has.
#[derive(Debug, Default)]
pub(crate) struct StandIns {
    numbers: HashMap<End, u32>,
}

/// "This network" (RFC 1122 §3.2.1.3).
const V4: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 0);
/// The prefix that routers discard (RFC 6666).
const V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

// === impl StandIns ===

impl StandIns {
    /// The ranges that they are of.
    pub(crate) const RANGES: [IpNet; 2] =
        [IpNet::V4(Ipv4Net::new_assert(V4, 8)), IpNet::V6(Ipv6Net::new_assert(V6, 64))];

    /// For all pods and nodes of a mesh.
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let view: Option<View<'_>> = mesh.clusters().next().and_then(|name| mesh.view(name));
        let ends = view.into_iter().flat_map(|view| view.ends().map(|(end, _)| end));
        Self { numbers: ends.zip(1..).collect() }
    }

    /// Those of a pod or node, whatever its address.
    pub(crate) fn of(&self, end: &End) -> Option<[IpAddr; 2]> {
        let end = match end {
            End::Pod(name, _) => End::Pod(name.clone(), None),
            End::Node(cluster, name, _) => End::Node(cluster.clone(), name.clone(), None),
            End::Address(_) => return None,
        };
        let number = *self.numbers.get(&end)?;
        let v4 = Ipv4Addr::from_bits(V4.to_bits() | number);
        let v6 = Ipv6Addr::from_bits(V6.to_bits() | u128::from(number));
        Some([v4.into(), v6.into()])
    }

    /// The addresses of a flow's packet: what the ends have, and stand-ins for what they lack. `None` where they have
    /// addresses of two families.
    pub(crate) fn complete(&self, from: &End, to: &End, v6: bool) -> Option<(IpAddr, IpAddr)> {
        let ends = (address(from), address(to));
        let v6 = match ends {
            (Some(one), _) | (None, Some(one)) => one.is_ipv6(),
            (None, None) => v6,
        };
        let or_stand_in = |address: Option<IpAddr>, end| {
            let stand_in = || self.of(end)?.into_iter().find(|one| one.is_ipv6() == v6);
            address.or_else(stand_in).filter(|one| one.is_ipv6() == v6)
        };
        let (source, destination) = ends;
        or_stand_in(source, from).zip(or_stand_in(destination, to))
    }
}

fn address(end: &End) -> Option<IpAddr> {
    match end {
        End::Pod(_, address) | End::Node(_, _, address) => *address,
        End::Address(address) => Some(*address),
    }
}
