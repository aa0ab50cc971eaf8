//! What is refused of an input.

use std::fmt;

use mesh_policy_rules::{PolicyRef, Refusal};
use serde::Serialize;

/// One thing that is refused, and why. There is no answer then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The object, as `<Kind> <namespace>/<name>`, or the part of the input, as `flows[3]`.
    pub object: String,
    /// The field within it; empty: all of it.
    pub field: String,
    /// Why, and what to do.
    pub reason: String,
}

// === impl Problem ===

impl Problem {
    /// Of a part of the input.
    pub fn new(object: impl Into<String>, field: &str, reason: impl Into<String>) -> Self {
        Self { object: object.into(), field: field.into(), reason: reason.into() }
    }

    /// Of a policy.
    pub fn of_policy(policy: &PolicyRef, refusal: Refusal) -> Self {
        Self { object: policy.to_string(), field: refusal.field, reason: refusal.reason }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, field, reason } = self;
        match (object.as_str(), field.as_str()) {
            ("", field) => write!(f, "{field}: {reason}"),
            (object, "") => write!(f, "{object}: {reason}"),
            (object, field) => write!(f, "{object}: {field}: {reason}"),
        }
    }
}

/// Reads a part of the input. What does not fit is named by its path.
pub(crate) fn read<T: serde::de::DeserializeOwned>(
    value: &serde_json::Value,
    part: &str,
) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let path = if path == "." { "" } else { &path };
        Problem::new(part, path, reason)
    })
}
