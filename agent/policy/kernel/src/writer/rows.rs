//! Rows: one for each class, whose bits change; and those of ranges, which are shared and never change.

use std::{collections::HashMap, time::Instant};

use mesh_layout::policy::{ROW_FIRST, ROW_NONE, ROW_WORLD_V4, ROW_WORLD_V6};
use mesh_policy::{Class, Row};

use super::resting::Numbers;
use crate::{error::KernelError, tables::Tables};

/// The rows in the kernel.
#[derive(Debug)]
pub(crate) struct Rows {
    classes: HashMap<Class, (u32, Row)>,
    shared: HashMap<Row, (u32, u32)>,
    by_number: HashMap<u32, Row>,
    numbers: Numbers,
}

// === impl Rows ===

impl Rows {
    pub(crate) fn new(rows: u32) -> Self {
        Self {
            classes: HashMap::new(),
            shared: HashMap::new(),
            by_number: HashMap::new(),
            numbers: Numbers::new(ROW_FIRST, rows),
        }
    }

    /// The number of a class's row; [`ROW_NONE`] while it has none: no rule names it.
    pub(crate) fn of_class(&self, class: &Class) -> u32 {
        self.classes.get(class).map_or(ROW_NONE, |(number, _)| *number)
    }

    /// What is written for a class.
    pub(crate) fn written(&self, class: &Class) -> Option<&Row> {
        self.classes.get(class).map(|(_, row)| row)
    }

    pub(crate) fn classes(&self) -> impl Iterator<Item = &Class> {
        self.classes.keys()
    }

    /// A class has these bits now.
    pub(crate) fn set_class(
        &mut self,
        class: &Class,
        row: &Row,
        tables: &Tables,
        now: Instant,
    ) -> Result<u32, KernelError> {
        let number = match self.classes.get(class) {
            Some((number, _)) => *number,
            None => match fixed(class) {
                Some(number) => number,
                None => self.number(now)?,
            },
        };
        tables.set_row(number, row.words());
        self.classes.insert(class.clone(), (number, row.clone()));
        Ok(number)
    }

    /// Nothing leads to a class any more.
    pub(crate) fn remove_class(&mut self, class: &Class, now: Instant) {
        if let Some((number, _)) = self.classes.remove(class)
            && fixed(class).is_none()
        {
            self.numbers.free(number, now);
        }
    }

    /// The number of a row that ranges share. One more has it.
    pub(crate) fn take_shared(
        &mut self,
        row: Option<&Row>,
        tables: &Tables,
        now: Instant,
    ) -> Result<u32, KernelError> {
        let Some(row) = row.filter(|row| **row != Row::default()) else { return Ok(ROW_NONE) };
        if let Some((number, uses)) = self.shared.get_mut(row) {
            *uses += 1;
            return Ok(*number);
        }
        let number = self.number(now)?;
        tables.set_row(number, row.words());
        self.shared.insert(row.clone(), (number, 1));
        self.by_number.insert(number, row.clone());
        Ok(number)
    }

    /// One less has it.
    pub(crate) fn release_shared(&mut self, number: u32, now: Instant) {
        let Some(row) = self.by_number.get(&number) else { return };
        let Some((_, uses)) = self.shared.get_mut(row) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        self.shared.remove(row);
        self.by_number.remove(&number);
        self.numbers.free(number, now);
    }

    /// What a shared row has.
    pub(crate) fn shared(&self, number: u32) -> Option<&Row> {
        self.by_number.get(&number)
    }

    fn number(&mut self, now: Instant) -> Result<u32, KernelError> {
        self.numbers.take(now).ok_or_else(|| KernelError::Full { what: "cm_rows".into() })
    }
}

/// The rows that programs know by number.
fn fixed(class: &Class) -> Option<u32> {
    match class {
        Class::World { v6: false, kube_apiserver: false } => Some(ROW_WORLD_V4),
        Class::World { v6: true, kube_apiserver: false } => Some(ROW_WORLD_V6),
        _ => None,
    }
}
