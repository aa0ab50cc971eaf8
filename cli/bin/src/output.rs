//! What goes to standard output: tables for people, one JSON object for programs.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;
use serde_json::{Value, json};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// The version of all JSON that the CLI writes.
const API_VERSION: &str = "clustermesh.dev/v1";

/// Writes a line.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref())
}

/// Writes a JSON object, with the API's version as its first field.
pub(crate) fn json(kind: &str, value: impl Serialize) -> anyhow::Result<()> {
    let mut object = json!({ "apiVersion": API_VERSION, "kind": kind });
    if let (Some(object), Value::Object(fields)) =
        (object.as_object_mut(), serde_json::to_value(value)?)
    {
        object.extend(fields);
    }
    Ok(line(serde_json::to_string_pretty(&object)?)?)
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
        // A pipe has no width; a file's reader has one.
        table.set_width(200);
    }
    for text in table.lines() {
        line(text.trim_end())?;
    }
    Ok(())
}
