//! Reads JSON values of the types that a schema asks for, and collects what is refused.

use mesh_labels::LabelFilter;
use mesh_model::{Refusal, RefusalClass, excerpt};
use serde_json::{Map, Value};

use crate::{
    fields::{self, Schema, Support},
    path::Path,
};

/// How many characters of a value a reason contains.
const SHOWN: usize = 63;

/// Reads one object. What it returns is used only if nothing was refused.
pub(crate) struct Reader<'a> {
    schema: Schema,
    /// Which labels make identities.
    pub(crate) filter: &'a LabelFilter,
    refusals: Vec<Refusal>,
}

/// The fields of a JSON object that are given; `null` is as absent, as in an API server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields<'v>(Option<&'v Map<String, Value>>);

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) const fn new(schema: Schema, filter: &'a LabelFilter) -> Self {
        Self { schema, filter, refusals: Vec::new() }
    }

    /// All that was refused, in the order in which it was read.
    pub(crate) fn into_refusals(self) -> Vec<Refusal> {
        self.refusals
    }

    /// Refuses what is at a path, as a mistake of its author.
    pub(crate) fn refuse(&mut self, path: &Path<'_>, reason: impl Into<String>) {
        self.refuse_as(RefusalClass::Malformed, path, reason);
    }

    /// Refuses what is at a path, for a kind of reason.
    pub(crate) fn refuse_as(
        &mut self,
        class: RefusalClass,
        path: &Path<'_>,
        reason: impl Into<String>,
    ) {
        self.refusals.push(Refusal { field: path.to_string(), reason: reason.into(), class });
    }

    /// The object at a path. Each of its fields that the table does not have, or refuses, is refused.
    pub(crate) fn object<'v>(&mut self, value: &'v Value, path: &Path<'_>) -> Fields<'v> {
        let Value::Object(map) = value else {
            self.wrong_type(value, path, "an object");
            return Fields(None);
        };
        for (name, _) in map.iter().filter(|(_, value)| !value.is_null()) {
            let field = path.field(name);
            match fields::support(self.schema, &field) {
                Some(Support::Done | Support::NoEffect(_)) => {}
                Some(Support::Refused(reason)) => {
                    self.refuse_as(RefusalClass::Unsupported, &field, reason);
                }
                None => {
                    let meant = fields::meant(self.schema, path, name);
                    // One that is not misspelt may be of a later version.
                    let (class, meant) = match meant {
                        Some(meant) => {
                            (RefusalClass::Malformed, format!("; did you mean {meant}?"))
                        }
                        None => (RefusalClass::Unsupported, String::new()),
                    };
                    self.refuse_as(class, &field, format!("unknown field{meant}"));
                }
            }
        }
        Fields(Some(map))
    }

    /// The map at a path, whose keys a user chooses.
    pub(crate) fn map<'v>(&mut self, value: &'v Value, path: &Path<'_>) -> Fields<'v> {
        let map = value.as_object();
        if map.is_none() {
            self.wrong_type(value, path, "a map");
        }
        Fields(map)
    }

    /// The list at a path.
    pub(crate) fn list<'v>(&mut self, value: &'v Value, path: &Path<'_>) -> &'v [Value] {
        match value {
            Value::Array(items) => items,
            _ => {
                self.wrong_type(value, path, "a list");
                &[]
            }
        }
    }

    /// The text at a path.
    pub(crate) fn text<'v>(&mut self, value: &'v Value, path: &Path<'_>) -> Option<&'v str> {
        let text = value.as_str();
        if text.is_none() {
            let hint = match value {
                Value::Number(_) | Value::Bool(_) => format!(": write \"{value}\""),
                _ => String::new(),
            };
            self.wrong_type(value, path, &format!("a text{hint}"));
        }
        text
    }

    /// What a function reads from each item of a list that may be absent.
    pub(crate) fn each<T>(
        &mut self,
        fields: Fields<'_>,
        path: &Path<'_>,
        name: &str,
        mut read: impl FnMut(&mut Self, &Value, &Path<'_>) -> T,
    ) -> Vec<T> {
        let path = path.field(name);
        let items = fields.get(name).map(|value| self.list(value, &path)).unwrap_or_default();
        let items = items.iter().enumerate();
        items.map(|(at, item)| read(self, item, &path.index(at))).collect()
    }

    /// The whole number at a path, if it is in a range.
    pub(crate) fn number(
        &mut self,
        value: &Value,
        path: &Path<'_>,
        range: std::ops::RangeInclusive<u16>,
    ) -> Option<u16> {
        let Value::Number(number) = value else {
            self.wrong_type(value, path, "a number");
            return None;
        };
        let found = number.as_u64().and_then(|number| u16::try_from(number).ok());
        let found = found.filter(|number| range.contains(number));
        if found.is_none() {
            let (first, last) = range.into_inner();
            let number = number.to_string();
            self.refuse(
                path,
                format!("{} is not one of {first} to {last}", excerpt(&number, SHOWN)),
            );
        }
        found
    }

    /// True or false.
    pub(crate) fn boolean(&mut self, value: &Value, path: &Path<'_>) -> Option<bool> {
        let found = value.as_bool();
        if found.is_none() {
            self.wrong_type(value, path, "true or false");
        }
        found
    }

    /// One of some words. `None`: another one, which is refused.
    pub(crate) fn word<T: Copy>(
        &mut self,
        value: &Value,
        path: &Path<'_>,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(value, path)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meant)| *meant);
        if found.is_none() {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let all = all.join(", ");
            self.refuse(path, format!("{} is not one of {all}", quoted(text)));
        }
        found
    }

    fn wrong_type(&mut self, value: &Value, path: &Path<'_>, wanted: &str) {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "a truth value",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.refuse(path, format!("it is {found}, but must be {wanted}"));
    }
}

// === impl Fields ===

impl<'v> Fields<'v> {
    /// A field that is given.
    pub(crate) fn get(self, name: &str) -> Option<&'v Value> {
        self.0?.get(name).filter(|value| !value.is_null())
    }

    /// Whether it is an object at all; what is none was refused.
    pub(crate) const fn is_object(self) -> bool {
        self.0.is_some()
    }

    /// Those of these fields that are given.
    pub(crate) fn given(self, names: &[&'static str]) -> Vec<&'static str> {
        names.iter().copied().filter(|name| self.get(name).is_some()).collect()
    }

    /// All entries of a map.
    pub(crate) fn entries(self) -> impl Iterator<Item = (&'v str, &'v Value)> {
        self.0.into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }
}

/// A text as it is in a reason: in quotes, and not longer than any valid one.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", excerpt(text, SHOWN))
}
