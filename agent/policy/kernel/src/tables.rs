//! The tables of a copy, and how one entry of each is written while programs read it.

use std::{net::IpAddr, sync::atomic::Ordering};

use aya::maps::{
    HashMap, MapData,
    lpm_trie::{Key, LpmTrie},
};
use ipnet::IpNet;
use mesh_layout::{
    address_bytes,
    policy::{
        Place, PolicyEndpoint, PortName, RANGE_KEY_BITS, ROW_NONE, Range, RangeKey, Rule,
        RuleWords, SELECTORS, SetHeader,
    },
};
use mesh_sys::MmapArray;

use crate::error::KernelError;

/// All tables that programs read.
#[derive(Debug)]
pub struct Tables {
    pub(crate) ipcache: HashMap<MapData, [u8; 16], u32>,
    /// What is at the addresses.
    pub places: Places,
    pub(crate) ranges: LpmTrie<MapData, RangeKey, Range>,
    pub(crate) rows: MmapArray,
    pub(crate) host: HashMap<MapData, [u8; 16], u32>,
    pub(crate) port_names: HashMap<MapData, PortName, u32>,
    pub(crate) sets: MmapArray,
    pub(crate) rules: MmapArray,
    pub(crate) endpoints: MmapArray,
    pub(crate) state: MmapArray,
}

/// What is at the addresses of the mesh: `cm_places`.
#[derive(Debug)]
pub struct Places {
    memory: MmapArray,
}

// === impl Tables ===

impl Tables {
    /// Lets an address lead to a place.
    pub fn set_address(&mut self, address: IpAddr, index: u32) -> Result<(), KernelError> {
        let set = self.ipcache.insert(address_bytes(address), index, 0);
        set.map_err(|source| KernelError::Map { map: "cm_ipcache", source })
    }

    /// An address leads nowhere any more.
    pub fn remove_address(&mut self, address: IpAddr) -> Result<(), KernelError> {
        let removed = self.ipcache.remove(&address_bytes(address));
        removed.map_err(|source| KernelError::Map { map: "cm_ipcache", source })
    }

    /// Writes what a range is.
    pub fn set_range(&mut self, range: IpNet, value: Range) -> Result<(), KernelError> {
        let set = self.ranges.insert(&range_key(range), value, 0);
        set.map_err(|source| KernelError::Map { map: "cm_cidr", source })
    }

    /// Removes a range.
    pub fn remove_range(&mut self, range: IpNet) -> Result<(), KernelError> {
        let removed = self.ranges.remove(&range_key(range));
        removed.map_err(|source| KernelError::Map { map: "cm_cidr", source })
    }

    /// Writes the bits of a row, word by word. Words that are missing are 0.
    pub fn set_row(&self, row: u32, words: &[u64]) {
        for at in 0..SELECTORS / 64 {
            store(&self.rows, row, at, words.get(at).copied().unwrap_or_default());
        }
    }

    /// From now on these are the node's addresses, each with its row, instead of those that there were.
    pub fn set_host(&mut self, addresses: &[IpAddr], row: u32) -> Result<(), KernelError> {
        let error = |source| KernelError::Map { map: "cm_host", source };
        let former: Vec<[u8; 16]> = self.host.keys().collect::<Result<_, _>>().map_err(error)?;
        for address in former {
            self.host.remove(&address).map_err(error)?;
        }
        for address in addresses {
            self.host.insert(address_bytes(*address), row, 0).map_err(error)?;
        }
        Ok(())
    }

    /// Adds a named port to a class of ports, which nothing has yet.
    pub fn add_port_name(&mut self, name: PortName) -> Result<(), KernelError> {
        let added = self.port_names.insert(name, 1, 0);
        added.map_err(|source| KernelError::Map { map: "cm_port_names", source })
    }

    /// Removes a named port from a class that nothing has any more.
    pub fn remove_port_name(&mut self, name: &PortName) -> Result<(), KernelError> {
        let removed = self.port_names.remove(name);
        removed.map_err(|source| KernelError::Map { map: "cm_port_names", source })
    }

    /// Writes a rule that no set in use leads to.
    pub fn set_rule(&self, index: u32, rule: Rule) {
        let RuleWords([first, second]) = rule.to_words();
        store(&self.rules, index, 0, first);
        store(&self.rules, index, 1, second);
    }

    /// Writes a set that no pod has yet.
    pub fn set_set(&self, number: u32, header: SetHeader) {
        store(&self.sets, number, 0, header.to_word());
    }

    /// Gives a pod its sets.
    pub fn set_endpoint(&self, number: u32, sets: PolicyEndpoint) {
        let word = u64::from(sets.egress) | u64::from(sets.ingress) << 32;
        store(&self.endpoints, number, 0, word);
    }

    /// Removes all addresses, ranges, named ports and addresses of the node. What is in arrays stays, and nothing leads to it.
    pub fn clear(&mut self) -> Result<(), KernelError> {
        let error = |source| KernelError::Map { map: "cm_ipcache", source };
        let all: Vec<[u8; 16]> = self.ipcache.keys().collect::<Result<_, _>>().map_err(error)?;
        all.iter().try_for_each(|key| self.ipcache.remove(key)).map_err(error)?;
        let error = |source| KernelError::Map { map: "cm_cidr", source };
        let all: Vec<Key<RangeKey>> =
            self.ranges.keys().collect::<Result<_, _>>().map_err(error)?;
        all.iter().try_for_each(|key| self.ranges.remove(key)).map_err(error)?;
        let error = |source| KernelError::Map { map: "cm_port_names", source };
        let all: Vec<PortName> = self.port_names.keys().collect::<Result<_, _>>().map_err(error)?;
        all.iter().try_for_each(|key| self.port_names.remove(key)).map_err(error)?;
        self.set_host(&[], ROW_NONE)
    }

    /// Writes a word of the state.
    pub fn set_state(&self, word: u32, value: u64) {
        store(&self.state, word, 0, value);
    }

    /// A word of the state.
    pub fn state(&self, word: u32) -> u64 {
        self.state.u64(word, 0).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

// === impl Places ===

impl Places {
    /// Those in the memory of `cm_places`.
    pub fn of(memory: MmapArray) -> Self {
        Self { memory }
    }

    /// Writes a place to an index that is free: its address last. An index may be written for another address a second
    /// after it was freed.
    pub fn set(&self, index: u32, place: &Place) {
        let Place { address, identity, row, ports, owner } = *place;
        store(&self.memory, index, 2, u64::from(identity) | u64::from(row) << 32);
        store(&self.memory, index, 3, u64::from(ports) | u64::from(owner) << 32);
        let [low, high] = halves(address);
        store(&self.memory, index, 1, high);
        store(&self.memory, index, 0, low);
    }

    /// Frees a place: its address first. What is at it stays for those who are reading.
    pub fn clear(&self, index: u32) {
        store(&self.memory, index, 0, 0);
        store(&self.memory, index, 1, 0);
    }
}

/// One store, seen after those before it.
fn store(table: &MmapArray, index: u32, word: usize, value: u64) {
    if let Some(at) = table.u64(index, word) {
        at.store(value, Ordering::Release);
    }
}

fn halves(address: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)]
}

fn range_key(range: IpNet) -> Key<RangeKey> {
    let (family, length) = match range {
        IpNet::V4(range) => (4, 96 + u32::from(range.prefix_len())),
        IpNet::V6(range) => (6, u32::from(range.prefix_len())),
    };
    let address = address_bytes(range.network());
    Key::new(RANGE_KEY_BITS + length, RangeKey { family: [family; 4], address })
}
