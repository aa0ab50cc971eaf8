//! Numbers of ports' names, and classes of receivers that give the same names to the same ports.

use std::{collections::HashMap, time::Instant};

use mesh_layout::policy::PortName;
use mesh_model::{NamedPort, Protocol};

use super::resting::Resting;
use crate::{error::KernelError, tables::Tables};

/// Numbers of names, from 1 on: for as long as the tables live, as there are few.
#[derive(Debug, Default)]
pub(crate) struct Names {
    numbers: HashMap<String, u32>,
}

/// Classes of ports, from 1 on; 0 is that of those without named ports.
#[derive(Debug, Default)]
pub(crate) struct PortClasses {
    present: HashMap<Vec<NamedPort>, (u32, u32)>,
    by_number: HashMap<u32, Vec<NamedPort>>,
    last: u32,
    resting: Resting<Vec<PortName>>,
}

// === impl Names ===

impl Names {
    pub(crate) fn of(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX).saturating_add(1);
        self.numbers.insert(name.to_owned(), number);
        number
    }
}

// === impl PortClasses ===

impl PortClasses {
    /// The class of these ports, which is written if nothing had it. One more has it.
    pub(crate) fn take(
        &mut self,
        ports: &[NamedPort],
        names: &mut Names,
        tables: &mut Tables,
        now: Instant,
    ) -> Result<u32, KernelError> {
        let rested: Vec<_> = self.resting.take(now).flatten().collect();
        rested.iter().try_for_each(|name| tables.remove_port_name(name))?;
        if ports.is_empty() {
            return Ok(0);
        }
        if let Some((class, uses)) = self.present.get_mut(ports) {
            *uses += 1;
            return Ok(*class);
        }
        let class = self.last + 1;
        for name in keys(class, ports, names) {
            tables.add_port_name(name)?;
        }
        // A number is not used twice: four billion are enough.
        self.last = class;
        self.present.insert(ports.to_vec(), (class, 1));
        self.by_number.insert(class, ports.to_vec());
        Ok(class)
    }

    /// One less has it.
    pub(crate) fn release(&mut self, class: u32, names: &mut Names, now: Instant) {
        let Some(ports) = self.by_number.get(&class) else { return };
        let Some((_, uses)) = self.present.get_mut(ports) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        self.resting.put(keys(class, ports, names), now);
        self.present.remove(ports);
        self.by_number.remove(&class);
    }
}

/// The keys of a class, each once.
fn keys(class: u32, ports: &[NamedPort], names: &mut Names) -> Vec<PortName> {
    let key = |one: &NamedPort| PortName {
        class,
        name: names.of(&one.name),
        port: one.port.number,
        protocol: number(one.port.protocol),
        reserved: 0,
    };
    let mut keys: Vec<PortName> = ports.iter().map(key).collect();
    keys.sort_unstable_by_key(|key| (key.name, key.protocol, key.port));
    keys.dedup();
    keys
}

/// The protocol's number in the IP header (IANA, "Protocol Numbers").
pub(super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}
