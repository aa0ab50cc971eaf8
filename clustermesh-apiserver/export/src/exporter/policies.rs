//! Policies, and what is refused of them.
//!
//! Nothing is dropped in silence. A policy that is refused is exported with the reasons, so that the nodes deny what it
//! would have governed, instead of allowing it. A new version that is malformed replaces none: the last one stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use mesh_labels::LabelFilter;
use mesh_model::{
    LocalPolicy, PolicyKind, PolicyObject, PolicyRef, Record, Refusal, RefusalClass, excerpt,
    object::{Object, ObjectKey, Uid},
};
use mesh_policy_rules::{outline, parse};
use serde_json::Value;

use super::{Exporter, Made};

/// All policies of the cluster.
#[derive(Debug, Default)]
pub(super) struct Policies {
    known: BTreeMap<ObjectKey, Known>,
    /// The policies of each namespace, and those of the cluster under an empty name.
    by_namespace: BTreeMap<Arc<str>, BTreeSet<ObjectKey>>,
    refused: BTreeMap<ObjectKey, RefusedPolicy>,
    /// The number of policies of each kind.
    counts: BTreeMap<PolicyKind, usize>,
    /// What an etcd has of policies that were not read yet: those that were in force in a previous run.
    recalled: BTreeMap<ObjectKey, LocalPolicy>,
    /// Those whose refusals have changed since this was taken.
    changed: BTreeSet<ObjectKey>,
}

/// A policy that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPolicy {
    /// Distinguishes the object from others of the same name; empty if it has none.
    pub uid: Uid,
    /// What is refused of it: at least one, and not more than [`LocalPolicy::MAX_REFUSALS`].
    pub refusals: Vec<Refusal>,
    /// How many more there are.
    pub more: usize,
    /// What was exported before stays, because this version is malformed.
    pub stays: bool,
}

/// A policy.
#[derive(Debug)]
struct Known {
    uid: Uid,
    /// As it is exported, if its namespace has not too many.
    exported: LocalPolicy,
    /// What is refused of the object as it is now.
    refusals: Refusals,
    /// The object as it is now is malformed, and `exported` is of an earlier version.
    stays: bool,
    /// It is beyond the limit of its namespace.
    is_over: bool,
}

/// What is refused of an object.
#[derive(Debug, Default)]
struct Refusals {
    /// The first ones.
    told: Vec<Refusal>,
    /// How many more there are.
    more: usize,
}

/// How many policies a namespace may have, and how many the cluster as a whole.
const MAX_POLICIES: usize = 1_000;
/// How many refusals a sentence names.
const NAMED: usize = 3;
/// How many characters of a field or reason are told. A character has four bytes at most.
const SHOWN: usize = LocalPolicy::MAX_REFUSAL / 4 - 1;

// === impl RefusedPolicy ===

impl RefusedPolicy {
    /// The classes of its reasons.
    pub fn classes(&self) -> BTreeSet<RefusalClass> {
        self.refusals.iter().map(|refusal| refusal.class).collect()
    }
}

impl fmt::Display for RefusedPolicy {
    /// What is refused, and what holds instead: a sentence after the object's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refusals, more, stays, .. } = self;
        f.write_str("refused as a whole: ")?;
        for (index, refusal) in refusals.iter().take(NAMED).enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}{refusal}")?;
        }
        match refusals.len().saturating_sub(NAMED) + more {
            0 => {}
            more => write!(f, "; and {more} more")?,
        }
        f.write_str(match stays {
            true => ". Its previous version stays in force",
            false => ". Where policies are enforced, what it would govern is denied",
        })
    }
}

// === impl Policies ===

impl Policies {
    /// Updates a policy for its object's change. Returns those whose record has changed.
    pub(super) fn change(
        &mut self,
        key: &ObjectKey,
        object: Option<&Object>,
        filter: &LabelFilter,
    ) -> BTreeSet<ObjectKey> {
        let Some(Object::Policy(object)) = object else {
            if let Some(known) = self.known.remove(key) {
                *self.counts.entry(known.exported.reference.kind).or_default() -= 1;
            }
            if let Some(all) = self.by_namespace.get_mut(&key.namespace) {
                all.remove(key);
                if all.is_empty() {
                    self.by_namespace.remove(&key.namespace);
                }
            }
            self.set_refused(key, None);
            return self.settle(key);
        };
        let Read { policy, refusals, is_malformed } = read(object, filter);
        let uid = object.uid.clone();
        match self.known.get_mut(key) {
            Some(known) if is_malformed => {
                (known.uid, known.refusals) = (uid, refusals);
                // Of versions that are all malformed, the last one is told.
                known.stays = known.stays || !is_malformed_one(&known.exported);
                if !known.stays {
                    known.exported = policy;
                }
            }
            known => {
                let is_over = known.as_ref().is_some_and(|known| known.is_over);
                if known.is_none() {
                    *self.counts.entry(policy.reference.kind).or_default() += 1;
                }
                // In force in a previous run, which this one cannot know otherwise.
                let former = self.recalled.remove(key).filter(|_| is_malformed);
                let stays = former.is_some();
                let exported = former.unwrap_or(policy);
                let known = Known { uid, exported, refusals, stays, is_over };
                self.known.insert(key.clone(), known);
                self.by_namespace
                    .entry(Arc::clone(&key.namespace))
                    .or_default()
                    .insert(key.clone());
            }
        }
        self.settle(key)
    }

