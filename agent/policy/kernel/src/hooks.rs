//! A node's programs at the interfaces of its pods.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use mesh_sys::Link;

use crate::{
    copy::{EGRESS, INGRESS, Sizes, Told, find, hash, load},
    error::KernelError,
    tables::Tables,
};

/// The programs of a node, and the interfaces at which they are: at the host's end of each pod's. They are there as long as
/// this is.
#[derive(Debug)]
pub struct Hooks {
    ebpf: Ebpf,
    interfaces: HashMap<MapData, u32, u32>,
    attached: BTreeMap<u32, Attached>,
}

#[derive(Debug)]
struct Attached {
    endpoint: u32,
    _links: [Link; 2],
}

// === impl Hooks ===

impl Hooks {
    /// Loads the programs, with empty tables of a size and room for as many flows.
    ///
    /// # Errors
    /// The kernel refuses them, or does not have what they need (Linux 6.6).
    pub fn load(sizes: Sizes, flows: u32) -> Result<(Self, Tables), KernelError> {
        let (mut ebpf, tables) = load(sizes, flows, Told::Nothing)?;
        let interfaces = hash(&mut ebpf, "cm_interfaces")?;
        Ok((Self { ebpf, interfaces, attached: BTreeMap::new() }, tables))
    }

    /// From now on packets of an interface are judged, by its index, as those of a pod by its number. Takes some ten
    /// milliseconds where it was not attached yet.
    pub fn attach(&mut self, interface: u32, endpoint: u32) -> Result<(), KernelError> {
        if self.attached.get(&interface).is_some_and(|one| one.endpoint == endpoint) {
            return Ok(());
        }
        let map = |source| KernelError::Map { map: "cm_interfaces", source };
        self.interfaces.insert(interface, endpoint, 0).map_err(map)?;
        if let Some(attached) = self.attached.get_mut(&interface) {
            attached.endpoint = endpoint;
            return Ok(());
        }
        // What the pod sends arrives at the host's end, and what is sent to it leaves there.
        let links =
            [link(&mut self.ebpf, EGRESS, interface)?, link(&mut self.ebpf, INGRESS, interface)?];
        self.attached.insert(interface, Attached { endpoint, _links: links });
        Ok(())
    }

    /// Packets of an interface are no longer judged.
    pub fn detach(&mut self, interface: u32) -> Result<(), KernelError> {
        if self.attached.remove(&interface).is_none() {
            return Ok(());
        }
        let removed = self.interfaces.remove(&interface);
        removed.map_err(|source| KernelError::Map { map: "cm_interfaces", source })
    }

    /// The interfaces at which they are.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.attached.keys().copied()
    }
}

fn link(ebpf: &mut Ebpf, program: &'static str, interface: u32) -> Result<Link, KernelError> {
    let fd = find(ebpf, program)?.fd();
    let fd = fd.map_err(|source| KernelError::Program { program, source })?;
    let link = match program == EGRESS {
        true => Link::at_ingress(fd, interface),
        false => Link::at_egress(fd, interface),
    };
    link.map_err(|source| KernelError::Attach { program, interface, source })
}
