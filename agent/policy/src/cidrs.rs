//! Which selectors name an address by its range.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
    /// The row of prefixes that no selector names.
    none: Arc<Row>,
    /// Prefixes that are new, gone, or have other selectors, where that is noted.
    changed: Option<BTreeSet<IpNet>>,
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
    /// From now on it is noted what changes. All that there is already counts as new.
    pub(crate) fn note_changes(&mut self) {
        self.changed = Some(self.prefixes.keys().copied().collect());
    }

    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> BTreeSet<IpNet> {
        self.changed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The selectors that name a range which rules name.
    pub(crate) fn get(&self, prefix: &IpNet) -> Option<&Row> {
        self.prefixes.get(prefix).map(|entry| &*entry.row)
    }

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

    /// The selectors that name all addresses of a range: those of the longest prefix around it, or it.
    pub(crate) fn row_around(&self, range: &IpNet) -> Option<&Row> {
        let lengths = self.lengths.range((range.addr().is_ipv6(), 0)..=length_of(range)).rev();
        lengths.into_iter().find_map(|((_, length), _)| {
            let prefix = IpNet::new(range.addr(), *length).ok()?.trunc();
            self.prefixes.get(&prefix).map(|prefix| &*prefix.row)
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
                self.changed.as_mut().map(|changed| changed.insert(*prefix));
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
        let row = around.map(|entry| entry.row.clone()).next();
        let row = row.unwrap_or_else(|| self.none.clone());
        self.prefixes.insert(prefix, Prefix { uses: 1, row });
        self.changed.as_mut().map(|changed| changed.insert(prefix));
        *self.lengths.entry(length_of(&prefix)).or_default() += 1;
    }

    fn release_prefix(&mut self, prefix: &IpNet) {
        let Some(entry) = self.prefixes.get_mut(prefix) else { return };
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        self.prefixes.remove(prefix);
        self.changed.as_mut().map(|changed| changed.insert(*prefix));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A naive answer: every rule is asked.
    fn asked(present: &BTreeMap<Number, Vec<CidrRule>>, address: IpAddr) -> Row {
        let named = |rule: &CidrRule| {
            rule.cidr.contains(&address) && !rule.except.iter().any(|one| one.contains(&address))
        };
        let numbers = present.iter().filter(|(_, rules)| rules.iter().any(named));
        numbers.map(|(number, _)| *number).collect()
    }

    /// Prefixes of few bits, so that they nest often.
    fn prefix() -> impl Strategy<Value = IpNet> {
        (any::<bool>(), any::<u8>(), 0u8..=8).prop_map(|(v6, bits, length)| {
            let address: IpAddr = match v6 {
                true => [u16::from(bits) << 8, 0, 0, 0, 0, 0, 0, 1].into(),
                false => [bits, 0, 0, 1].into(),
            };
            let length = if length == 8 { if v6 { 128 } else { 32 } } else { length };
            IpNet::new(address, length).unwrap().trunc()
        })
    }

    fn rule() -> impl Strategy<Value = CidrRule> {
        (prefix(), prop::collection::vec(prefix(), 0..3)).prop_map(|(cidr, mut except)| {
            except.retain(|one| cidr.contains(one));
            CidrRule { cidr, except, network_policy: false }
        })
    }

    proptest! {
        #[test]
        fn the_longest_prefix_knows_all_rules(
            steps in prop::collection::vec((0u32..70, prop::collection::vec(rule(), 0..4)), 1..40),
        ) {
            let (mut cidrs, mut present) = (Cidrs::default(), BTreeMap::new());
            for (number, rules) in steps {
                if let Some(former) = present.remove(&number) {
                    let former: Vec<CidrRule> = former;
                    cidrs.remove(number, &former.iter().collect::<Vec<_>>());
                }
                cidrs.add(number, &rules.iter().collect::<Vec<_>>());
                present.insert(number, rules);
                for bits in 0..=255u8 {
                    for address in [
                        IpAddr::from([bits, 0, 0, 1]),
                        IpAddr::from([bits, 0, 0, 2]),
                        IpAddr::from([u16::from(bits) << 8, 0, 0, 0, 0, 0, 0, 1]),
                    ] {
                        let row = cidrs.row(address).map(|row| Row::clone(row));
                        prop_assert_eq!(row.unwrap_or_default(), asked(&present, address));
                    }
                }
            }
            for (number, rules) in present {
                cidrs.remove(number, &rules.iter().collect::<Vec<_>>());
            }
            prop_assert_eq!(cidrs.iter().count(), 0);
            prop_assert!(cidrs.lengths.is_empty());
        }
    }

    #[test]
    fn prefixes_with_equal_selectors_share_a_row() {
        let range = |second: u8| CidrRule {
            cidr: IpNet::new([10, second, 0, 0].into(), 16).unwrap(),
            except: Vec::new(),
            network_policy: false,
        };
        let rules: Vec<CidrRule> = (0..=255).map(range).collect();
        let mut cidrs = Cidrs::default();
        cidrs.add(3, &rules.iter().collect::<Vec<_>>());
        let rows: std::collections::HashSet<*const Row> =
            cidrs.prefixes.values().map(|prefix| Arc::as_ptr(&prefix.row)).collect();
        assert_eq!((cidrs.prefixes.len(), rows.len()), (256, 1));
    }
}
