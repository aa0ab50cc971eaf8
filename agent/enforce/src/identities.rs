//! Which addresses have which identity: an identity's labels may come after its addresses, and change.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use mesh_merge::AddressHolder;
use mesh_model::{ClusterId, Identity};

/// The addresses of the mesh by their identities.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    holders: HashMap<IpAddr, AddressHolder>,
    addresses: HashMap<(ClusterId, Identity), BTreeSet<IpAddr>>,
}

// === impl Identities ===

impl Identities {
    /// Who has an address now.
    pub(crate) fn set(&mut self, address: IpAddr, holder: Option<AddressHolder>) {
        let former = match holder {
            Some(holder) => self.holders.insert(address, holder),
            None => self.holders.remove(&address),
        };
        if let Some(AddressHolder { cluster, identity }) = former
            && let Some(addresses) = self.addresses.get_mut(&(cluster, identity))
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.addresses.remove(&(cluster, identity));
            }
        }
        if let Some(AddressHolder { cluster, identity }) = holder {
            self.addresses.entry((cluster, identity)).or_default().insert(address);
        }
    }

    pub(crate) fn holder(&self, address: IpAddr) -> Option<AddressHolder> {
        self.holders.get(&address).copied()
    }

    /// All addresses with an identity.
    pub(crate) fn addresses(&self, cluster: ClusterId, identity: Identity) -> Vec<IpAddr> {
        self.addresses.get(&(cluster, identity)).into_iter().flatten().copied().collect()
    }
}
