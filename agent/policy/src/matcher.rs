//! Which selectors match which label sets, found by an index on both sides.
//!
//! A selector that requires a value of a label is listed under that value, so a new label set meets only the selectors
//! that name one of its labels; and the label sets are listed under theirs. Selectors that require nothing to exist
//! (`NotIn`, `DoesNotExist`, none at all) can match anything: they are compared with every label set.

use std::collections::{HashMap, HashSet};

use mesh_model::{
    Labels,
    identity::{CLUSTER_LABEL, NAMESPACE_LABEL},
};
use mesh_policy_rules::{Operator, Requirement, Selector};
use slab::Slab;

/// Selectors with what they are for (`S`), and label sets with what has them (`M`).
#[derive(Debug)]
pub(crate) struct Matcher<S, M> {
    selectors: Slab<(Selector, S)>,
    members: Slab<(Labels, M)>,
    selectors_by: Index,
    /// Selectors that are in no index.
    anywhere: HashSet<usize>,
    members_by: Index,
}

/// Positions by a label's key and value.
#[derive(Debug, Default)]
struct Index {
    keys: HashMap<String, Listed>,
}

/// What is listed under one key.
#[derive(Debug, Default)]
struct Listed {
    /// Whatever the value.
    any: HashSet<usize>,
    values: HashMap<String, HashSet<usize>>,
}

// === impl Index ===

impl Index {
    fn add(&mut self, key: &str, value: Option<&str>, position: usize) {
        let listed = self.keys.entry(key.to_owned()).or_default();
        let positions = match value {
            Some(value) => listed.values.entry(value.to_owned()).or_default(),
            None => &mut listed.any,
        };
        positions.insert(position);
    }

    fn remove(&mut self, key: &str, value: Option<&str>, position: usize) {
        let Some(listed) = self.keys.get_mut(key) else { return };
        match value {
            Some(value) => {
                if let Some(positions) = listed.values.get_mut(value) {
                    positions.remove(&position);
                    if positions.is_empty() {
                        listed.values.remove(value);
                    }
                }
            }
            None => {
                listed.any.remove(&position);
            }
        }
        if listed.any.is_empty() && listed.values.is_empty() {
            self.keys.remove(key);
        }
    }

    /// What is listed under a label or under its key.
    fn get(&self, key: &str, value: &str) -> impl Iterator<Item = &usize> {
        let listed = self.keys.get(key);
        let by_value = listed.and_then(|listed| listed.values.get(value));
        let any = listed.map(|listed| &listed.any);
        by_value.into_iter().flatten().chain(any.into_iter().flatten())
    }

    /// What fulfils a requirement that a label exists, as far as keys and values go.
    fn fulfilling(&self, requirement: &Requirement) -> Vec<&HashSet<usize>> {
        let Some(listed) = self.keys.get(&requirement.key) else { return Vec::new() };
        match &requirement.operator {
            Operator::In(wanted) => {
                wanted.iter().filter_map(|value| listed.values.get(value)).collect()
            }
            _ => listed.values.values().collect(),
        }
    }
}

// === impl Matcher ===

impl<S, M> Default for Matcher<S, M> {
    fn default() -> Self {
        Self {
            selectors: Slab::new(),
            members: Slab::new(),
            selectors_by: Index::default(),
            anywhere: HashSet::new(),
            members_by: Index::default(),
        }
    }
}

impl<S, M> Matcher<S, M> {
    /// Adds a selector. Returns its position.
    pub(crate) fn add_selector(&mut self, selector: Selector, of: S) -> usize {
        let terms = terms(&selector);
        let position = self.selectors.insert((selector, of));
        match terms {
            Some((key, values)) => {
                values.iter().for_each(|v| self.selectors_by.add(&key, v.as_deref(), position));
            }
            None => {
                self.anywhere.insert(position);
            }
        }
        position
    }

    /// Removes a selector.
    pub(crate) fn remove_selector(&mut self, position: usize) {
        let Some((selector, _)) = self.selectors.try_remove(position) else { return };
        match terms(&selector) {
            Some((key, values)) => {
                values.iter().for_each(|v| self.selectors_by.remove(&key, v.as_deref(), position));
            }
            None => {
                self.anywhere.remove(&position);
            }
        }
    }

    /// Adds a label set. Returns its position.
    pub(crate) fn add_member(&mut self, labels: Labels, of: M) -> usize {
        let position = self.members.insert((labels.clone(), of));
        labels.iter().for_each(|(_, key, value)| self.members_by.add(key, Some(value), position));
        position
    }

    /// Removes a label set.
    pub(crate) fn remove_member(&mut self, position: usize) {
        let Some((labels, _)) = self.members.try_remove(position) else { return };
        for (_, key, value) in labels.iter() {
            self.members_by.remove(key, Some(value), position);
        }
    }