    fn knows(&self, policy: &PolicyRef) -> bool {
        self.known.contains_key(&key_of(policy))
    }

    /// All policies of a kind were read.
    pub(super) fn listed(&mut self, kind: PolicyKind) {
        self.recalled.retain(|_, policy| policy.reference.kind != kind);
    }

    /// Takes note of policies that were in force in a previous run. They replace malformed ones only.
    fn recall(&mut self, found: Vec<LocalPolicy>) -> BTreeSet<ObjectKey> {
        let mut affected = BTreeSet::new();
        for policy in found.into_iter().filter(|policy| policy.refused.is_empty()) {
            let key = key_of(&policy.reference);
            match self.known.get_mut(&key) {
                None => drop(self.recalled.insert(key, policy)),
                Some(known) if is_malformed_one(&known.exported) => {
                    (known.exported, known.stays) = (policy, true);
                    affected.extend(self.settle(&key));
                }
                Some(_) => {}
            }
        }
        affected
    }

    /// A policy as its record has it.
    fn record(&self, key: &ObjectKey) -> Option<LocalPolicy> {
        let Known { exported, is_over, .. } = self.known.get(key)?;
        if !is_over {
            return Some(exported.clone());
        }
        let json = outline_of(exported.reference.kind, &exported.json);
        Some(LocalPolicy { json, refused: vec![too_many(key)], ..exported.clone() })
    }

    /// Finds which policies of a namespace are too many. The first ones by kind and name stay, so all replicas decide alike.
    fn settle(&mut self, changed: &ObjectKey) -> BTreeSet<ObjectKey> {
        let mut affected = BTreeSet::from([changed.clone()]);
        let all = self.by_namespace.get(&changed.namespace);
        let mut after = all.into_iter().flatten().skip(MAX_POLICIES - 1);
        let (last, first_over) = (after.next(), after.next());
        // By one change, one policy at most comes within the limit or goes beyond it.
        for key in [last, first_over, Some(changed)].into_iter().flatten() {
            let is_over = first_over.is_some_and(|first| key >= first);
            if let Some(known) = self.known.get_mut(key)
                && std::mem::replace(&mut known.is_over, is_over) != is_over
            {
                affected.insert(key.clone());
            }
        }
        for key in &affected {
            let refused = self.known.get(key).and_then(|known| refused(key, known));
            self.set_refused(key, refused);
        }
        affected
    }

    fn set_refused(&mut self, key: &ObjectKey, now: Option<RefusedPolicy>) {
        if self.refused.get(key) == now.as_ref() {
            return;
        }
        match now {
            Some(now) => self.refused.insert(key.clone(), now),
            None => self.refused.remove(key),
        };
        self.changed.insert(key.clone());
    }
}

/// What is refused of a policy, if something is.
fn refused(key: &ObjectKey, known: &Known) -> Option<RefusedPolicy> {
    let Known { uid, refusals, stays, is_over, .. } = known;
    let Refusals { told, more } = refusals;
    let all = is_over.then(|| too_many(key)).into_iter().chain(told.iter().cloned());
    let mut refusals: Vec<Refusal> = all.collect();
    let beyond = refusals.len().saturating_sub(LocalPolicy::MAX_REFUSALS);
    refusals.truncate(LocalPolicy::MAX_REFUSALS);
    (!refusals.is_empty()).then(|| RefusedPolicy {
        uid: uid.clone(),
        refusals,
        more: more + beyond,
        stays: *stays,
    })
}

/// What became of an object.
struct Read {
    /// The policy as it is exported.
    policy: LocalPolicy,
    refusals: Refusals,
    is_malformed: bool,
}

