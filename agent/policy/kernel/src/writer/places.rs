//! Which place each address has.

use std::{net::IpAddr, time::Instant};

use mesh_layout::{address_bytes, policy::Place};
use mesh_model::NamedPort;
use mesh_policy::Class;

use super::Writer;
use crate::error::KernelError;

/// What is at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// As policies tell it apart. The compiler has it.
    pub class: Class,
    /// Its identity.
    pub identity: u32,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// The number of the pod of this node that has it.
    pub owner: Option<u32>,
}

/// What is written for an address.
#[derive(Debug)]
pub(super) struct Placed {
    index: u32,
    ports: u32,
    meant: Meant,
}

// === impl Writer ===

impl Writer {
    /// From now on this is at an address; `None`: nothing is known of it but its range. Its class must have been applied
    /// before, and its range be written.
    ///
    /// # Errors
    /// A table is full: the address is as it was.
    pub fn set_place(
        &mut self,
        address: IpAddr,
        meant: Option<&Meant>,
        now: Instant,
    ) -> Result<(), KernelError> {
        let Self { tables, rows, names, port_classes, place_numbers, places, .. } = self;
        if places.get(&address).map(|placed| &placed.meant) == meant {
            return Ok(());
        }
        let Some(meant) = meant else {
            if let Some(Placed { index, ports, .. }) = places.remove(&address) {
                // The hash first: what is between finds nothing, and that is unknown.
                tables.remove_address(address)?;
                tables.places.clear(index);
                port_classes.release(ports, names, now);
                place_numbers.free(index, now);
            }
            return Ok(());
        };
        let full = || KernelError::Full { what: "cm_places".into() };
        let ports = port_classes.take(&meant.ports, names, tables, now)?;
        let Some(index) = place_numbers.take(now) else {
            port_classes.release(ports, names, now);
            return Err(full());
        };
        let place = Place {
            address: address_bytes(address),
            identity: meant.identity,
            row: rows.of_class(&meant.class),
            ports,
            owner: meant.owner.map_or(0, |number| number + 1),
        };
        tables.places.set(index, &place);
        if let Err(error) = tables.set_address(address, index) {
            tables.places.clear(index);
            place_numbers.free(index, now);
            port_classes.release(ports, names, now);
            return Err(error);
        }
        let placed = Placed { index, ports, meant: meant.clone() };
        if let Some(former) = places.insert(address, placed) {
            tables.places.clear(former.index);
            port_classes.release(former.ports, names, now);
            place_numbers.free(former.index, now);
        }
        Ok(())
    }

    /// How many addresses have a place.
    pub fn places(&self) -> usize {
        self.places.len()
    }
}
