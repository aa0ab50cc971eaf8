//! The hosts that a cluster's addresses are on: few, and named by all.

use std::{collections::HashMap, net::IpAddr};

use crate::accounting::{list, slot};

/// A host in [`Hosts`]; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostIndex(u32);

/// The hosts of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    by_ip: HashMap<IpAddr, HostIndex>,
    ips: Vec<IpAddr>,
}

impl Hosts {
    pub(crate) fn len(&self) -> usize {
        self.ips.len()
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let each = slot::<IpAddr, HostIndex>() + 2 * list::<IpAddr>(1);
        each * u64::try_from(self.ips.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn index(&mut self, ip: IpAddr) -> HostIndex {
        let Self { by_ip, ips } = self;
        *by_ip.entry(ip).or_insert_with(|| {
            ips.push(ip);
            HostIndex(u32::try_from(ips.len()).unwrap_or_default())
        })
    }

    pub(crate) fn ip(&self, index: HostIndex) -> Option<IpAddr> {
        let at = usize::try_from(index.0).ok()?.checked_sub(1)?;
        self.ips.get(at).copied()
    }
}