    /// What the selectors are for that match these labels.
    pub(crate) fn selectors_of<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a S> {
        let named = labels.iter().flat_map(|(_, key, value)| self.selectors_by.get(key, value));
        let candidates = named.chain(&self.anywhere);
        let candidates = candidates.filter_map(|position| self.selectors.get(*position));
        candidates.filter(|(selector, _)| selector.matches(labels)).map(|(_, of)| of)
    }

    /// What has the labels that this selector matches.
    pub(crate) fn members_of<'a>(&'a self, selector: &'a Selector) -> impl Iterator<Item = &'a M> {
        let positive = selector.requirements.iter().filter(|one| is_positive(one));
        let fewest = positive
            .map(|one| self.members_by.fulfilling(one))
            .min_by_key(|found| found.iter().map(|positions| positions.len()).sum::<usize>());
        let (named, all) = match fewest {
            Some(found) => (found, None),
            None => (Vec::new(), Some(self.members.iter().map(|(_, member)| member))),
        };
        let named = named.into_iter().flatten().filter_map(|at| self.members.get(*at));
        let candidates = named.chain(all.into_iter().flatten());
        candidates.filter(|(labels, _)| selector.matches(labels)).map(|(_, of)| of)
    }
}

fn is_positive(requirement: &Requirement) -> bool {
    matches!(requirement.operator, Operator::In(_) | Operator::Exists)
}

/// Where a selector is listed: under the values of the label that fewest label sets are likely to have.
fn terms(selector: &Selector) -> Option<(String, Vec<Option<String>>)> {
    let rank = |requirement: &&Requirement| {
        let key = match requirement.key.as_str() {
            CLUSTER_LABEL => 2,
            NAMESPACE_LABEL => 1,
            _ => 0,
        };
        (matches!(requirement.operator, Operator::Exists), key)
    };
    let best = selector.requirements.iter().filter(|one| is_positive(one)).min_by_key(rank)?;
    let values = match &best.operator {
        Operator::In(values) => values.iter().map(|value| Some(value.clone())).collect(),
        _ => vec![None],
    };
    Some((best.key.clone(), values))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mesh_model::Label;
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
    }

    fn source() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["k8s", "unspec"]).prop_map(str::to_owned)
    }

    fn labels() -> impl Strategy<Value = Labels> {
        let label = (source(), text(), text()).prop_map(|(source, key, value)| Label {
            source,
            key,
            value,
        });
        prop::collection::vec(label, 0..4).prop_map(|labels| labels.into_iter().collect())
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let values = || {
            prop::collection::btree_set(text(), 1..3)
                .prop_map(|values| values.into_iter().collect())
        };
        let operator = prop_oneof![
            values().prop_map(Operator::In),
            values().prop_map(Operator::NotIn),
            Just(Operator::Exists),
            Just(Operator::DoesNotExist),
        ];
        let requirement = (prop::option::of(source()), text(), operator)
            .prop_map(|(source, key, operator)| Requirement { source, key, operator });
        prop::collection::vec(requirement, 0..3)
            .prop_map(|all| all.into_iter().fold(Selector::default(), Selector::and))
    }

    proptest! {
        #[test]
        fn both_indexes_find_what_matches(
            steps in prop::collection::vec((any::<bool>(), 0usize..6, selector(), labels()), 1..60),
        ) {
            let mut matcher = Matcher::<usize, usize>::default();
            let (mut selectors, mut members) = (HashMap::new(), HashMap::new());
            for (of_selectors, name, selector, labels) in steps {
                if of_selectors {
                    let position = matcher.add_selector(selector.clone(), name);
                    if let Some((former, _)) = selectors.insert(name, (position, selector)) {
                        matcher.remove_selector(former);
                    }
                } else {
                    let position = matcher.add_member(labels.clone(), name);
                    if let Some((former, _)) = members.insert(name, (position, labels)) {
                        matcher.remove_member(former);
                    }
                }
                for (_, selector) in selectors.values() {
                    let found: Vec<usize> = matcher.members_of(selector).copied().collect();
                    let wanted = members.iter().filter(|(_, (_, labels))| selector.matches(labels));
                    let wanted: BTreeSet<usize> = wanted.map(|(name, _)| *name).collect();
                    prop_assert_eq!(found.len(), wanted.len(), "each once");
                    prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
                }
                for (_, labels) in members.values() {
                    let found: Vec<usize> = matcher.selectors_of(labels).copied().collect();
                    let wanted = selectors.iter().filter(|(_, (_, one))| one.matches(labels));
                    let wanted: BTreeSet<usize> = wanted.map(|(name, _)| *name).collect();
                    prop_assert_eq!(found.len(), wanted.len(), "each once");
                    prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
                }
            }
        }
    }
}
