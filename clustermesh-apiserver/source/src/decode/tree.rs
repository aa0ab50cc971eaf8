//! Parses YAML and JSON into the same kind of tree.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value, map::Entry};

use super::Format;

/// A value. Its objects have no fields with `null`, which Kubernetes treats as absent.
struct Tree(Value);

/// Reads a value.
#[derive(Clone, Copy)]
enum TreeVisitor {
    /// Fields with `null` are absent.
    Fields,
    /// The same in all objects in it, but not in itself. In a selector a label without a value is a mistake: without it, the
    /// selector would select more.
    Labels,
}

/// Marks an object that has a field twice. No name of a field has this character.
pub(super) const TWICE: &str = "\0";

/// Parses one value; `None` if the text has none. An error has a line, counted from 1, and a message.
pub(super) fn read(format: Format, text: &str) -> Result<Option<Value>, (usize, String)> {
    let tree = match format {
        Format::Json => match serde_json::from_str::<Option<Tree>>(text) {
            // JSON is YAML, whose parser accepts such a number, so that the error affects only its object.
            Err(error) if error.to_string().starts_with("number out of range") => yaml(text)?,
            read => {
                read.map_err(|error| (error.line().max(1), plain("JSON", &error.to_string())))?
            }
        },
        Format::Yaml => yaml(text)?,
    };
    Ok(tree.map(|tree| tree.0))
}

/// Parses a YAML text whose value is an object without anchors, aliases and merge keys, so that it refers to no other text.
/// `most` limits the number of values, and the bytes in them. `None` if the text is anything else.
pub(super) fn read_piece(text: &str, most: usize) -> Option<Map<String, Value>> {
    let budget = serde_saphyr::budget!(
        max_nodes: most,
        max_total_scalar_bytes: most,
        max_anchors: 0,
        max_aliases: 0,
        max_merge_keys: 0,
    );
    match serde_saphyr::from_str_with_options(text, options(budget)) {
        Ok(Some(Tree(Value::Object(fields)))) => Some(fields),
        _ => None,
    }
}

fn yaml(text: &str) -> Result<Option<Tree>, (usize, String)> {
    serde_saphyr::from_str_with_options(text, options(budget(text))).map_err(|error| {
        let line = error.location().map_or(1, |at| usize::try_from(at.line()).unwrap_or(1));
        (line.max(1), plain("YAML", &error.without_snippet().to_string()))
    })
}

/// A parser's message without the position, which is reported separately.
fn plain(form: &str, said: &str) -> String {
    let said = said.split_once(" at line ").map_or(said, |(said, _)| said);
    if said.starts_with("budget breached") {
        return format!("not read as {form}: its aliases expand to too many values");
    }
    if said.starts_with("recursion limit") {
        return format!("not read as {form}: its values are nested too deeply");
    }
    format!("not {form}: {said}")
}

/// The path of the first duplicate field.
pub(super) fn twice(value: &Value) -> Option<String> {
    match value {
        Value::Object(map) => match map.get(TWICE).and_then(Value::as_str) {
            Some(name) => Some(name.to_owned()),
            None => map.iter().find_map(|(name, value)| Some(path(name, &twice(value)?))),
        },
        Value::Array(list) => (0..).zip(list).find_map(|(index, value): (usize, _)| {
            Some(path(&format!("[{index}]"), &twice(value)?))
        }),
        _ => None,
    }
}

/// Joins two paths: `spec` and `ports[0]` become `spec.ports[0]`.
pub(super) fn path(within: &str, path: &str) -> String {
    let point = if path.is_empty() || path.starts_with('[') { "" } else { "." };
    format!("{within}{point}{path}")
}

/// As many values as a text of that length can hold, but no more: an alias may stand for many.
fn budget(text: &str) -> Option<serde_saphyr::Budget> {
    let most = 250_000.max(text.len());
    serde_saphyr::budget!(
        max_nodes: most,
        max_events: 1_000_000.max(most.saturating_mul(2)),
    )
}

fn options(budget: Option<serde_saphyr::Budget>) -> serde_saphyr::Options {
    // The tree says itself what is there twice, so that it costs the object and not the file.
    serde_saphyr::options!(
        budget: budget,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        // As in YAML 1.2: `no`, `off` and `n` are strings.
        strict_booleans: true,
        // Infinite numbers become strings, which are refused where a number is expected.
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    )
}

// === impl Tree ===

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TreeVisitor::Fields.deserialize(deserializer)
    }
}

// === impl TreeVisitor ===

impl TreeVisitor {
    /// How the value of a field is read.
    fn of(field: &str) -> Self {
        if field == "matchLabels" { Self::Labels } else { Self::Fields }
    }
}

impl<'de> DeserializeSeed<'de> for TreeVisitor {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Tree, E> {
        Err(E::custom(format_args!("{value} is too large a number")))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Tree, E> {
        Err(E::custom(format_args!("{value} is too large a number")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut values = Vec::new();
        while let Some(Tree(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Tree(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let (mut fields, mut twice, mut has_null) = (Map::new(), None, false);
        while let Some(name) = map.next_key::<String>()? {
            let Tree(value) = map.next_value_seed(Self::of(&name))?;
            if name.contains(TWICE) {
                return Err(A::Error::custom("the name of a field contains a NUL"));
            }
            has_null |= value.is_null();
            match fields.entry(name) {
                Entry::Vacant(field) => {
                    field.insert(value);
                }
                Entry::Occupied(field) => twice = Some(field.key().clone()),
            }
        }
        if has_null && matches!(self, Self::Fields) {
            fields.retain(|_, value| !value.is_null());
        }
        if let Some(name) = twice {
            fields.insert(TWICE.into(), name.into());
        }
        Ok(Tree(fields.into()))
    }
}
