//! Which clusters claim an address. One table for all clusters, so that a claim finds the others of its address.
//!
//! Nearly every address has one claim, which takes a few bytes in a B-tree. Where there are several, each is kept with
//! its place in the order in which they were made.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use mesh_model::ClusterId;

use crate::accounting::leaf;

/// The claims of all addresses.
#[derive(Debug, Default)]
pub(crate) struct AddressTable {
    v4: BTreeMap<u32, Sole>,
    v6: BTreeMap<u128, Sole>,
    /// All claims of addresses that have several.
    contested: BTreeMap<(IpAddr, Order), ClusterId>,
    /// How many addresses these are.
    contested_addresses: usize,
}

/// When a claim was made: of several the earliest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Made {
    /// In the previous run, in which the cluster had the address.
    Before,
    /// In the first list of a cluster that was there when this run began. Which of these came first is chance.
    AtStart,
    /// In the previous run, in which another cluster had the address.
    BeforeAsSecond,
    /// At a moment of this run.
    Now,
}

/// A claim among those of its address: when it was made, and which of these it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Order(u64);

/// The only claim of an address, or that there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sole(u16);

/// The bytes of one of several claims, in a B-tree whose nodes are half empty at worst.
const CONTESTED: u64 = 2 * (size_of::<(IpAddr, Order)>() + size_of::<ClusterId>()) as u64;

/// The bytes that a claim takes, also if it is one of several.
pub(crate) fn bytes(address: IpAddr) -> u64 {
    let sole = match address {
        IpAddr::V4(_) => leaf::<(u32, Sole)>(),
        IpAddr::V6(_) => leaf::<(u128, Sole)>(),
    };
    sole + CONTESTED
}

// === impl AddressTable ===

impl AddressTable {
    /// A cluster claims an address. Whether that is new, and others claim it too.
    pub(crate) fn add(&mut self, address: IpAddr, cluster: ClusterId, made: Made) -> bool {
        let mut is_new = false;
        let new = || {
            is_new = true;
            Sole::new(cluster, made)
        };
        let sole = match address {
            IpAddr::V4(ip) => *self.v4.entry(ip.to_bits()).or_insert_with(new),
            IpAddr::V6(ip) => *self.v6.entry(ip.to_bits()).or_insert_with(new),
        };
        if is_new {
            return false;
        }
        if self.claims(address).any(|of| of == cluster) {
            return false;
        }
        if let Some((holder, made)) = sole.claim() {
            self.contested.insert((address, Order::first(made, holder)), holder);
            self.contested_addresses += 1;
            self.set_sole(address, Some(Sole::SEVERAL));
        }
        let last = self.orders(address).last().map(|(order, _)| order);
        let order = match last.filter(|last| made == Made::Now && last.made() == Made::Now) {
            Some(Order(last)) => Order(last + 1),
            None => Order::first(made, cluster),
        };
        self.contested.insert((address, order), cluster);
        true
    }

    /// A cluster no longer claims an address. Whether that is new, and others claim it.
    pub(crate) fn remove(&mut self, address: IpAddr, cluster: ClusterId) -> bool {
        let Some(sole) = self.sole(address) else { return false };
        if let Some((holder, _)) = sole.claim() {
            if holder == cluster {
                self.set_sole(address, None);
            }
            return false;
        }
        let Some((order, _)) = self.orders(address).find(|(_, of)| *of == cluster) else {
            return false;
        };
        self.contested.remove(&(address, order));
        let mut left = self.orders(address);
        if let (Some((order, last)), None) = (left.next(), left.next()) {
            drop(left);
            self.contested.remove(&(address, order));
            self.contested_addresses -= 1;
            self.set_sole(address, Some(Sole::new(last, order.made())));
        }
        true
    }

    /// The clusters that claim an address, the earliest claim first.
    pub(crate) fn claims(&self, address: IpAddr) -> impl Iterator<Item = ClusterId> {
        let sole = self.sole(address);
        let several = sole == Some(Sole::SEVERAL);
        let sole = sole.and_then(Sole::claim).map(|(cluster, _)| cluster);
        let orders = several.then(|| self.orders(address).map(|(_, cluster)| cluster));
        sole.into_iter().chain(orders.into_iter().flatten())
    }

    /// How many addresses have several claims.
    pub(crate) fn contested(&self) -> usize {
        self.contested_addresses
    }

