//! What is refused of an input.

use std::{fmt, marker::PhantomData};

use mesh_policy_rules::{PolicyRef, Refusal};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

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

/// What is read from a JSON object. A derived `Deserialize` would read a list too, by the order of the fields.
pub(crate) struct FromObject<T>(T);

struct ObjectVisitor<T>(PhantomData<T>);

/// Reads a part of the input, which is an object. What does not fit is named by its path.
pub(crate) fn read<T: serde::de::DeserializeOwned>(
    value: &Value,
    part: &str,
) -> Result<T, Problem> {
    let read: Result<FromObject<T>, _> = serde_path_to_error::deserialize(value);
    read.map(|FromObject(read)| read).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let reason = reason.replace("expected u16", "expected a port of 0 to 65535");
        let path = if path == "." { "" } else { &path };
        Problem::new(part, path, reason)
    })
}

/// Reads the parts of a list. `part` names one; all that is refused of any is listed.
pub(crate) fn read_each<T: serde::de::DeserializeOwned>(
    values: &[Value],
    part: impl Fn(usize) -> String,
) -> Result<Vec<T>, Vec<Problem>> {
    all(values.iter().enumerate().map(|(index, value)| read(value, &part(index))))
}

/// All results, or all that is refused.
pub(crate) fn all<T>(
    results: impl Iterator<Item = Result<T, Problem>>,
) -> Result<Vec<T>, Vec<Problem>> {
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(one) => good.push(one),
            Err(problem) => refused.push(problem),
        }
    }
    if refused.is_empty() { Ok(good) } else { Err(refused) }
}

/// The name of an object of Kubernetes: `<Kind> <namespace>/<name>`; `part` where it has none.
pub(crate) fn object_name(object: &Value, part: &str) -> String {
    let text =
        |path: &str| object.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (text("/kind"), text("/metadata/namespace"), text("/metadata/name")) {
        (Some(kind), Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (Some(kind), None, Some(name)) => format!("{kind} {name}"),
        _ => part.to_owned(),
    }
}

/// A field that is `null` is absent: programs write empty lists so.
pub(crate) fn or_absent<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The same for a list of objects.
pub(crate) fn objects<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let read: Vec<FromObject<T>> = or_absent(deserializer)?;
    Ok(read.into_iter().map(|FromObject(one)| one).collect())
}

// === impl FromObject ===

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FromObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}
