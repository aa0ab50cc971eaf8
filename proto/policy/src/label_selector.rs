//! Selectors of labels as they are written, and what each kind of policy makes of their keys.

use mesh_labels::LabelFilter;
use mesh_model::{
    RefusalClass,
    identity::{
        CLUSTER_LABEL, KUBERNETES_SOURCE, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX,
        SERVICE_ACCOUNT_LABEL,
    },
    names,
};
use serde_json::Value;

use crate::{
    path::Path,
    read::{Fields, Reader, quoted},
    selector::{Operator, Requirement, Selector},
};

/// Sources of labels that a selector may name, beside `any`.
const SOURCES: [&str; 4] = [KUBERNETES_SOURCE, "container", "unspec", RESERVED];
const RESERVED: &str = "reserved";
/// The reserved labels that something in a mesh can have.
const RESERVED_LABELS: [&str; 10] = [
    "host",
    "remote-node",
    "kube-apiserver",
    "world",
    "world-ipv4",
    "world-ipv6",
    "init",
    "ingress",
    "health",
    "unmanaged",
];
/// The operators of `matchExpressions`, and whether each has values.
const OPERATORS: [(&str, (Kind, bool)); 4] = [
    ("In", (Kind::In, true)),
    ("NotIn", (Kind::NotIn, true)),
    ("Exists", (Kind::Exists, false)),
    ("DoesNotExist", (Kind::DoesNotExist, false)),
];

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// A label of a pod, as in Kubernetes.
    OfPods,
    /// A label of a pod's namespace, as in Kubernetes.
    OfNamespaces,
    /// `[source:]key`, as in Cilium; without a source, of any.
    WithSources,
    /// The same for services. Their labels are not those of identities, and sources are not looked at.
    OfServices,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

// === impl Reader ===

impl Reader<'_> {
    /// The selector at a path. Without requirements it selects everything.
    pub(crate) fn selector(&mut self, value: &Value, path: &Path<'_>, keys: Keys) -> Selector {
        let fields = self.object(value, path);
        let mut selector = Selector::default();
        if let Some(labels) = fields.get("matchLabels") {
            self.match_labels(labels, &path.field("matchLabels"), keys, &mut selector);
        }
        let expressions = self.each(fields, path, "matchExpressions", |reader, value, path| {
            reader.expression(value, path, keys)
        });
        selector.requirements.extend(expressions.into_iter().flatten());
        normal(selector)
    }

    fn match_labels(
        &mut self,
        value: &Value,
        path: &Path<'_>,
        keys: Keys,
        selector: &mut Selector,
    ) {
        for (key, value) in self.map(value, path).entries() {
            let path = path.key(key);
            let named = self.key(key, &path, keys);
            let value = self.text(value, &path).and_then(|value| self.value(value, &path));
            if let (Some((source, key)), Some(value)) = (named, value) {
                let operator = Operator::In(vec![value]);
                selector.requirements.push(Requirement { source, key, operator });
            }
        }
    }

    fn expression(&mut self, value: &Value, path: &Path<'_>, keys: Keys) -> Option<Requirement> {
        let fields = self.object(value, path);
        let key = self.required(fields, path, "key").and_then(|key| {
            let path = path.field("key");
            let key = self.text(key, &path)?;
            self.key(key, &path, keys)
        });
        let operator = self.required(fields, path, "operator");
        let operator =
            operator.and_then(|word| self.word(word, &path.field("operator"), &OPERATORS));
        let values = self.values(fields, path);
        let (kind, has_values) = operator?;
        let at = path.field("values");
        // What is no list was refused.
        let is_list = fields.get("values").is_none_or(Value::is_array);
        match (has_values, values.is_empty()) {
            (true, true) if is_list => self.refuse(&at, "In and NotIn need at least one value"),
            (false, false) => self.refuse(&at, "Exists and DoesNotExist have no values"),
            _ => {}
        }
        let (source, key) = key?;
        let operator = match kind {
            Kind::In => Operator::In(values),
            Kind::NotIn => Operator::NotIn(values),
            Kind::Exists => Operator::Exists,
            Kind::DoesNotExist => Operator::DoesNotExist,
        };
        Some(Requirement { source, key, operator })
    }

    /// The values of an expression, in order and without duplicates.
    fn values(&mut self, fields: Fields<'_>, path: &Path<'_>) -> Vec<String> {
        let values = self.each(fields, path, "values", |reader, value, path| {
            let text = reader.text(value, path)?;
            reader.value(text, path)
        });
        // One that is refused counts, so that the list is not called empty.
        let mut values: Vec<String> = values.into_iter().map(Option::unwrap_or_default).collect();
        values.sort();
        values.dedup();
        values
    }

    fn value(&mut self, value: &str, path: &Path<'_>) -> Option<String> {
        let checked = names::label_value(value);
        if let Err(reason) = checked {
            self.refuse(path, format!("{}: {reason}", quoted(value)));
        }
        checked.ok().map(|()| value.to_owned())
    }

    /// The label that a key names: its source and its key.
    fn key(
        &mut self,
        written: &str,
        path: &Path<'_>,
        keys: Keys,
    ) -> Option<(Option<String>, String)> {
        let of_kubernetes = |key: String| (Some(KUBERNETES_SOURCE.to_owned()), key);
        let named = match keys {
            Keys::OfPods => checked(written).map(|key| of_kubernetes(key.to_owned())),
            Keys::OfNamespaces => {
                checked(written).map(|key| of_kubernetes(format!("{NAMESPACE_LABELS_PREFIX}{key}")))
            }
            Keys::WithSources => with_source(written),
            Keys::OfServices => with_source(written).and_then(|(source, key)| {
                if source.is_some_and(|source| source != KUBERNETES_SOURCE) {
                    return Err("services have labels of Kubernetes only".into());
                }
                Ok((None, key))
            }),
        };
        let named = named.map_err(|reason| self.refuse(path, reason)).ok()?;
        if keys != Keys::OfServices {
            let (source, key) = &named;
            let source = source.as_deref().unwrap_or(KUBERNETES_SOURCE);
            if !is_always_kept(key) && !self.filter.keeps(source, key) {
                let reason = not_kept(self.filter, source, key);
                self.refuse_as(RefusalClass::FilteredLabel, path, reason);
                return None;
            }
        }
        Some(named)
    }

    /// A field that must be given.
    pub(crate) fn required<'v>(
        &mut self,
        fields: Fields<'v>,
        path: &Path<'_>,
        name: &str,
    ) -> Option<&'v Value> {
        let value = fields.get(name);
        // What is no object was refused as such.
        if value.is_none() && fields.is_object() {
            self.refuse(&path.field(name), "it is missing");
        }
        value
    }
}

