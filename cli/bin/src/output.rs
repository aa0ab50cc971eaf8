//! What goes to standard output: tables for people, one JSON or YAML value for programs.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    sync::OnceLock,
};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;
use serde_json::{Value, json};

/// How results are written, as a user says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    Text,
    /// One JSON object.
    Json,
    /// The same as YAML.
    Yaml,
}

/// For whom results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Output {
    /// For people: tables and sentences.
    #[default]
    Text,
    /// For programs: one value.
    Json,
}

/// Values for programs are written as YAML: the one thing that no command needs to know of its output.
static AS_YAML: OnceLock<bool> = OnceLock::new();

/// The version of all JSON that the CLI writes.
const API_VERSION: &str = "clustermesh.dev/v1";

/// Writes a line.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref())
}

impl Output {
    /// What a user asked for; without a word tables.
    pub(crate) fn new(format: Option<Format>) -> Self {
        let _ = AS_YAML.set(format == Some(Format::Yaml));
        match format {
            None | Some(Format::Text) => Self::Text,
            Some(Format::Json | Format::Yaml) => Self::Json,
        }
    }

    /// For what programs read first of all: without a word tables only on a terminal.
    pub(crate) fn of_data(format: Option<Format>) -> Self {
        match format {
            None if !io::stdout().is_terminal() => Self::Json,
            _ => Self::new(format),
        }
    }
}

/// Writes a value as it is.
pub(crate) fn value(value: &impl Serialize) -> anyhow::Result<()> {
    if AS_YAML.get() == Some(&true) {
        // Through JSON, so that both have the same fields.
        let yaml = serde_saphyr::to_string(&serde_json::to_value(value)?)?;
        return Ok(line(yaml.trim_end())?);
    }
    Ok(line(serde_json::to_string_pretty(value)?)?)
}

/// Writes a JSON object, with the API's version as its first field.
pub(crate) fn json(kind: &str, value: impl Serialize) -> anyhow::Result<()> {
    let mut object = json!({ "apiVersion": API_VERSION, "kind": kind });
    if let (Some(object), Value::Object(fields)) =
        (object.as_object_mut(), serde_json::to_value(value)?)
    {
        object.extend(fields);
    }
    self::value(&object)
}

/// Writes a table that fits the terminal.
pub(crate) fn table(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    if !table.is_tty() {
        table.set_width(columns(env::var("COLUMNS").ok().as_deref()));
    }
    for text in table.lines() {
        line(text.trim_end())?;
    }
    Ok(())
}

/// The width of what is no terminal: what its reader says it has, or enough for most tables.
fn columns(given: Option<&str>) -> u16 {
    let given = given.and_then(|columns| columns.parse().ok());
    given.filter(|columns| *columns > 0).unwrap_or(200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_terminal_has_the_width_it_says() {
        for (given, width) in [(Some("80"), 80), (None, 200), (Some("0"), 200), (Some("wide"), 200)]
        {
            assert_eq!(columns(given), width, "{given:?}");
        }
    }
}
