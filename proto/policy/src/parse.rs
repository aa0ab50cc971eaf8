//! Reads one object.

use mesh_labels::LabelFilter;
use mesh_model::{PolicyKind, PolicyRef, Refusal, names};
use serde_json::Value;

use crate::{
    cilium::{Clusterwide, Namespaced},
    fields::Schema,
    path::Path,
    read::{Fields, Reader, quoted},
    rule::Policy,
};

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its name, as far as it has one.
    pub reference: PolicyRef,
    /// The policy, or all that is refused of it (at least one).
    pub policy: Result<Policy, Vec<Refusal>>,
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
    let refusals = reader.into_refusals();
    let policy = match refusals.is_empty() {
        true => Ok(Policy { reference: reference.clone(), rules }),
        false => Err(refusals),
    };
    Some(Checked { reference, policy })
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
