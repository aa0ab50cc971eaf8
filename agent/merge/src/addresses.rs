//! A cluster's records of addresses. There may be a million, so each takes no more than its family needs.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use mesh_model::Identity;

use crate::{accounting::slot, address_table, hosts::HostIndex};

/// The addresses and prefixes that a cluster reports.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    v4: HashMap<Ipv4Addr, AddressEntry>,
    v6: HashMap<Ipv6Addr, AddressEntry>,
    /// Records of more than one address, which only other writers than ours have.
    prefixes: HashMap<IpNet, AddressEntry>,
}

/// The entry of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressEntry {
    /// As its cluster reported it; the effective one follows from the grant.
    pub(crate) identity: Identity,
    pub(crate) host: HostIndex,
    pub(crate) round: u32,
}

/// Slots that are worth no look.
const FEW: usize = 1_024;

/// The address of a record that is of one alone.
pub(crate) fn single(net: IpNet) -> Option<IpAddr> {
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// The bytes of a record, with those of the claim that it is.
pub(crate) fn bytes(net: IpNet) -> u64 {
    match net {
        _ if single(net).is_none() => slot::<IpNet, AddressEntry>(),
        IpNet::V4(_) => slot::<Ipv4Addr, AddressEntry>() + address_table::bytes(net.addr()),
        IpNet::V6(_) => slot::<Ipv6Addr, AddressEntry>() + address_table::bytes(net.addr()),
    }
}

// === impl Addresses ===

impl Addresses {
    pub(crate) fn get(&self, net: IpNet) -> Option<&AddressEntry> {
        match single(net) {
            Some(IpAddr::V4(ip)) => self.v4.get(&ip),
            Some(IpAddr::V6(ip)) => self.v6.get(&ip),
            None => self.prefixes.get(&net),
        }
    }

    pub(crate) fn get_mut(&mut self, net: IpNet) -> Option<&mut AddressEntry> {
        match single(net) {
            Some(IpAddr::V4(ip)) => self.v4.get_mut(&ip),
            Some(IpAddr::V6(ip)) => self.v6.get_mut(&ip),
            None => self.prefixes.get_mut(&net),
        }
    }

    pub(crate) fn insert(&mut self, net: IpNet, entry: AddressEntry) -> Option<AddressEntry> {
        match single(net) {
            Some(IpAddr::V4(ip)) => self.v4.insert(ip, entry),
            Some(IpAddr::V6(ip)) => self.v6.insert(ip, entry),
            None => self.prefixes.insert(net, entry),
        }
    }

    pub(crate) fn remove(&mut self, net: IpNet) -> Option<AddressEntry> {
        match single(net) {
            Some(IpAddr::V4(ip)) => self.v4.remove(&ip),
            Some(IpAddr::V6(ip)) => self.v6.remove(&ip),
            None => self.prefixes.remove(&net),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.prefixes.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpNet, &AddressEntry)> {
        let v4 = self.v4.iter().map(|(ip, entry)| (IpNet::from(IpAddr::V4(*ip)), entry));
        let v6 = self.v6.iter().map(|(ip, entry)| (IpNet::from(IpAddr::V6(*ip)), entry));
        v4.chain(v6).chain(self.prefixes.iter().map(|(net, entry)| (*net, entry)))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut AddressEntry> {
        let Self { v4, v6, prefixes } = self;
        v4.values_mut().chain(v6.values_mut()).chain(prefixes.values_mut())
    }

    /// Frees the memory of a table that has become small.
    pub(crate) fn shrink(&mut self) {
        fn each<K: Eq + Hash>(table: &mut HashMap<K, AddressEntry>) {
            shrink(table);
        }
        each(&mut self.v4);
        each(&mut self.v6);
        each(&mut self.prefixes);
    }
}

/// Frees the memory of a table that has become small: a peer's former size is not reserved for it.
pub(crate) fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.capacity() > 4 * table.len() + FEW {
        table.shrink_to(2 * table.len());
    }
}
