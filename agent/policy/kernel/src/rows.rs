//! Rows that are equal are one.

use std::collections::HashMap;

use mesh_layout::policy::{ROW_FIRST, ROW_NONE};
use mesh_policy::Row;

/// Numbers of rows by what is in them.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    numbers: HashMap<Row, u32>,
    rows: Vec<Row>,
}

// === impl Rows ===

impl Rows {
    /// The number of a row: [`ROW_NONE`] of one in which nothing is.
    pub(crate) fn number(&mut self, row: Option<&Row>) -> u32 {
        let Some(row) = row.filter(|row| **row != Row::default()) else { return ROW_NONE };
        if let Some(number) = self.numbers.get(row) {
            return *number;
        }
        let number = u32::try_from(self.rows.len()).unwrap_or(u32::MAX).saturating_add(ROW_FIRST);
        self.numbers.insert(row.clone(), number);
        self.rows.push(row.clone());
        number
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Row)> {
        (ROW_FIRST..).zip(&self.rows)
    }

    /// How many numbers are in use, the fixed ones included.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() + ROW_FIRST as usize
    }
}
