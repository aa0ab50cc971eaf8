//! Labels, selectors and the names of annotations, as an API server takes them: they are parts of identities, which are texts.

use mesh_model::object::Kind;
use serde_json::Value;

use crate::kubernetes::names;

/// Says which one no API server takes.
pub(super) fn check(kind: Kind, value: &Value) -> Result<(), String> {
    let texts = |path: &str| {
        let entries = value.pointer(path).and_then(Value::as_object).into_iter().flatten();
        entries.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
    };
    let pairs = |path: &str, field: &str| {
        texts(path).try_for_each(|(name, value)| {
            names::qualified(name).map_err(|reason| format!("{field} {name:?}: {reason}"))?;
            names::label_value(value)
                .map_err(|reason| format!("{field}.{name}: {value:?}: {reason}"))
        })
    };
    pairs("/metadata/labels", "metadata.labels")?;
    if kind == Kind::Service {
        pairs("/spec/selector", "spec.selector")?;
    }
    texts("/metadata/annotations").try_for_each(|(name, _)| {
        names::qualified(&name.to_ascii_lowercase())
            .map_err(|reason| format!("metadata.annotations {name:?}: {reason}"))
    })
}
