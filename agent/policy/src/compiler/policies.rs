//! Policies come, change and go: their selectors get numbers, and the pods that they select get sets.

use std::{collections::BTreeSet, sync::Arc};

use mesh_model::NamedPort;
use mesh_policy_rules::{
    Action, DirectionRules, Governed, Peers, Policy, PolicyRef, PortMatch, PortRule, Ports, Rule,
};

use super::{Compiler, Direction, Noted, Subject};
use crate::{
    options::Enforcement,
    row::Number,
    set::{Set, SetPort, SetRule},
    unions::Union,
};

/// A policy, and what was made for it.
#[derive(Debug)]
pub(super) struct Compiled {
    policy: Policy,
    /// It is refused: in the directions that it governs its pods may do nothing.
    closed: bool,
    specs: Vec<Spec>,
}

#[derive(Debug)]
struct Spec {
    /// Its subject's position among the selectors of subjects.
    subject: usize,
    /// For each rule its selector; `None`: everything.
    egress: Vec<Numbers>,
    ingress: Vec<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    number: Option<Number>,
    path: Arc<str>,
}

// === impl Compiler ===

impl Compiler {
    /// Adds a policy, or replaces the one of this name.
    pub fn put_policy(&mut self, policy: Policy) {
        self.put(policy, false);
    }

    /// Adds a policy that is refused, or replaces the one of this name. In the directions that it governs its pods may do
    /// nothing, whatever other policies allow: what it would have denied is not known.
    pub fn put_closed(&mut self, reference: PolicyRef, governs: &[Governed]) {
        let direction = |governed| DirectionRules { default_deny: governed, rules: Vec::new() };
        let rules = governs.iter().map(|one| Rule {
            subject: one.subject.clone(),
            ingress: direction(one.ingress),
            egress: direction(one.egress),
        });
        self.put(Policy { reference, rules: rules.collect() }, true);
    }

    fn put(&mut self, policy: Policy, closed: bool) {
        let reference = Arc::new(policy.reference.clone());
        let same = |present: &Compiled| present.policy == policy && present.closed == closed;
        if self.policies.get(&reference).is_some_and(same) {
            return;
        }
        let mut changed: BTreeSet<usize> = BTreeSet::new();
        let mut specs = Vec::new();
        for (index, rule) in policy.rules.iter().enumerate() {
            changed.extend(self.subjects.members_of(&rule.subject));
            let subject = (reference.clone(), index);
            specs.push(Spec {
                egress: self.number(&rule.egress),
                ingress: self.number(&rule.ingress),
                subject: self.subjects.add_selector(rule.subject.clone(), subject),
            });
        }
        // The former one goes after the new one is there: what both have keeps its number.
        if let Some(former) = self.policies.remove(&reference) {
            changed.extend(self.release(former));
        }
        self.policies.insert(reference, Compiled { policy, closed, specs });
        changed.into_iter().for_each(|at| self.build_sets(at));
    }

    /// Removes a policy.
    pub fn remove_policy(&mut self, policy: &PolicyRef) {
        if let Some(former) = self.policies.remove(policy) {
            let changed = self.release(former);
            changed.into_iter().for_each(|at| self.build_sets(at));
        }
    }

    /// Gives each rule's peers a number.
    fn number(&mut self, rules: &DirectionRules) -> Vec<Numbers> {
        let number = |rule: &PortRule| {
            let number = match &rule.peers {
                Peers::Any => None,
                Peers::Of(peers) => {
                    let peers = peers.iter().cloned().collect();
                    let (number, new) = self.unions.take(Union { action: rule.action, peers });
                    if new {
                        self.resolve(number);
                    }
                    Some(number)
                }
            };
            Numbers { number, path: rule.path.as_str().into() }
        };
        rules.rules.iter().map(number).collect()
    }

