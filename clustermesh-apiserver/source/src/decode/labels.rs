//! Checks labels, selectors and names of annotations as an API server does. Labels become part of identities' texts.

use std::borrow::Cow;

use mesh_model::{excerpt, names, object::Kind};
use serde_json::Value;

/// How many characters of a text an error contains. No valid one is longer.
const SHOWN: usize = 63;

/// Checks an object's labels, selector and annotation names. The error names the first invalid one.
pub(super) fn check(kind: Kind, value: &Value) -> Result<(), String> {
    let texts = |path: &str| {
        let entries = value.pointer(path).and_then(Value::as_object).into_iter().flatten();
        entries.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
    };
    let pairs = |path: &str, field: &str| {
        texts(path).try_for_each(|(name, value)| {
            names::qualified(name)
                .map_err(|reason| format!("{field} {}: {reason}", shown(name)))?;
            names::label_value(value)
                .map_err(|reason| format!("{field}.{name}: {}: {reason}", shown(value)))
        })
    };
    pairs("/metadata/labels", "metadata.labels")?;
    if kind == Kind::Service {
        pairs("/spec/selector", "spec.selector")?;
    }
    texts("/metadata/annotations").try_for_each(|(name, _)| {
        names::qualified(&name.to_ascii_lowercase())
            .map_err(|reason| format!("metadata.annotations {}: {reason}", shown(name)))
    })
}

/// A text for a message. A long one is truncated.
fn shown(text: &str) -> String {
    match excerpt(text, SHOWN) {
        Cow::Borrowed(text) => format!("{text:?}"),
        Cow::Owned(begins) => format!("{begins:?} ({} bytes)", text.len()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_texts_are_truncated_in_errors() {
        let long = "x".repeat(1_000_000);
        let refused = |labels: Value| {
            check(Kind::Service, &json!({ "metadata": { "labels": labels } })).unwrap_err()
        };
        let value = refused(json!({ "app": long }));
        let begins =
            format!("metadata.labels.app: \"{}…\" (1000000 bytes): a value is", "x".repeat(SHOWN));
        assert!(value.starts_with(&begins), "{}", value.len());
        let mut labels = serde_json::Map::new();
        labels.insert(long, "x".into());
        let name = refused(labels.into());
        assert!(name.contains("…\" (1000000 bytes): ") && name.len() < 400, "{}", name.len());
        assert!(refused(json!({ "app": "ä b" })).contains("metadata.labels.app: \"ä b\": "));
    }
}
