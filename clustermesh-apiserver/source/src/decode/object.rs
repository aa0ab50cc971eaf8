//! Objects as an API server has them, one at a time.

use mesh_model::object::{Kind, Object, ObjectKey};

use super::{Format, fields, tree, typed};
use crate::kubernetes::Header;

/// An object of an API server that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
pub struct Unreadable {
    /// Which; `None`: that cannot be read either.
    pub key: Option<ObjectKey>,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads an object of a kind as an API server has it: in JSON, with or without its kind, and with fields that a later version
/// may have added.
///
/// # Errors
/// When the mesh cannot use it.
pub fn decode_object(kind: Kind, json: &str) -> Result<Object, Unreadable> {
    let unreadable = |key| move |reason| Unreadable { key, reason };
    let value = tree::read(Format::Json, json).map_err(|(_, reason)| unreadable(None)(reason))?;
    let value = value.unwrap_or_default();
    let header: Header = fields::read(&value).map_err(unreadable(None))?;
    if header.metadata.name.is_empty() {
        return Err(unreadable(None)("it has no metadata.name".into()));
    }
    let key = Some(header.key(kind));
    if let Some(field) = tree::twice(&value) {
        return Err(unreadable(key)(format!("{field} occurs twice")));
    }
    header.metadata.check(kind).and_then(|()| typed(kind, &header, &value)).map_err(unreadable(key))
}

/// What names an object of a kind, as an API server has it; `None` where it has no name.
pub fn key_of(kind: Kind, json: &str) -> Option<ObjectKey> {
    let header: Header = serde_json::from_str(json).ok()?;
    Some(header.key(kind)).filter(|key| !key.name.is_empty())
}
