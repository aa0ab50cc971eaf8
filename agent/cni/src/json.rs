//! Reading JSON of a runtime, and naming what is wrong with a field.

use serde::Deserialize;

use crate::error::CniError;

/// Reads an object. Serde would also accept an array, field by field.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    let read = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if text.trim_start().starts_with('{') { Ok(read) } else { Err("it is no object".into()) }
}

pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> CniError {
    CniError::Configuration { field: field.into(), reason: reason.into() }
}
