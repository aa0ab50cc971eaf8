//! What the addresses of a range are that have no place, and which selectors name them. A look-up finds only the longest
//! range, so each has all that those around it say.

use std::time::Instant;

use ipnet::IpNet;
use mesh_layout::policy::{Base, ROW_WORLD_V4, ROW_WORLD_V6, Range};
use mesh_policy::{Class, Compiler};

use super::{Writer, union};
use crate::error::KernelError;

/// What becomes of what a range had and has no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Former {
    /// It stays beside what is new.
    Stays,
    Goes,
}

// === impl Writer ===

impl Writer {
    /// What the addresses of a range are that have no place: [`Class::Unknown`], [`Class::Service`] or [`Class::World`];
    /// `None`: as those around it. Written with the next [`Writer::apply`], before which the compiler has the class.
    pub fn set_base(&mut self, range: IpNet, class: Option<Class>) {
        let former = match class {
            Some(class) => self.bases.insert(range, class),
            None => self.bases.remove(&range),
        };
        if former.as_ref() != self.bases.get(&range) {
            // Those inside it have what it says.
            let within = self.ranges.range(range..).map(|(one, _)| *one);
            let within = within.take_while(|one| range.contains(&one.network()));
            let within: Vec<IpNet> = within.filter(|one| range.contains(one)).collect();
            self.pending.prefixes.extend(within);
            self.pending.prefixes.insert(range);
        }
    }

    /// Writes a range. Whether it was something else before.
    pub(super) fn write_range(
        &mut self,
        compiler: &Compiler,
        range: &IpNet,
        former: Former,
        now: Instant,
    ) -> Result<bool, KernelError> {
        let written = self.ranges.get(range).copied();
        let is_there = self.bases.contains_key(range) || compiler.prefix(range).is_some();
        if !is_there {
            if former == Former::Stays || written.is_none() {
                return Ok(false);
            }
            self.tables.remove_range(*range)?;
            self.ranges.remove(range);
            self.release(written, now);
            return Ok(true);
        }
        let (base, row) = self.base_of(range);
        let had = written.and_then(|written| self.rows.shared(written.cidrs)).cloned();
        let cidrs = compiler.cidrs_of(range).cloned().unwrap_or_default();
        let cidrs = match former {
            Former::Stays => union(had.as_ref(), &cidrs),
            Former::Goes => cidrs,
        };
        let same = |written: &Range| (written.base, written.row) == (base as u32, row);
        if written.is_some_and(|written| same(&written)) && had.unwrap_or_default() == cidrs {
            return Ok(false);
        }
        let cidrs = self.rows.take_shared(Some(&cidrs), &self.tables, now)?;
        let value = Range { base: base as u32, row, cidrs, reserved: 0 };
        if let Err(error) = self.tables.set_range(*range, value) {
            self.rows.release_shared(cidrs, now);
            return Err(error);
        }
        self.ranges.insert(*range, value);
        self.release(written, now);
        Ok(written.is_some())
    }

    fn release(&mut self, written: Option<Range>, now: Instant) {
        if let Some(written) = written {
            self.rows.release_shared(written.cidrs, now);
        }
    }

    /// What the longest base around a range says.
    fn base_of(&self, range: &IpNet) -> (Base, u32) {
        let lengths = (0..=range.prefix_len()).rev();
        let around = lengths.filter_map(|length| IpNet::new(range.addr(), length).ok());
        let class = around.filter_map(|around| self.bases.get(&around.trunc())).next();
        let world = if range.addr().is_ipv6() { ROW_WORLD_V6 } else { ROW_WORLD_V4 };
        match class {
            Some(class @ Class::Unknown(_)) => (Base::Unknown, self.rows.of_class(class)),
            Some(class @ Class::Service) => (Base::Service, self.rows.of_class(class)),
            Some(class @ Class::World { .. }) => (Base::World, self.rows.of_class(class)),
            Some(_) | None => (Base::World, world),
        }
    }
}
