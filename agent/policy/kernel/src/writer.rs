//! Keeps the tables of a node as its compiler has them, change by change.
//!
//! Programs judge meanwhile, and must at no moment find what neither the former nor the new state says. So new bits are
//! written beside the former ones, then pods get their sets, then the former bits go, and at last the epoch moves, which has
//! flows judged anew.

mod names;
mod places;
mod ranges;
mod resting;
mod rows;
mod segments;
mod sets;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use ipnet::IpNet;
use mesh_layout::policy::{
    FLAG_CIDRS_IN_MESH, FLAG_LOCALHOST, FLAG_OFF, PolicyEndpoint, ROW_IN_MESH, Range, STATE_EPOCH,
    STATE_FLAGS,
};
use mesh_policy::{
    AllowLocalhost, Changes, Class, Compiler, Direction, Enforcement, Number, Options, Row, Set,
};

use crate::{copy::Sizes, error::KernelError, tables::Tables};
use names::{Names, PortClasses};
pub use places::Meant;
use places::Placed;
use resting::{Numbers, Resting};
use rows::Rows;
use sets::Sets;

/// The tables, and what is in them.
#[derive(Debug)]
pub struct Writer {
    /// The tables.
    pub tables: Tables,
    rows: Rows,
    sets: Sets,
    names: Names,
    port_classes: PortClasses,
    place_numbers: Numbers,
    places: HashMap<IpAddr, Placed>,
    /// As they are written.
    ranges: BTreeMap<IpNet, Range>,
    /// What the addresses of a range are that are nothing else.
    bases: BTreeMap<IpNet, Class>,
    /// Pods by their positions in the compiler.
    endpoints: HashMap<usize, Endpoint>,
    endpoint_numbers: Numbers,
    in_mesh: Row,
    flags: u64,
    /// What is not written yet.
    pending: Changes,
    /// Selectors that nothing has any more.
    freed: Resting<Vec<Number>>,
}

#[derive(Clone, Copy, Debug)]
struct Endpoint {
    number: u32,
    sets: PolicyEndpoint,
}

// === impl Writer ===

impl Writer {
    /// Of tables in which nothing is.
    pub fn new(tables: Tables, sizes: Sizes, options: Options) -> Self {
        let mut flags = 0;
        if options.enforcement == Enforcement::Never {
            flags |= FLAG_OFF;
        }
        if options.allow_localhost == AllowLocalhost::Always {
            flags |= FLAG_LOCALHOST;
        }
        tables.set_state(STATE_FLAGS, flags);
        Self {
            tables,
            rows: Rows::new(sizes.rows),
            sets: Sets::new(sizes.sets, sizes.rules),
            names: Names::default(),
            port_classes: PortClasses::default(),
            // Index 0 is no place.
            place_numbers: Numbers::new(1, sizes.places),
            places: HashMap::new(),
            ranges: BTreeMap::new(),
            bases: BTreeMap::new(),
            endpoints: HashMap::new(),
            endpoint_numbers: Numbers::new(0, sizes.endpoints),
            in_mesh: Row::default(),
            flags,
            pending: Changes::default(),
            freed: Resting::default(),
        }
    }

    /// A pod is on the node: the one at this position in the compiler. Returns its number. It gets its sets with the next
    /// [`Writer::apply`].
    pub fn add_endpoint(&mut self, position: usize, now: Instant) -> Result<u32, KernelError> {
        if let Some(endpoint) = self.endpoints.get(&position) {
            return Ok(endpoint.number);
        }
        let number = self.endpoint_numbers.take(now);
        let number = number.ok_or_else(|| KernelError::Full { what: "cm_endpoints".into() })?;
        let sets = PolicyEndpoint::default();
        self.tables.set_endpoint(number, sets);
        self.endpoints.insert(position, Endpoint { number, sets });
        self.pending.subjects.insert(position);
        Ok(number)
    }

    /// A pod is gone, and so is its interface.
    pub fn remove_endpoint(&mut self, position: usize, now: Instant) {
        let Some(Endpoint { number, sets }) = self.endpoints.remove(&position) else { return };
        self.tables.set_endpoint(number, PolicyEndpoint::default());
        self.sets.release(sets.egress, now);
        self.sets.release(sets.ingress, now);
        self.endpoint_numbers.free(number, now);
    }

    /// The number of a pod.
    pub fn endpoint(&self, position: usize) -> Option<u32> {
        self.endpoints.get(&position).map(|endpoint| endpoint.number)
    }

    /// The set that a pod has.
    pub fn set(&self, position: usize, direction: Direction) -> Option<&Arc<Set>> {
        let Endpoint { sets, .. } = self.endpoints.get(&position)?;
        self.sets.get(match direction {
            Direction::Egress => sets.egress,
            Direction::Ingress => sets.ingress,
        })
    }

    /// Whether a pod has rules in either direction.
    pub fn is_governed(&self, position: usize) -> bool {
        self.endpoints.get(&position).is_some_and(|one| one.sets != PolicyEndpoint::default())
    }