    /// These addresses, in order.
    pub(crate) fn contested_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let mut last = None;
        let addresses = self.contested.keys().map(|(address, _)| *address);
        addresses.filter(move |address| last.replace(*address) != Some(*address))
    }

    /// Those of them that a cluster claims.
    pub(crate) fn contested_of(&self, cluster: ClusterId) -> impl Iterator<Item = IpAddr> {
        let claims = self.contested.iter().filter(move |(_, of)| **of == cluster);
        claims.map(|((address, _), _)| *address)
    }

    /// The addresses in a range that anyone claims.
    pub(crate) fn within(&self, range: IpNet) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = match range {
            IpNet::V4(net) => (Some(net.network().to_bits()..=net.broadcast().to_bits()), None),
            IpNet::V6(net) => (None, Some(net.network().to_bits()..=net.broadcast().to_bits())),
        };
        let v4 = v4.into_iter().flat_map(|range| self.v4.range(range));
        let v4 = v4.map(|(bits, _)| IpAddr::V4(Ipv4Addr::from_bits(*bits)));
        let v6 = v6.into_iter().flat_map(|range: RangeInclusive<u128>| self.v6.range(range));
        v4.chain(v6.map(|(bits, _)| IpAddr::V6(Ipv6Addr::from_bits(*bits))))
    }

    fn sole(&self, address: IpAddr) -> Option<Sole> {
        match address {
            IpAddr::V4(ip) => self.v4.get(&ip.to_bits()).copied(),
            IpAddr::V6(ip) => self.v6.get(&ip.to_bits()).copied(),
        }
    }

    fn set_sole(&mut self, address: IpAddr, sole: Option<Sole>) {
        match (address, sole) {
            (IpAddr::V4(ip), Some(sole)) => drop(self.v4.insert(ip.to_bits(), sole)),
            (IpAddr::V6(ip), Some(sole)) => drop(self.v6.insert(ip.to_bits(), sole)),
            (IpAddr::V4(ip), None) => drop(self.v4.remove(&ip.to_bits())),
            (IpAddr::V6(ip), None) => drop(self.v6.remove(&ip.to_bits())),
        }
    }

    /// The claims of an address that has several, the earliest first.
    fn orders(&self, address: IpAddr) -> impl Iterator<Item = (Order, ClusterId)> {
        let all = (address, Order(0))..=(address, Order(u64::MAX));
        self.contested.range(all).map(|((_, order), cluster)| (*order, *cluster))
    }
}

// === impl Made ===

impl Made {
    const ALL: [Self; 4] = [Self::Before, Self::AtStart, Self::BeforeAsSecond, Self::Now];

    fn from_bits(bits: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|made| *made as u64 == bits)
    }
}

// === impl Order ===

impl Order {
    /// Where in it a claim's [`Made`] is.
    const SHIFT: u32 = 56;

    /// The order of the first claim of its kind. Of claims whose order is not known the lowest cluster ID counts.
    fn first(made: Made, cluster: ClusterId) -> Self {
        let among = if made == Made::Now { 0 } else { cluster.get().into() };
        Self((made as u64) << Self::SHIFT | among)
    }

    fn made(self) -> Made {
        Made::from_bits(self.0 >> Self::SHIFT).unwrap_or(Made::Now)
    }
}

// === impl Sole ===

impl Sole {
    const SEVERAL: Self = Self(u16::MAX);
    /// A cluster ID is below 512.
    const SHIFT: u32 = 10;

    fn new(cluster: ClusterId, made: Made) -> Self {
        Self(cluster.get() | (made as u16) << Self::SHIFT)
    }

