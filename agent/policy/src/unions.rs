//! Selector numbers: one for the union of the peers of a rule, shared by all rules that have the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mesh_policy_rules::{Action, Entity, Peer};

use crate::row::Number;

/// The peers of a rule, in order and without duplicates. Denies and allows have numbers of their own, because what is
/// unknown is matched by denies alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Union {
    /// Of a deny or an allow.
    pub(crate) action: Action,
    /// As the rule has them.
    pub(crate) peers: BTreeSet<Peer>,
}

/// All unions in use.
#[derive(Debug, Default)]
pub(crate) struct Unions {
    numbers: HashMap<Union, Number>,
    /// By number.
    entries: Vec<Option<Numbered>>,
    /// Numbers that may be used again.
    free: Vec<Number>,
    /// Numbers that nothing has any more and that nothing may have yet, where somebody says when.
    resting: Option<Vec<Number>>,
    /// By entity: the unions that name it.
    entities: BTreeMap<Entity, BTreeSet<Number>>,
    /// Unions that name services.
    services: BTreeSet<Number>,
}

/// A union with its number.
#[derive(Debug)]
pub(crate) struct Numbered {
    /// The union.
    pub(crate) union: Union,
    uses: usize,
    /// The peers that it stands for: services are replaced by what they are at the moment.
    pub(crate) resolved: BTreeSet<Peer>,
    /// Positions of its selectors.
    pub(crate) selectors: Vec<usize>,
}

// === impl Unions ===

impl Unions {
    /// From now on a number that nothing has any more is used again only after [`Unions::reuse`].
    pub(crate) fn let_rest(&mut self) {
        self.resting = Some(Vec::new());
    }

    /// The numbers that nothing has any more since the last call.
    pub(crate) fn take_resting(&mut self) -> Vec<Number> {
        self.resting.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// These may be used again.
    pub(crate) fn reuse(&mut self, numbers: impl IntoIterator<Item = Number>) {
        self.free.extend(numbers);
    }

    fn insert(&mut self, entry: Numbered) -> Number {
        let free = self.free.pop();
        let next = || u32::try_from(self.entries.len()).unwrap_or(Number::MAX);
        let number = free.unwrap_or_else(next);
        match self.entries.get_mut(number as usize) {
            Some(slot) => *slot = Some(entry),
            None => self.entries.push(Some(entry)),
        }
        number
    }

    /// The number of a union, and whether it is a new one.
    pub(crate) fn take(&mut self, union: Union) -> (Number, bool) {
        if let Some(number) = self.numbers.get(&union) {
            if let Some(Some(entry)) = self.entries.get_mut(*number as usize) {
                entry.uses += 1;
            }
            return (*number, false);
        }
        let entry = Numbered {
            union: union.clone(),
            uses: 1,
            resolved: BTreeSet::new(),
            selectors: Vec::new(),
        };
        let number = self.insert(entry);
        for peer in &union.peers {
            match peer {
                Peer::Entity(entity) => {
                    self.entities.entry(*entity).or_default().insert(number);
                }
                Peer::Service(_) => {
                    self.services.insert(number);
                }
                Peer::Pods(_) | Peer::Cidr(_) => {}
            }
        }
        self.numbers.insert(union, number);
        (number, true)
    }

    /// One rule less has it. Returns what nobody has any more.
    pub(crate) fn release(&mut self, number: Number) -> Option<Numbered> {
        let slot = self.entries.get_mut(number as usize)?;
        let entry = slot.as_mut()?;
        entry.uses -= 1;
        if entry.uses > 0 {
            return None;
        }
        let entry = slot.take()?;
        self.resting.as_mut().unwrap_or(&mut self.free).push(number);
        self.numbers.remove(&entry.union);
        self.services.remove(&number);
        for peer in &entry.union.peers {
            if let Peer::Entity(entity) = peer
                && let Some(numbers) = self.entities.get_mut(entity)
            {
                numbers.remove(&number);
            }
        }
        Some(entry)
    }

    /// One union.
    pub(crate) fn get(&self, number: Number) -> Option<&Numbered> {
        self.entries.get(number as usize)?.as_ref()
    }

    /// One union, to set what it stands for.
    pub(crate) fn get_mut(&mut self, number: Number) -> Option<&mut Numbered> {
        self.entries.get_mut(number as usize)?.as_mut()
    }

    /// All unions, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Number, &Numbered)> {
        (0..).zip(&self.entries).filter_map(|(number, entry)| Some((number, entry.as_ref()?)))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Unions that name an entity.
    pub(crate) fn with_entity(&self, entity: Entity) -> impl Iterator<Item = Number> + '_ {
        self.entities.get(&entity).into_iter().flatten().copied()
    }

    /// Unions that name services.
    pub(crate) fn with_services(&self) -> impl Iterator<Item = Number> + '_ {
        self.services.iter().copied()
    }
}