    /// Writes what changed. What cannot be written is tried again with the next call.
    ///
    /// # Errors
    /// The first thing that could not be written: a table is full, or a limit is passed.
    pub fn apply(
        &mut self,
        compiler: &Compiler,
        changes: Changes,
        now: Instant,
    ) -> Result<(), KernelError> {
        self.freed.put(changes.freed, now);
        self.pending.classes.extend(changes.classes);
        self.pending.prefixes.extend(changes.prefixes);
        self.pending.subjects.extend(changes.subjects);
        self.pending.in_mesh |= changes.in_mesh;
        let Changes { classes, prefixes, subjects, in_mesh, .. } = self.pending.clone();
        let mut moved = false;

        // 1. What is new, beside what was.
        for class in &classes {
            let Some(row) = compiler.row(class) else { continue };
            let written = self.rows.written(class);
            moved |= written.is_some_and(|written| written != row);
            let both = union(written, row);
            self.rows.set_class(class, &both, &self.tables, now)?;
        }
        if in_mesh {
            moved |= self.in_mesh != *compiler.in_mesh();
            self.set_in_mesh(union(Some(&self.in_mesh), compiler.in_mesh()));
        }
        for prefix in &prefixes {
            moved |= self.write_range(compiler, prefix, ranges::Former::Stays, now)?;
        }
        // 2. What leads to it.
        for position in &subjects {
            self.write_endpoint(compiler, *position, now)?;
        }
        // 3. What was goes.
        for class in &classes {
            match compiler.row(class) {
                Some(row) if self.rows.written(class) != Some(row) => {
                    self.rows.set_class(class, row, &self.tables, now)?;
                }
                Some(_) => {}
                None => self.rows.remove_class(class, now),
            }
        }
        if in_mesh {
            self.set_in_mesh(compiler.in_mesh().clone());
        }
        for prefix in &prefixes {
            moved |= self.write_range(compiler, prefix, ranges::Former::Goes, now)?;
        }
        if moved {
            self.move_epoch();
        }
        self.pending = Changes::default();
        Ok(())
    }

    /// Selectors that have rested since nothing has them: the compiler may use them again.
    pub fn rested(&mut self, now: Instant) -> Vec<Number> {
        self.freed.take(now).flatten().collect()
    }

    /// What is not as the compiler has it, in words. For tests and audits: looks at everything.
    pub fn differences(&self, compiler: &Compiler) -> Vec<String> {
        let mut found = Vec::new();
        for (class, row) in compiler.rows() {
            if self.rows.written(class) != Some(row) {
                found.push(format!("row of {class:?}"));
            }
        }
        let gone = self.rows.classes().filter(|class| compiler.row(class).is_none());
        found.extend(gone.map(|class| format!("row of {class:?}, which is gone")));
        for (prefix, row) in compiler.prefixes() {
            let written = self.ranges.get(prefix).map(|range| range.cidrs);
            let written =
                written.map(|number| self.rows.shared(number).cloned().unwrap_or_default());
            if written.as_ref() != Some(row) {
                found.push(format!("range {prefix}"));
            }
        }
        let gone = self
            .ranges
            .keys()
            .filter(|prefix| compiler.prefix(prefix).is_none() && !self.bases.contains_key(prefix));
        found.extend(gone.map(|prefix| format!("range {prefix}, which is gone")));
        for position in self.endpoints.keys() {
            for direction in [Direction::Egress, Direction::Ingress] {
                let written = self.set(*position, direction).map(|set| &**set);
                let wanted = compiler.set(*position, direction).map(|set| &**set);
                let nothing = Set::default();
                if written.unwrap_or(&nothing) != wanted.unwrap_or(&nothing) {
                    found.push(format!("{direction:?} of pod {position}"));
                }
            }
        }
        if self.in_mesh != *compiler.in_mesh() {
            found.push("ranges in the mesh".into());
        }
        found
    }

    /// From now on these are the node's addresses, and this is what they are to its pods.
    pub fn set_host(&mut self, addresses: &[IpAddr], class: &Class) -> Result<(), KernelError> {
        self.tables.set_host(addresses, self.rows.of_class(class))
    }

    /// The tables, with what is in them.
    pub fn into_tables(self) -> Tables {
        self.tables
    }

    fn write_endpoint(
        &mut self,
        compiler: &Compiler,
        position: usize,
        now: Instant,
    ) -> Result<(), KernelError> {
        let Self { endpoints, sets, names, tables, .. } = self;
        let Some(endpoint) = endpoints.get_mut(&position) else { return Ok(()) };
        let mut number = |direction| match compiler.set(position, direction) {
            Some(set) => sets.take(set, names, tables, now),
            None => Ok(0),
        };
        let egress = number(Direction::Egress)?;
        let ingress = match number(Direction::Ingress) {
            Ok(ingress) => ingress,
            Err(error) => {
                sets.release(egress, now);
                return Err(error);
            }
        };
        let former = std::mem::replace(&mut endpoint.sets, PolicyEndpoint { egress, ingress });
        if former != endpoint.sets {
            tables.set_endpoint(endpoint.number, endpoint.sets);
        }
        sets.release(former.egress, now);
        sets.release(former.ingress, now);
        Ok(())
    }

    fn set_in_mesh(&mut self, row: Row) {
        // Bits before the flag, and the other way round.
        let has_any = row != Row::default();
        if !has_any {
            self.set_flag(FLAG_CIDRS_IN_MESH, false);
        }
        self.tables.set_row(ROW_IN_MESH, row.words());
        if has_any {
            self.set_flag(FLAG_CIDRS_IN_MESH, true);
        }
        self.in_mesh = row;
    }

    fn set_flag(&mut self, flag: u64, is_set: bool) {
        self.flags = if is_set { self.flags | flag } else { self.flags & !flag };
        self.tables.set_state(STATE_FLAGS, self.flags);
    }

    /// Flows that were allowed are judged anew.
    pub fn move_epoch(&mut self) {
        let epoch = self.tables.state(STATE_EPOCH);
        self.tables.set_state(STATE_EPOCH, epoch.wrapping_add(1));
    }
}

fn union(former: Option<&Row>, now: &Row) -> Row {
    let mut both = now.clone();
    if let Some(former) = former {
        both.extend(former);
    }
    both
}
