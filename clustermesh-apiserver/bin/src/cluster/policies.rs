//! The policies of a cluster for status, problems and metrics.

use std::collections::{BTreeMap, BTreeSet};

use mesh_admin::{
    ProblemCode,
    v1::{Policies, PolicyKind as KindMessage, PolicyRefusal, Problem, RefusedPolicy as Message},
};
use mesh_export::{Exporter, RefusedPolicy};
use mesh_model::{
    PolicyKind, RefusalClass,
    object::{Kind, ObjectKey},
};

/// The policies of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyView {
    /// The policies of each kind.
    kinds: BTreeMap<PolicyKind, KindCounts>,
    /// The first ones that are refused.
    refused: Vec<(ObjectKey, RefusedPolicy)>,
}

/// The policies of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KindCounts {
    policies: usize,
    refused: usize,
    /// How many are refused for each class of reasons.
    by_class: BTreeMap<RefusalClass, usize>,
    /// The source has no such kind.
    absent: bool,
}

/// How many refused policies the status names with all their fields.
const LISTED: usize = 100;
/// How many problems there are about refused policies: one for each, and one for all others.
const NAMED: usize = 20;

// === impl PolicyView ===

impl Default for PolicyView {
    /// No policies of any kind.
    fn default() -> Self {
        let kinds = PolicyKind::ALL.map(|kind| (kind, KindCounts::default()));
        Self { kinds: kinds.into(), refused: Vec::new() }
    }
}

impl PolicyView {
    pub(super) fn new(exporter: &Exporter, absent: &BTreeSet<Kind>) -> Self {
        let counted = exporter.policy_counts().into_iter();
        let mut kinds: BTreeMap<PolicyKind, KindCounts> = counted
            .map(|(kind, policies)| {
                let absent = absent.contains(&Kind::from(kind));
                (kind, KindCounts { policies, absent, ..KindCounts::default() })
            })
            .collect();
        let refused = exporter.refused_policies();
        for (key, refused) in refused {
            let counts = key.kind.policy().and_then(|kind| kinds.get_mut(&kind));
            let Some(counts) = counts else { continue };
            counts.refused += 1;
            for class in refused.classes() {
                *counts.by_class.entry(class).or_default() += 1;
            }
        }
        let refused = refused.iter().take(LISTED);
        let refused = refused.map(|(key, refused)| (key.clone(), refused.clone())).collect();
        Self { kinds, refused }
    }

    /// The number of policies of each kind.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (PolicyKind, usize)> {
        self.kinds.iter().map(|(kind, counts)| (*kind, counts.policies))
    }

    /// The number of refused policies of each kind, for each class of reasons.
    pub(crate) fn refused_counts(&self) -> impl Iterator<Item = (PolicyKind, RefusalClass, usize)> {
        self.kinds.iter().flat_map(|(kind, counts)| {
            let count = |class| counts.by_class.get(&class).copied().unwrap_or_default();
            RefusalClass::ALL.map(|class| (*kind, class, count(class)))
        })
    }

    /// The problems that they are.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let refused: usize = self.kinds.values().map(|counts| counts.refused).sum();
        let named = self.refused.iter().take(NAMED).map(|(key, refused)| {
            let message = format!("{key}: {refused}");
            ProblemCode::PolicyRefused.problem(message).about(key.to_string())
        });
        let more = refused.saturating_sub(NAMED);
        let more = (more > 0).then(|| {
            let message = format!("{more} more policies are refused");
            ProblemCode::PolicyRefused.problem(message)
        });
        named.chain(more)
    }

    /// The same for the admin API.
    pub(crate) fn message(&self) -> Policies {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let kinds = self.kinds.iter().map(|(kind, counts)| KindMessage {
            kind: kind.to_string(),
            policies: count(counts.policies),
            refused: count(counts.refused),
            absent: counts.absent,
        });
        let refused = self.refused.iter().map(|(key, refused)| Message {
            object: key.to_string(),
            refusals: refused
                .refusals
                .iter()
                .map(|refusal| PolicyRefusal {
                    class: refusal.class.to_string(),
                    field: refusal.field.clone(),
                    reason: refusal.reason.clone(),
                })
                .collect(),
            more: count(refused.more),
            previous_stays: refused.stays,
        });
        Policies { kinds: kinds.collect(), refused: refused.collect() }
    }
}
