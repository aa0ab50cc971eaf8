//! What is claimed and what exists, in one family; and the changes from the one to the other.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Exempt;
use crate::{
    nftables::{ExemptSet, Family, Form, Installed, Interval, Transaction},
    prefix_set::PrefixSet,
};

#[derive(Debug)]
pub(super) struct FamilyState {
    family: Family,
    pods: PrefixSet<Claim>,
    mesh: PrefixSet<Claim>,
    installed: Installed,
}

/// Why a range is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Wanted,
    /// Found there, and not reported to be unwanted yet.
    Inherited,
}

/// Changes of one family.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    family: Family,
    table: TablePlan,
    edits: Vec<Edit>,
}

/// The operation on the table itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TablePlan {
    Keep,
    Create,
    /// Removed first, since it is not as we make it.
    Recreate,
    /// Only its rules.
    ReplaceRules,
    Delete,
}

/// Changes of one set.
#[derive(Debug, PartialEq, Eq)]
struct Edit {
    set: ExemptSet,
    removed: Vec<Interval>,
    added: Vec<Interval>,
}

// === impl FamilyState ===

impl FamilyState {
    pub(super) fn new(family: Family) -> Self {
        Self {
            family,
            pods: PrefixSet::default(),
            mesh: PrefixSet::default(),
            installed: Installed::default(),
        }
    }

    fn claims(&self, set: ExemptSet) -> &PrefixSet<Claim> {
        match set {
            ExemptSet::Pods => &self.pods,
            ExemptSet::Mesh => &self.mesh,
        }
    }

    pub(super) fn claims_mut(&mut self, set: ExemptSet) -> &mut PrefixSet<Claim> {
        match set {
            ExemptSet::Pods => &mut self.pods,
            ExemptSet::Mesh => &mut self.mesh,
        }
    }

    /// Without a range on both sides there is nothing to keep away, and no table.
    fn is_needed(&self) -> bool {
        !self.pods.is_empty() && !self.mesh.is_empty()
    }

    /// Takes the existing elements, and counts them as claimed if they are not wanted.
    pub(super) fn inherit(&mut self, installed: Installed) {
        for set in ExemptSet::ALL {
            let found: BTreeSet<IpNet> = installed.set(set).ranges().collect();
            let claims = self.claims_mut(set);
            claims.retain(|range, claim| *claim == Claim::Wanted || found.contains(range));
            for range in found {
                if claims.get(&range).is_none() {
                    claims.insert(range, Claim::Inherited);
                }
            }
        }
        self.installed = installed;
    }

    /// Claimed ranges that are exempt as things are; all of them where there need be no table and is none.
    pub(super) fn present(&self) -> impl Iterator<Item = Exempt> {
        let form = self.installed.form;
        let idle = form == Form::Absent && !self.is_needed();
        ExemptSet::ALL.into_iter().flat_map(move |set| {
            let (claims, there) = (self.claims(set), self.installed.set(set));
            let is_there = move |range: &IpNet| {
                form == Form::Intact
                    && claims.outermost(range).is_some_and(|outer| there.has(&outer))
            };
            let present = claims.iter().map(|(range, _)| *range);
            let present = present.filter(move |range| idle || is_there(range));
            present.map(move |range| Exempt { set, range })
        })
    }

    /// The changes that make the claimed ranges exempt, as far as these keys go; all of them if the table is made.
    pub(super) fn plan(&self, keys: &[Exempt]) -> Plan {
        let table = match (self.is_needed(), self.installed.form) {
            (true, Form::Intact) | (false, Form::Absent) => TablePlan::Keep,
            (true, Form::Absent) => TablePlan::Create,
            (true, Form::Other) => TablePlan::Recreate,
            (true, Form::OtherRules) => TablePlan::ReplaceRules,
            (false, Form::Intact | Form::Other | Form::OtherRules) => TablePlan::Delete,
        };
        let edits = match table {
            _ if !self.is_needed() => Vec::new(),
            TablePlan::Create | TablePlan::Recreate => {
                let edit = |set| Edit { set, removed: Vec::new(), added: self.all(set) };
                ExemptSet::ALL.map(edit).into()
            }
            TablePlan::Keep | TablePlan::ReplaceRules | TablePlan::Delete => {
                ExemptSet::ALL.map(|set| self.edit(set, keys)).into()
            }
        };
        Plan { family: self.family, table, edits }
    }

