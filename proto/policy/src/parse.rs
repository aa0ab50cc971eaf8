//! Reads one object.

use mesh_labels::LabelFilter;
use mesh_model::{PolicyKind, PolicyRef, Refusal, names};
use serde_json::Value;

use crate::{
    cilium::{Clusterwide, Namespaced},
    fields::Schema,
    path::Path,
    read::{Fields, Reader, quoted},
    rule::{DirectionRules, Policy, Rule},
    selector::Selector,
};

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its name, as far as it has one.
    pub reference: PolicyRef,
    /// The policy, or all that is refused of it (at least one).
    pub policy: Result<Policy, Vec<Refusal>>,
    /// The pods that it would govern, also if it is refused: for each spec whose subject was read. A requirement that is
    /// refused is left out, so that they are rather more than fewer.
    pub governs: Vec<Governed>,
}

/// Pods that a policy governs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Governed {
    /// The pods, as in [`Rule::subject`].
    pub subject: Selector,
    /// It says what may reach them.
    pub ingress: bool,
    /// It says what they may reach.
    pub egress: bool,
}

/// The namespace of an object that names none, as `kubectl` has it.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads a policy object. `None`: it is of another kind. `filter` says which labels make identities: a selector that
/// names another one is refused, because it would match nothing for ever.
pub fn parse(object: &Value, filter: &LabelFilter) -> Option<Checked> {
    let name = object.get("kind")?.as_str()?;
    let kind = PolicyKind::ALL.into_iter().find(|kind| kind.as_str() == name)?;
    let schema = match kind {
        PolicyKind::NetworkPolicy => Schema::NetworkPolicy,
        PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy => {
            Schema::Cilium
        }
    };
    let mut reader = Reader::new(schema, filter);
    let fields = reader.object(object, &Path::ROOT);
    reader.version(fields, kind.api_version());
    let reference = reader.reference(fields, kind);
    let rules = match kind {
        PolicyKind::NetworkPolicy => vec![reader.network_policy(fields, &reference.namespace)],
        PolicyKind::CiliumNetworkPolicy => {
            reader.cilium_policy(fields, &Namespaced(&reference.namespace))
        }
        PolicyKind::CiliumClusterwideNetworkPolicy => reader.cilium_policy(fields, &Clusterwide),
    };
    let governs = rules.iter().map(Governed::of).collect();
    let refusals = reader.into_refusals();
    let policy = match refusals.is_empty() {
        true => Ok(Policy { reference: reference.clone(), rules }),
        false => Err(refusals),
    };
    Some(Checked { reference, policy, governs })
}

// === impl Governed ===

impl Governed {
    fn of(rule: &Rule) -> Self {
        let is_governed = |rules: &DirectionRules| rules.default_deny || !rules.rules.is_empty();
        Self {
            subject: rule.subject.clone(),
            ingress: is_governed(&rule.ingress),
            egress: is_governed(&rule.egress),
        }
    }
}

// === impl Reader ===

impl Reader<'_> {
    fn version(&mut self, object: Fields<'_>, version: &'static str) {
        if let Some(value) = self.required(object, &Path::ROOT, "apiVersion") {
            self.word(value, &Path::ROOT.field("apiVersion"), &[(version, ())]);
        }
    }

    fn reference(&mut self, object: Fields<'_>, kind: PolicyKind) -> PolicyRef {
        let path = Path::ROOT.field("metadata");
        let metadata = self.required(object, &Path::ROOT, "metadata");
        let metadata = metadata.map(|value| self.object(value, &path)).unwrap_or_default();
        let at = path.field("name");
        let name = self.required(metadata, &path, "name");
        let name = name.and_then(|name| self.text(name, &at)).inspect(|name| {
            if let Err(reason) = names::subdomain(name) {
                self.refuse(&at, format!("{}: {reason}", quoted(name)));
            }
        });
        let namespace = match kind {
            PolicyKind::CiliumClusterwideNetworkPolicy => "",
            PolicyKind::NetworkPolicy | PolicyKind::CiliumNetworkPolicy => {
                let at = path.field("namespace");
                let given = metadata.get("namespace").and_then(|value| self.text(value, &at));
                let namespace = given.filter(|given| !given.is_empty());
                let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
                if let Err(reason) = names::label(namespace) {
                    self.refuse(&at, format!("{}: {reason}", quoted(namespace)));
                }
                namespace
            }
        };
        PolicyRef { kind, namespace: namespace.into(), name: name.unwrap_or_default().into() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use serde_json::json;

    use super::*;

    fn governs(spec: Value) -> Vec<(usize, bool, bool)> {
        let object = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": { "namespace": "shop", "name": "x" }, "spec": spec,
        });
        let checked = parse(&object, &LabelFilter::new([]).unwrap()).unwrap();
        assert!(checked.policy.is_err(), "{checked:?}");
        let shown = |one: Governed| (one.subject.requirements.len(), one.ingress, one.egress);
        checked.governs.into_iter().map(shown).collect()
    }

    #[test]
    fn what_is_refused_governs_its_subject_all_the_same() {
        let http =
            json!([{ "toPorts": [{ "ports": [{ "port": "80" }], "rules": { "http": [{}] } }] }]);
        let web = json!({ "matchLabels": { "app": "web" } });
        assert_eq!(
            governs(json!({ "endpointSelector": web, "ingress": http })),
            [(2, true, false)]
        );
        assert_eq!(
            governs(json!({ "endpointSelector": web, "egressDeny": http })),
            [(2, false, true)]
        );
        let both = json!({ "endpointSelector": {}, "ingress": http, "egress": [{}] });
        assert_eq!(governs(both), [(1, true, true)]);
        // A label that identities do not have: all pods that the rest means.
        let hash = json!({ "matchLabels": { "app": "web", "pod-template-hash": "1" } });
        assert_eq!(
            governs(json!({ "endpointSelector": hash, "ingress": [{}] })),
            [(2, true, false)]
        );
        // Nodes are no pods.
        assert_eq!(governs(json!({ "nodeSelector": {}, "ingress": [{}] })), []);
    }
}
