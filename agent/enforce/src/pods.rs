//! The node's pods, as the tables know them.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::PathBuf,
};

use mesh_model::{Identity, Labels, NamedPort};
use mesh_pods::{Attachment, AttachmentKey};

/// The pods that are in the tables.
#[derive(Debug, Default)]
pub(crate) struct NodePods {
    entries: BTreeMap<AttachmentKey, Entry>,
    /// The numbers of pods by their addresses.
    by_address: HashMap<IpAddr, u32>,
}

/// A pod in the tables.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) netns: PathBuf,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) identity: Identity,
    pub(crate) labels: Labels,
    pub(crate) ports: Vec<NamedPort>,
    /// Its position in the compiler.
    pub(crate) position: usize,
    /// Its number in the tables.
    pub(crate) number: u32,
}

// === impl NodePods ===

impl NodePods {
    pub(crate) fn get(&self, key: &AttachmentKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn insert(&mut self, key: AttachmentKey, entry: Entry) {
        for address in &entry.addresses {
            self.by_address.insert(*address, entry.number);
        }
        self.entries.insert(key, entry);
    }

    pub(crate) fn remove(&mut self, key: &AttachmentKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        for address in &entry.addresses {
            if self.by_address.get(address) == Some(&entry.number) {
                self.by_address.remove(address);
            }
        }
        Some(entry)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &AttachmentKey> {
        self.entries.keys()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&AttachmentKey, &Entry)> {
        self.entries.iter()
    }

    /// The number of the pod that has an address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<u32> {
        self.by_address.get(&address).copied()
    }
}

// === impl Entry ===

impl Entry {
    /// Whether a pod is as it was.
    pub(crate) fn is(
        &self,
        attachment: &Attachment,
        identity: Identity,
        labels: &Labels,
        ports: &[NamedPort],
    ) -> bool {
        self.netns == attachment.netns.path
            && self.addresses == attachment.addresses
            && (self.identity, &self.labels) == (identity, labels)
            && self.ports == ports
    }
}