    /// All elements of a set.
    fn all(&self, set: ExemptSet) -> Vec<Interval> {
        let all = match self.family {
            Family::V4 => Ipv4Net::default().into(),
            Family::V6 => Ipv6Net::default().into(),
        };
        self.claims(set).outermost_in(all).map(interval).collect()
    }

    /// The elements of a set where these keys are.
    fn edit(&self, set: ExemptSet, keys: &[Exempt]) -> Edit {
        let (claims, there) = (self.claims(set), self.installed.set(set));
        let keys =
            keys.iter().filter(|key| key.set == set && Family::of(&key.range) == self.family);
        // A claimed range changes only the outermost one that contains it.
        let outermost = |key: &Exempt| claims.outermost(&key.range).unwrap_or(key.range);
        let places: BTreeSet<IpNet> = keys.map(outermost).collect();
        let mut edit = Edit { set, removed: Vec::new(), added: Vec::new() };
        let mut done: Option<IpNet> = None;
        for place in places {
            // In their order the outer one comes first.
            if done.is_some_and(|done| done.contains(&place)) {
                continue;
            }
            done = Some(place);
            let wanted: BTreeSet<Interval> = claims.outermost_in(place).map(interval).collect();
            let found: BTreeSet<Interval> = there.overlapping(&place).into_iter().collect();
            edit.removed.extend(found.difference(&wanted));
            edit.added.extend(wanted.difference(&found));
        }
        edit
    }

    /// The kernel has made these changes.
    pub(super) fn carried_out(&mut self, plan: Plan) {
        self.installed.form = match plan.table {
            TablePlan::Keep => self.installed.form,
            TablePlan::ReplaceRules => Form::Intact,
            TablePlan::Create | TablePlan::Recreate => {
                self.installed = Installed::default();
                Form::Intact
            }
            TablePlan::Delete => {
                self.installed = Installed::default();
                Form::Absent
            }
        };
        for Edit { set, removed, added } in plan.edits {
            let there = self.installed.set_mut(set);
            removed.iter().for_each(|interval| there.remove(interval));
            added.into_iter().for_each(|interval| there.insert(interval));
        }
    }
}

// === impl Plan ===

impl Plan {
    /// Adds the changes to a transaction.
    pub(super) fn write(&self, transaction: &mut Transaction) {
        match self.table {
            TablePlan::Keep => {}
            TablePlan::Create => transaction.create(self.family),
            TablePlan::Recreate => {
                transaction.delete(self.family);
                transaction.create(self.family);
            }
            TablePlan::ReplaceRules => transaction.replace_rules(self.family),
            TablePlan::Delete => transaction.delete(self.family),
        }
        for Edit { set, removed, added } in &self.edits {
            transaction.remove(self.family, *set, removed);
            transaction.add(self.family, *set, added);
        }
    }
}

