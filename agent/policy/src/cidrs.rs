//! Which selectors name an address by its range.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use mesh_policy_rules::CidrRule;

use crate::row::{Number, Row};

/// Prefixes, each with all selectors that name its addresses: a nested one inherits from those around it, but for what
/// is excepted. So one look-up of the longest prefix answers for an address.
#[derive(Debug, Default)]
pub(crate) struct Cidrs {
    prefixes: BTreeMap<IpNet, Prefix>,
    /// How many prefixes there are of a family and length.
    lengths: BTreeMap<(bool, u8), usize>,
}

#[derive(Debug)]
struct Prefix {
    /// Rules that name it, as range or exception.
    uses: usize,
    /// Most prefixes have the same selectors as another: they share them.
    row: Arc<Row>,
}

// === impl Cidrs ===

impl Cidrs {
    /// A selector names addresses.
    pub(crate) fn add(&mut self, number: Number, rules: &[&CidrRule]) {
        for prefix in rules.iter().flat_map(|rule| named(rule)) {
            self.use_prefix(prefix);
        }
        let mut shared = Shared::default();
        for rule in rules {
            self.change(rule, |row| shared.change(row, |row| row.insert(number)));
        }
    }

    /// A selector that was added is gone.
    pub(crate) fn remove(&mut self, number: Number, rules: &[&CidrRule]) {
        let mut shared = Shared::default();
        for rule in rules {
            self.change(rule, |row| shared.change(row, |row| row.remove(number)));
        }
        for prefix in rules.iter().flat_map(|rule| named(rule)) {
            self.release_prefix(&prefix);
        }
    }

    /// The selectors that name an address by its range.
    pub(crate) fn row(&self, address: IpAddr) -> Option<&Arc<Row>> {
        let v6 = address.is_ipv6();
        let lengths = self.lengths.range((v6, 0)..=(v6, 128)).rev();
        lengths.into_iter().find_map(|((_, length), _)| {
            let prefix = IpNet::new(address, *length).ok()?.trunc();
            self.prefixes.get(&prefix).map(|prefix| &prefix.row)
        })
    }

    /// All prefixes and their selectors.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&IpNet, &Row)> {
        self.prefixes.iter().map(|(prefix, entry)| (prefix, &*entry.row))
    }

    /// Changes the rows of all prefixes whose addresses a rule names.
    fn change(&mut self, rule: &CidrRule, mut change: impl FnMut(&mut Arc<Row>)) {
        let within = self.prefixes.range_mut(rule.cidr..);
        let within = within.take_while(|(prefix, _)| rule.cidr.contains(&prefix.network()));
        for (prefix, entry) in within.filter(|(prefix, _)| rule.cidr.contains(*prefix)) {
            if !rule.except.iter().any(|except| except.contains(prefix)) {
                change(&mut entry.row);
            }
        }
    }

    fn use_prefix(&mut self, prefix: IpNet) {
        if let Some(entry) = self.prefixes.get_mut(&prefix) {
            entry.uses += 1;
            return;
        }
        let around = (0..prefix.prefix_len()).rev().filter_map(|length| {
            let around = IpNet::new(prefix.addr(), length).ok()?.trunc();
            let exists = self.lengths.contains_key(&length_of(&around));
            exists.then(|| self.prefixes.get(&around)).flatten()
        });
        let row = around.map(|entry| entry.row.clone()).next().unwrap_or_default();
        self.prefixes.insert(prefix, Prefix { uses: 1, row });
        *self.lengths.entry(length_of(&prefix)).or_default() += 1;
    }

    fn release_prefix(&mut self, prefix: &IpNet) {
        let Some(entry) = self.prefixes.get_mut(prefix) else { return };
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        self.prefixes.remove(prefix);
        if let Some(count) = self.lengths.get_mut(&length_of(prefix)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length_of(prefix));
            }
        }
    }
}

/// Rows that were equal stay one when they change alike.
#[derive(Default)]
struct Shared {
    /// What became of a row, by its address. The former row is kept, so that its address is not another's meanwhile.
    changed: HashMap<*const Row, (Arc<Row>, Arc<Row>)>,
}

// === impl Shared ===

impl Shared {
    fn change(&mut self, row: &mut Arc<Row>, change: impl FnOnce(&mut Row) -> bool) {
        if let Some((_, to)) = self.changed.get(&Arc::as_ptr(row)) {
            *row = to.clone();
            return;
        }
        let before = row.clone();
        let mut now = Row::clone(row);
        if change(&mut now) {
            *row = Arc::new(now);
        }
        self.changed.insert(Arc::as_ptr(&before), (before, row.clone()));
    }
}

fn named(rule: &CidrRule) -> impl Iterator<Item = IpNet> + '_ {
    rule.except.iter().chain([&rule.cidr]).map(|prefix| prefix.trunc())
}

fn length_of(prefix: &IpNet) -> (bool, u8) {
    (prefix.addr().is_ipv6(), prefix.prefix_len())
}
