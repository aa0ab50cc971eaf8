//! Sets: one that is equal to another is the same. A set never changes; a pod gets another one.

use std::{collections::HashMap, sync::Arc, time::Instant};

use mesh_layout::policy::{RULES_OF_A_SET, Rule, RulePorts, SELECTORS, SetHeader};
use mesh_policy::{Set, SetPort, SetRule};
use mesh_policy_rules::{Action, IcmpFamily, PortMatch};

use super::{
    names::{Names, number},
    resting::Numbers,
    segments::Segments,
};
use crate::{error::KernelError, tables::Tables};

/// The sets in the kernel. Number 0 is that of pods without policies.
#[derive(Debug)]
pub(crate) struct Sets {
    present: HashMap<Arc<Set>, Present>,
    by_number: HashMap<u32, Arc<Set>>,
    numbers: Numbers,
    segments: Segments,
}

#[derive(Debug)]
struct Present {
    number: u32,
    start: u32,
    /// How often pods have it.
    uses: u32,
}

// === impl Sets ===

impl Sets {
    pub(crate) fn new(sets: u32, rules: u32) -> Self {
        Self {
            present: HashMap::new(),
            by_number: HashMap::new(),
            numbers: Numbers::new(1, sets),
            segments: Segments::new(rules),
        }
    }

    /// The number of a set, which is written if nothing had it. One more has it.
    pub(crate) fn take(
        &mut self,
        set: &Arc<Set>,
        names: &mut Names,
        tables: &Tables,
        now: Instant,
    ) -> Result<u32, KernelError> {
        if **set == Set::default() {
            return Ok(0);
        }
        if let Some(present) = self.present.get_mut(set) {
            present.uses += 1;
            return Ok(present.number);
        }
        let count = u32::try_from(set.rules.len()).unwrap_or(u32::MAX);
        if count > RULES_OF_A_SET {
            let limit = usize::try_from(RULES_OF_A_SET).unwrap_or(usize::MAX);
            return Err(KernelError::too_many("the rules of a pod", set.rules.len(), limit));
        }
        let full = |what: &str| KernelError::Full { what: what.into() };
        let rules: Result<Vec<Rule>, KernelError> =
            set.rules.iter().map(|rule| rule_of(rule, names)).collect();
        let rules = rules?;
        let start = self.segments.take(count, now).ok_or_else(|| full("cm_rules"))?;
        let Some(number) = self.numbers.take(now) else {
            self.segments.free(start, count, now);
            return Err(full("cm_sets"));
        };
        for (index, rule) in (start..).zip(rules) {
            tables.set_rule(index, rule);
        }
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        tables.set_set(number, SetHeader { start, count, default_deny: set.default_deny });
        self.present.insert(set.clone(), Present { number, start, uses: 1 });
        self.by_number.insert(number, set.clone());
        Ok(number)
    }

    /// One less has it.
    pub(crate) fn release(&mut self, number: u32, now: Instant) {
        let Some(set) = self.by_number.get(&number).cloned() else { return };
        let Some(present) = self.present.get_mut(&set) else { return };
        present.uses -= 1;
        if present.uses > 0 {
            return;
        }
        let count = u32::try_from(set.rules.len()).unwrap_or(u32::MAX);
        self.segments.free(present.start, count, now);
        self.numbers.free(number, now);
        self.present.remove(&set);
        self.by_number.remove(&number);
    }

    /// The set of a number.
    pub(crate) fn get(&self, number: u32) -> Option<&Arc<Set>> {
        self.by_number.get(&number)
    }
}

fn rule_of(rule: &SetRule, names: &mut Names) -> Result<Rule, KernelError> {
    let selector = match rule.number {
        None => None,
        Some(number) => match u16::try_from(number) {
            Ok(number) if usize::from(number) < SELECTORS => Some(number),
            _ => {
                let count = usize::try_from(number).unwrap_or(usize::MAX);
                return Err(KernelError::too_many("the selectors of all rules", count, SELECTORS));
            }
        },
    };
    let ports = match &rule.port {
        None => RulePorts::All,
        Some(SetPort::Known(PortMatch::Range { protocol, first, last })) => {
            RulePorts::Range { protocol: number(*protocol), first: *first, last: *last }
        }
        Some(SetPort::Known(PortMatch::Icmp { family, kind })) => {
            let protocol = match family {
                IcmpFamily::V4 => 1,
                IcmpFamily::V6 => 58,
            };
            RulePorts::Icmp { protocol, kind: *kind }
        }
        Some(SetPort::Known(PortMatch::Protocol(protocol))) => RulePorts::Protocol(*protocol),
        Some(
            SetPort::Named(protocol, name) | SetPort::Known(PortMatch::Named { protocol, name }),
        ) => RulePorts::Named { protocol: protocol.map_or(0, number), name: names.of(name) },
    };
    Ok(Rule { selector, deny: rule.action == Action::Deny, ports })
}