fn interval(range: IpNet) -> Interval {
    (range.network(), range.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exempt(set: ExemptSet, range: &str) -> Exempt {
        Exempt { set, range: range.parse().unwrap() }
    }

    /// Claims or takes back, and carries out what follows; returns the elements of the mesh's set.
    fn change(state: &mut FamilyState, wanted: &[&str], unwanted: &[&str]) -> Vec<String> {
        let net = |text: &&str| text.parse::<IpNet>().unwrap();
        wanted.iter().map(net).for_each(|range| state.mesh.insert(range, Claim::Wanted));
        unwanted.iter().map(net).for_each(|range| state.mesh.remove(&range));
        let keys: Vec<Exempt> =
            wanted.iter().chain(unwanted).map(|range| exempt(ExemptSet::Mesh, range)).collect();
        let plan = state.plan(&keys);
        state.carried_out(plan);
        state.installed.mesh.ranges().map(|range| range.to_string()).collect()
    }

    #[test]
    fn elements_are_the_outermost_of_the_claimed_ranges() {
        let mut state = FamilyState::new(Family::V4);
        assert!(change(&mut state, &["10.2.1.0/24"], &[]).is_empty(), "no pods, no table");
        assert_eq!(state.present().count(), 1, "and nothing is missing");
        state.pods.insert("10.1.0.0/16".parse().unwrap(), Claim::Wanted);
        assert_eq!(state.present().count(), 0);
        assert_eq!(state.plan(&[]).table, TablePlan::Create);
        let both = ["10.2.1.0/24", "10.2.2.0/24"];
        assert_eq!(change(&mut state, &["10.2.2.0/24"], &[]), both);
        // One that has both inside takes their place in the same transaction, and gives it back.
        assert_eq!(change(&mut state, &["10.2.0.0/16"], &[]), ["10.2.0.0/16"]);
        assert_eq!(change(&mut state, &["10.2.3.0/24"], &["10.2.2.0/24"]), ["10.2.0.0/16"]);
        assert_eq!(state.present().count(), 4, "a range inside another one is exempt");
        let left = ["10.2.1.0/24", "10.2.3.0/24"];
        assert_eq!(change(&mut state, &[], &["10.2.0.0/16"]), left);
        let plan = state.plan(&[exempt(ExemptSet::Mesh, "10.2.1.0/24")]);
        assert!(plan.edits.iter().all(|edit| edit.removed.is_empty() && edit.added.is_empty()));
        assert!(change(&mut state, &[], &left).is_empty());
        assert_eq!(state.installed.form, Form::Absent, "without a range there is no table");
    }

    #[test]
    fn a_change_touches_what_it_changes() {
        let mut state = FamilyState::new(Family::V6);
        state.pods.insert("fd00:10:1::/48".parse().unwrap(), Claim::Wanted);
        for node in 0..2_000_u32 {
            let range: IpNet = format!("fd00:10:2:{node:x}::/64").parse().unwrap();
            state.mesh.insert(range, Claim::Wanted);
        }
        let plan = state.plan(&[]);
        state.carried_out(plan);
        state.mesh.insert("fd00:10:3::/64".parse().unwrap(), Claim::Wanted);
        let plan = state.plan(&[exempt(ExemptSet::Mesh, "fd00:10:3::/64")]);
        let changed: usize = plan.edits.iter().map(|e| e.added.len() + e.removed.len()).sum();
        assert_eq!((plan.table, changed), (TablePlan::Keep, 1));
    }

    #[test]
    fn what_an_earlier_run_left_counts_as_claimed_until_it_is_unwanted() {
        let mut state = FamilyState::new(Family::V4);
        let mut installed = Installed { form: Form::Intact, ..Installed::default() };
        let mut insert = |set, range: &str| {
            installed.set_mut(set).insert(interval(range.parse().unwrap()));
        };
        insert(ExemptSet::Pods, "10.1.0.0/16");
        insert(ExemptSet::Mesh, "10.3.0.0/24");
        // The release before joined neighbours.
        insert(ExemptSet::Mesh, "10.2.0.0/23");
        state.inherit(installed.clone());
        let listed = ["10.2.0.0/23", "10.3.0.0/24"];
        assert_eq!(change(&mut state, &["10.2.1.0/24"], &[]), listed, "the other half stays");
        let unlisted = change(&mut state, &[], &["10.2.0.0/23"]);
        assert_eq!(unlisted, ["10.2.1.0/24", "10.3.0.0/24"]);
        // What was inherited and is gone is not made again.
        state.inherit(Installed { mesh: Default::default(), ..installed });
        assert_eq!(state.mesh.iter().count(), 1);
    }
}