fn read(object: &PolicyObject, filter: &LabelFilter) -> Read {
    let PolicyObject { reference, json, .. } = object;
    let mut refusals = match serde_json::from_str::<Value>(json) {
        Ok(value) => match parse(&value, filter).map(|checked| checked.policy) {
            Some(Ok(_)) => Vec::new(),
            Some(Err(refusals)) => refusals,
            None => vec![malformed("it is not of its kind")],
        },
        Err(error) => vec![malformed(&error.to_string())],
    };
    let mut json = Arc::clone(json);
    if json.len() > LocalPolicy::MAX_OBJECT {
        refusals = vec![too_large(json.len())];
        json = outline_of(reference.kind, &json);
    }
    let is_malformed = refusals.iter().any(|refusal| refusal.class == RefusalClass::Malformed);
    let more = refusals.len().saturating_sub(LocalPolicy::MAX_REFUSALS);
    refusals.truncate(LocalPolicy::MAX_REFUSALS);
    for Refusal { field, reason, .. } in &mut refusals {
        for text in [field, reason] {
            *text = excerpt(text, SHOWN).into_owned();
        }
    }
    let policy = LocalPolicy { reference: reference.clone(), json, refused: refusals.clone() };
    Read { policy, refusals: Refusals { told: refusals, more }, is_malformed }
}

fn is_malformed_one(policy: &LocalPolicy) -> bool {
    policy.refused.iter().any(|refusal| refusal.class == RefusalClass::Malformed)
}

fn key_of(reference: &PolicyRef) -> ObjectKey {
    let PolicyRef { kind, namespace, name } = reference;
    ObjectKey {
        kind: (*kind).into(),
        namespace: namespace.as_str().into(),
        name: name.as_str().into(),
    }
}

fn malformed(reason: &str) -> Refusal {
    let reason = reason.to_owned();
    Refusal { field: String::new(), reason, class: RefusalClass::Malformed }
}

fn too_large(bytes: usize) -> Refusal {
    let most = LocalPolicy::MAX_OBJECT;
    let reason = format!(
        "it has {bytes} bytes: at most {most}, as an etcd takes requests of 1.5 MiB; write several policies"
    );
    Refusal { field: String::new(), reason, class: RefusalClass::Limit }
}

fn too_many(key: &ObjectKey) -> Refusal {
    let of = match &*key.namespace {
        "" => "the cluster".to_owned(),
        namespace => format!("the namespace {namespace}"),
    };
    let reason =
        format!("{of} has more than {MAX_POLICIES} policies: those after them are not in force");
    Refusal { field: String::new(), reason, class: RefusalClass::Limit }
}

fn outline_of(kind: PolicyKind, json: &str) -> Arc<str> {
    let value = serde_json::from_str::<Value>(json).unwrap_or_default();
    outline(kind, &value, LocalPolicy::MAX_OBJECT).to_string().into()
}

// === impl Exporter ===

impl Exporter {
    /// Policies are for the cluster's own nodes, whether or not their namespace takes part in the mesh.
    pub(super) fn policy_records(&self, key: &ObjectKey) -> Made {
        let record = self.policies.record(key).map(|policy| Record::Policy(Box::new(policy)));
        Made::of(record.into_iter().collect())
    }

    /// Takes note of the policies that an etcd has, before anything is written there: those that a previous run exported as
    /// in force. Such a one stays while the object is malformed.
    pub fn recall_policies(&mut self, found: Vec<LocalPolicy>) {
        let filter = &self.config.filter;
        let is_valid = |policy: &LocalPolicy| {
            let value = serde_json::from_str::<Value>(&policy.json).ok();
            let checked = value.and_then(|value| parse(&value, filter));
            checked.is_some_and(|checked| checked.policy.is_ok())
        };
        // One that the source does not have any more is not in force.
        let listed = |policy: &LocalPolicy| self.listed.contains(&policy.reference.kind.into());
        let is_gone =
            |policy: &LocalPolicy| listed(policy) && !self.policies.knows(&policy.reference);
        let found = found.into_iter().filter(|policy| !is_gone(policy) && is_valid(policy));
        let found = found.collect();
        let affected = self.policies.recall(found);
        affected.iter().for_each(|key| self.make_policy(key));
    }

    /// The policies that are refused.
    pub fn refused_policies(&self) -> &BTreeMap<ObjectKey, RefusedPolicy> {
        &self.policies.refused
    }

    /// The policies whose refusals have changed since the last call; `None`: nothing is refused of it, or it is gone.
    pub fn take_refusal_changes(&mut self) -> Vec<(ObjectKey, Option<RefusedPolicy>)> {
        let changed = std::mem::take(&mut self.policies.changed);
        let refused = &self.policies.refused;
        changed.into_iter().map(|key| (key.clone(), refused.get(&key).cloned())).collect()
    }

    /// The number of policies of each kind.
    pub fn policy_counts(&self) -> BTreeMap<PolicyKind, usize> {
        let count = |kind| self.policies.counts.get(&kind).copied().unwrap_or_default();
        PolicyKind::ALL.map(|kind| (kind, count(kind))).into()
    }
}