    /// Gives back what was made for a policy. Returns the pods that it selected.
    fn release(&mut self, former: Compiled) -> BTreeSet<usize> {
        let mut changed = BTreeSet::new();
        for (rule, spec) in former.policy.rules.iter().zip(former.specs) {
            changed.extend(self.subjects.members_of(&rule.subject));
            self.subjects.remove_selector(spec.subject);
            for number in spec.egress.iter().chain(&spec.ingress).filter_map(|one| one.number) {
                if let Some(union) = self.unions.release(number) {
                    self.forget(number, &union.resolved, &union.selectors);
                }
            }
        }
        changed
    }

    /// Makes the sets of a pod anew.
    pub(super) fn build_sets(&mut self, at: usize) {
        let Some(subject) = self.pods.get(at) else { return };
        let egress = Arc::new(self.set_of(subject, Direction::Egress));
        let ingress = Arc::new(self.set_of(subject, Direction::Ingress));
        let (egress, ingress) = (self.share(egress), self.share(ingress));
        Noted::subject(&mut self.noted, at);
        let Some(subject) = self.pods.get_mut(at) else { return };
        let former = [
            std::mem::replace(&mut subject.egress, egress),
            std::mem::replace(&mut subject.ingress, ingress),
        ];
        former.into_iter().for_each(|set| self.drop_set(set));
    }

    fn set_of(&self, subject: &Subject, direction: Direction) -> Set {
        let mut set = Set::default();
        match self.options.enforcement {
            Enforcement::Never => return set,
            Enforcement::Always => set.default_deny = true,
            Enforcement::Default => {}
        }
        let mut closed = false;
        // By policy, then by spec.
        let specs: BTreeSet<_> = self.subjects.selectors_of(&subject.labels).collect();
        for (reference, index) in specs {
            let Some(compiled) = self.policies.get(reference) else { continue };
            let rule = compiled.policy.rules.get(*index).zip(compiled.specs.get(*index));
            let Some((rule, spec)) = rule else { continue };
            let (rules, numbers) = match direction {
                Direction::Egress => (&rule.egress, &spec.egress),
                Direction::Ingress => (&rule.ingress, &spec.ingress),
            };
            if rules.default_deny {
                closed |= compiled.closed;
                set.default_deny = true;
                if set.denying.last() != Some(reference) {
                    set.denying.push(reference.clone());
                }
            }
            for (rule, numbers) in rules.rules.iter().zip(numbers) {
                let one = |port| SetRule {
                    action: rule.action,
                    number: numbers.number,
                    port,
                    policy: reference.clone(),
                    path: numbers.path.clone(),
                };
                set.rules.extend(ports(rule, direction, &subject.ports).into_iter().map(one));
            }
        }
        if closed {
            set.rules.retain(|rule| rule.action == Action::Deny);
        }
        set.rules.sort_by_key(|rule| rule.action);
        set
    }

    fn share(&mut self, set: Arc<Set>) -> Arc<Set> {
        if let Some(present) = self.sets.get(&set) {
            return present.clone();
        }
        self.sets.insert(set.clone());
        set
    }

    /// One pod less has it.
    pub(super) fn drop_set(&mut self, set: Arc<Set>) {
        if Arc::strong_count(&set) <= 2 {
            self.sets.remove(&set);
        }
    }
}

/// The ports of a rule as a set has them. The names of the pod itself are its ports; those of what it reaches are found
/// when it is reached.
fn ports(rule: &PortRule, direction: Direction, own: &[NamedPort]) -> Vec<Option<SetPort>> {
    let Ports::Of(matches) = &rule.ports else { return vec![None] };
    let mut ports = Vec::new();
    for one in matches {
        match (one, direction) {
            (PortMatch::Named { protocol, name }, Direction::Ingress) => {
                let meant = |port: &&NamedPort| {
                    port.name == *name && protocol.is_none_or(|one| one == port.port.protocol)
                };
                ports.extend(own.iter().filter(meant).map(|port| {
                    let (protocol, number) = (port.port.protocol, port.port.number);
                    Some(SetPort::Known(PortMatch::Range { protocol, first: number, last: number }))
                }));
            }
            (PortMatch::Named { protocol, name }, Direction::Egress) => {
                ports.push(Some(SetPort::Named(*protocol, name.clone())));
            }
            (known, _) => ports.push(Some(SetPort::Known(known.clone()))),
        }
    }
    ports
}