    /// `None` if there are several.
    fn claim(self) -> Option<(ClusterId, Made)> {
        let made = Made::from_bits((self.0 >> Self::SHIFT).into())?;
        let id = u32::from(self.0) & ((1 << Self::SHIFT) - 1);
        ClusterId::from_wire(id).map(|cluster| (cluster, made))
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::ClusterLimit;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u32) -> ClusterId {
        ClusterId::new(n, ClusterLimit::Max511).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn of_several_claims_the_earliest_is_first() {
        let mut table = AddressTable::default();
        let address = ip("10.2.1.5");
        let claims = |table: &AddressTable| -> Vec<u16> {
            table.claims(address).map(ClusterId::get).collect()
        };
        assert!(!table.add(address, id(511), Made::Now) && !table.add(address, id(511), Made::Now));
        assert_eq!((claims(&table), table.contested()), (vec![511], 0));
        // Later ones come after it; what was before this run, and lists of its start, do not.
        for (cluster, made, expected) in [
            (7, Made::Now, vec![511, 7]),
            (3, Made::Now, vec![511, 7, 3]),
            (9, Made::BeforeAsSecond, vec![9, 511, 7, 3]),
            (8, Made::AtStart, vec![8, 9, 511, 7, 3]),
            (5, Made::AtStart, vec![5, 8, 9, 511, 7, 3]),
            (6, Made::Before, vec![6, 5, 8, 9, 511, 7, 3]),
        ] {
            assert!(table.add(address, id(cluster), made));
            assert_eq!(claims(&table), expected);
        }
        assert!(!table.add(address, id(3), Made::Before));
        assert_eq!(table.contested_addresses().collect::<Vec<_>>(), [address]);
        for gone in [6, 511, 5, 9, 7] {
            assert!(table.remove(address, id(gone)));
        }
        assert_eq!(claims(&table), [8, 3]);
        assert!(table.remove(address, id(3)) && !table.remove(address, id(3)));
        assert_eq!((claims(&table), table.contested()), (vec![8], 0));
        // It is still one of the start.
        table.add(address, id(2), Made::AtStart);
        assert_eq!(claims(&table), [2, 8]);
        table.remove(address, id(8));
        table.remove(address, id(2));
        assert!(table.v4.is_empty() && table.contested.is_empty());
    }

    #[test]
    fn addresses_are_found_by_range_and_by_cluster() {
        let mut table = AddressTable::default();
        for text in ["10.2.1.0", "10.2.1.255", "10.2.2.0", "fd00:2::5", "fd00:3::5"] {
            table.add(ip(text), id(2), Made::Now);
        }
        table.add(ip("10.2.1.255"), id(3), Made::Now);
        table.add(ip("fd00:3::5"), id(4), Made::Now);
        let within = |range: &str| -> Vec<String> {
            table.within(range.parse().unwrap()).map(|ip| ip.to_string()).collect()
        };
        assert_eq!(within("10.2.1.0/24"), ["10.2.1.0", "10.2.1.255"]);
        assert_eq!(within("fd00:2::/32"), ["fd00:2::5"]);
        assert_eq!(within("10.3.0.0/16"), Vec::<String>::new());
        assert_eq!(table.contested_of(id(3)).collect::<Vec<_>>(), [ip("10.2.1.255")]);
        assert_eq!(table.contested_of(id(2)).count(), 2);
    }

    proptest! {
        /// Against a list of all claims in the order in which they were made.
        #[test]
        fn it_is_a_list_of_claims(steps in prop::collection::vec((any::<bool>(), 0u8..3, 1u32..5, 0usize..4), 0..60)) {
            const MADE: [Made; 4] = [Made::Before, Made::AtStart, Made::BeforeAsSecond, Made::Now];
            let mut table = AddressTable::default();
            let mut list: Vec<(IpAddr, u32, usize)> = Vec::new();
            for (add, last, cluster, made) in steps {
                let address = if last == 2 { ip("fd00::2") } else { IpAddr::from([10, 0, 0, last]) };
                let known = list.iter().position(|(ip, of, _)| (*ip, *of) == (address, cluster));
                let is_new = match (add, known) {
                    (true, None) => {
                        list.push((address, cluster, made));
                        true
                    }
                    (false, Some(at)) => {
                        list.remove(at);
                        true
                    }
                    (true, Some(_)) | (false, None) => false,
                };
                let others = list.iter().any(|(ip, of, _)| *ip == address && *of != cluster);
                let matters = match add {
                    true => table.add(address, id(cluster), MADE[made]),
                    false => table.remove(address, id(cluster)),
                };
                prop_assert_eq!(matters, is_new && others);
                let mut contested = 0;
                for address in [ip("10.0.0.0"), ip("10.0.0.1"), ip("fd00::2")] {
                    let mut claims: Vec<_> = list.iter().filter(|(ip, ..)| *ip == address).collect();
                    claims.sort_by_key(|(_, of, made)| (*made, if *made < 3 { *of } else { 0 }));
                    let expected: Vec<u16> = claims.iter().map(|(_, of, _)| u16::try_from(*of).unwrap()).collect();
                    prop_assert_eq!(table.claims(address).map(ClusterId::get).collect::<Vec<_>>(), expected);
                    contested += usize::from(claims.len() > 1);
                }
                prop_assert_eq!(table.contested(), contested);
                prop_assert_eq!(table.contested_addresses().count(), contested);
            }
        }
    }
}
