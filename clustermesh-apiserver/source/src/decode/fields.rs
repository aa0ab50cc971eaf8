//! Decodes trees of values into typed fields. Errors name the path of the field, and do not depend on the format.

use mesh_model::excerpt;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How much of a value an error contains, in characters.
const SHOWN: usize = 60;

/// Decodes typed fields. The error has the path of the wrong field.
pub(super) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    // Tracking the path doubles the cost, so only do it after an error.
    T::deserialize(value).or_else(|_| serde_path_to_error::deserialize(value)).map_err(|error| {
        let path = error.path().to_string();
        let reason = plain(at(value, &path), &error.into_inner().to_string());
        match path.as_str() {
            "." => reason,
            path => format!("{path}: {reason}"),
        }
    })
}

/// Rewrites a message of serde for the user who wrote the field.
fn plain(found: Option<&Value>, reason: &str) -> String {
    if let Some(field) = reason.strip_prefix("missing field `") {
        return format!("it has no {}", field.trim_end_matches('`'));
    }
    let (Some(found), Some((_, wanted))) = (found, reason.split_once(", expected ")) else {
        return reason.into();
    };
    let wanted = match wanted {
        "a string" | "string" => "a text",
        "a boolean" => "true or false",
        "u16" => "a number from 0 to 65535",
        "i32" | "i64" | "u32" | "u64" => "a whole number",
        wanted if wanted.starts_with("a sequence") => "a list",
        _ => "an object with fields",
    };
    let remedy = match found {
        Value::Bool(_) | Value::Number(_) if wanted == "a text" => ", in quotes",
        Value::String(text) if text.parse::<f64>().is_ok() && wanted.contains("number") => {
            ", without quotes"
        }
        Value::String(text) if ["true", "false"].contains(&text.as_str()) => ", without quotes",
        _ => "",
    };
    format!("{} is not {wanted}{remedy}", excerpt(&found.to_string(), SHOWN))
}

/// The value at a path such as `spec.ports[0].port`. Names may contain dots, as those of labels do.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() || path == "." {
        return Some(value);
    }
    match value {
        Value::Object(map) => map.iter().find_map(|(name, value)| {
            let rest = path.strip_prefix(name.as_str())?;
            let is_end = rest.is_empty() || rest.starts_with(['.', '[']);
            is_end.then(|| at(value, rest.strip_prefix('.').unwrap_or(rest)))?
        }),
        Value::Array(list) => {
            let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
            at(list.get(index.parse::<usize>().ok()?)?, rest.strip_prefix('.').unwrap_or(rest))
        }
        _ => None,
    }
}
