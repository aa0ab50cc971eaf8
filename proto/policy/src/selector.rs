//! Selectors over the labels of identities.

use std::fmt;

use mesh_model::Labels;

/// All requirements must hold. Without any it matches every identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// In the order of their keys, without duplicates.
    pub requirements: Vec<Requirement>,
}

/// What a label must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's source; `None`: any.
    pub source: Option<String>,
    /// The label's key, without its source.
    pub key: String,
    /// What holds for its value.
    pub operator: Operator,
}

/// What holds for the value of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label exists and has one of these values (sorted).
    In(Vec<String>),
    /// The label has none of these values (sorted), or does not exist.
    NotIn(Vec<String>),
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

// === impl Selector ===

impl Selector {
    /// Whether an identity with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether a requirement is about this key, whatever its source.
    pub fn names(&self, key: &str) -> bool {
        self.requirements.iter().any(|requirement| requirement.key == key)
    }

    /// Whether a requirement is about a reserved label: those of nodes and of what is outside the mesh.
    pub fn names_reserved(&self) -> bool {
        self.requirements
            .iter()
            .any(|requirement| requirement.source.as_deref() == Some("reserved"))
    }

    /// With one more requirement.
    #[must_use]
    pub fn and(mut self, requirement: Requirement) -> Self {
        self.requirements.push(requirement);
        self.requirements.sort();
        self.requirements.dedup();
        self
    }
}

// === impl Requirement ===

impl Requirement {
    /// A label of source `k8s` has this value.
    pub fn equals(key: &str, value: &str) -> Self {
        Self::kubernetes(key, Operator::In(vec![value.into()]))
    }

    /// What holds for a label of source `k8s`.
    pub fn kubernetes(key: &str, operator: Operator) -> Self {
        Self {
            source: Some(mesh_model::identity::KUBERNETES_SOURCE.into()),
            key: key.into(),
            operator,
        }
    }

    /// Whether these labels fulfil it.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = match &self.source {
            Some(source) => labels.get(source, &self.key),
            None => labels.any(&self.key),
        };
        match &self.operator {
            Operator::In(values) => {
                value.is_some_and(|value| values.iter().any(|one| one == value))
            }
            Operator::NotIn(values) => {
                !value.is_some_and(|value| values.iter().any(|one| one == value))
            }
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Selector {
    /// As `kubectl` writes selectors: `app=web,tier in (a,b),!canary`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        if texts.is_empty() { f.write_str("all") } else { f.write_str(&texts.join(",")) }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.as_ref().map(|source| format!("{source}:")).unwrap_or_default();
        let name = format!("{source}{}", self.key);
        match &self.operator {
            Operator::In(values) => match values.as_slice() {
                [value] => write!(f, "{name}={value}"),
                values => write!(f, "{name} in ({})", values.join(",")),
            },
            Operator::NotIn(values) => write!(f, "{name} notin ({})", values.join(",")),
            Operator::Exists => f.write_str(&name),
            Operator::DoesNotExist => write!(f, "!{name}"),
        }
    }
}
