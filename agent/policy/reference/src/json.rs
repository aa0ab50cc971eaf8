//! What is needed of JSON: absent values are empty ones, where the documents say so.

use serde_json::Value;

use crate::unsupported::Unsupported;

/// The text of a field, or an empty one.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list, or none.
pub(crate) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub(crate) fn texts<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    items(value, field).iter().filter_map(Value::as_str)
}

/// The entries of an object whose values are texts, or none.
pub(crate) fn pairs<'a>(
    value: &'a Value,
    field: &str,
) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    let entries = value.get(field).and_then(Value::as_object).into_iter().flatten();
    entries.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

/// A field that must be there.
pub(crate) fn required<'a>(value: &'a Value, field: &str) -> Result<&'a Value, Unsupported> {
    value.get(field).ok_or_else(|| Unsupported(format!("{field} is missing in {value}")))
}

/// Fails if an object has other fields than these.
pub(crate) fn only(value: &Value, fields: &[&str]) -> Result<(), Unsupported> {
    let Some(object) = value.as_object() else {
        return Err(Unsupported(format!("{value} is no object")));
    };
    match object.keys().find(|key| !fields.contains(&key.as_str())) {
        Some(key) => Err(Unsupported(format!("{key} in {value}"))),
        None => Ok(()),
    }
}