/// With its requirements in order, and each once.
pub(crate) fn normal(mut selector: Selector) -> Selector {
    selector.requirements.sort();
    selector.requirements.dedup();
    selector
}

fn checked(key: &str) -> Result<&str, String> {
    names::qualified(key).map(|()| key).map_err(|reason| format!("{}: {reason}", quoted(key)))
}

/// The source and the key of `[source:]key`; `$key` and `reserved.key` are reserved too.
fn with_source(written: &str) -> Result<(Option<String>, String), String> {
    let reserved = written.strip_prefix('$').or_else(|| written.strip_prefix("reserved."));
    let (source, key) = match (written.split_once(':'), reserved) {
        (_, Some(key)) if !key.contains(':') => (RESERVED, key),
        (Some(("" | "any", key)), _) => ("", key),
        (Some((source, key)), _) => (source, key),
        (None, _) => ("", written),
    };
    let key = checked(key)?;
    let is_of_kubernetes = is_always_kept(key) || key.starts_with(NAMESPACE_LABELS_PREFIX);
    let source = match source {
        // A label of another source with such a key says nothing of where a pod is.
        "" if is_of_kubernetes => Some(KUBERNETES_SOURCE),
        "" => None,
        RESERVED if RESERVED_LABELS.contains(&key) => Some(RESERVED),
        RESERVED => {
            let all = RESERVED_LABELS.join(", ");
            return Err(format!("{} is no reserved label; there are {all}", quoted(key)));
        }
        source if is_of_kubernetes && source != KUBERNETES_SOURCE => {
            return Err(format!("{} has the source k8s only", quoted(key)));
        }
        source if SOURCES.contains(&source) => Some(source),
        source => {
            return Err(format!(
                "the source {} is not selected by; sources are any, {}",
                quoted(source),
                SOURCES.join(", ")
            ));
        }
    };
    Ok((source.map(str::to_owned), key.to_owned()))
}

/// Whether every identity of a pod has the label, whatever the filter says.
fn is_always_kept(key: &str) -> bool {
    [NAMESPACE_LABEL, CLUSTER_LABEL, SERVICE_ACCOUNT_LABEL].contains(&key)
}

/// Why a selector may not name a label, and what to do about it.
fn not_kept(filter: &LabelFilter, source: &str, key: &str) -> String {
    let rule = key.replace('.', "\\.");
    let way = match filter.could_keep(source, key) {
        true => format!(
            "clustermesh-apiserver keeps it with --identity-label='{rule}' (and then leaves out all labels that no rule includes)"
        ),
        false => "no rule of --identity-label keeps it: select by another one".into(),
    };
    format!("the label {} is no identity label, so nothing would ever have it; {way}", quoted(key))
}

#[cfg(test)]
mod tests;
