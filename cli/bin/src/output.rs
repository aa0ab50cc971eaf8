//! Writes results to standard output: tables for people, one JSON or YAML value for programs.

#[cfg(test)]
pub(crate) mod samples;

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets::NOTHING};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The format of the output, as the user requests it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    Text,
    /// One JSON object.
    Json,
    /// The same as YAML.
    Yaml,
    /// Tables with more columns.
    Wide,
    /// The names of a list's elements.
    Name,
}

/// The kind of reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Output {
    /// For people: tables and sentences.
    #[default]
    Text,
    /// For programs: one value.
    Json,
}

/// The requested format, for what the commands do not see: YAML instead of JSON, more columns, names only.
static FORMAT: OnceLock<Format> = OnceLock::new();
/// A flag turned colours off.
static COLOURLESS: AtomicBool = AtomicBool::new(false);
/// A value was written. The output has at most one, so an error must not add a second.
static WRITTEN: AtomicBool = AtomicBool::new(false);

/// The version of all JSON that the CLI writes.
const API_VERSION: &str = "clustermesh.dev/v1";

/// The format that invalid arguments ask for.
pub(crate) fn asked_for(arguments: impl Iterator<Item = String>) -> Option<Format> {
    let mut asked = None;
    // What follows `--` belongs to another program.
    let mut arguments = arguments.take_while(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        let format = match argument.as_str() {
            "-o" | "--output" => arguments.next(),
            argument => {
                let short = argument.strip_prefix("-o").filter(|_| !argument.starts_with("--"));
                let format = short.or_else(|| argument.strip_prefix("--output="));
                format.map(|format| format.trim_start_matches('=').to_owned())
            }
        };
        asked = format.and_then(|format| Format::from_str(&format, false).ok()).or(asked);
    }
    asked
}

/// Turns colours off.
pub(crate) fn without_colours() {
    COLOURLESS.store(true, Ordering::Relaxed);
}

/// Writes a line.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    #[cfg(test)]
    if samples::keep(text.as_ref()) {
        return Ok(());
    }
    writeln!(io::stdout().lock(), "{}", text.as_ref())
}

impl Output {
    /// The output for a requested format; by default tables.
    pub(crate) fn new(format: Option<Format>) -> Self {
        let _ = FORMAT.set(format.unwrap_or(Format::Text));
        match format {
            None | Some(Format::Text | Format::Wide | Format::Name) => Self::Text,
            Some(Format::Json | Format::Yaml) => Self::Json,
        }
    }

    /// The output of commands whose results are mostly read by programs: by default tables on a terminal, and JSON
    /// elsewhere.
    pub(crate) fn of_data(format: Option<Format>) -> Self {
        match format {
            None if !io::stdout().is_terminal() => Self::Json,
            _ => Self::new(format),
        }
    }
}

/// Writes a line. On a terminal, words that need attention are coloured.
pub(crate) fn coloured_line(text: impl AsRef<str>) -> io::Result<()> {
    line(painted(text.as_ref()))
}

/// Writes a value without a version or kind.
pub(crate) fn value(value: &impl Serialize) -> anyhow::Result<()> {
    WRITTEN.store(true, Ordering::Relaxed);
    if is(Format::Yaml) {
        // Through JSON, so that both have the same fields.
        let yaml = serde_saphyr::to_string(&serde_json::to_value(value)?)?;
        return Ok(line(yaml.trim_end())?);
    }
    Ok(line(serde_json::to_string_pretty(value)?)?)
}

/// Writes a JSON object, with the version of the API and the kind as its first fields.
pub(crate) fn json(kind: &str, value: impl Serialize) -> anyhow::Result<()> {
    let mut object = json!({ "apiVersion": API_VERSION, "kind": kind });
    if let (Some(object), Value::Object(fields)) =
        (object.as_object_mut(), serde_json::to_value(value)?)
    {
        object.extend(fields);
    }
    self::value(&object)
}

/// An element of a list.
pub(crate) trait Listed {
    /// The columns of the table; wide ones come last.
    const HEADER: &'static [&'static str];
    /// The number of columns that only `-o wide` shows.
    const WIDE: usize = 0;

    /// Its line with `-o name`.
    fn name(&self) -> String;
    /// Its rows in the table, with a cell for each column.
    fn rows(&self) -> Vec<Vec<String>>;
    fn json(&self) -> Value;
}

/// Writes a list in the requested format. In JSON the elements are in `items`, and in `older`, the name of that field in
/// earlier releases; `fields` are added.
pub(crate) fn list<T: Listed>(
    output: Output,
    kind: &str,
    older: Option<&str>,
    items: &[T],
    fields: Value,
) -> anyhow::Result<()> {
    match output {
        Output::Json => {
            let items = Value::Array(items.iter().map(T::json).collect());
            let mut object = Map::new();
            if let Some(older) = older {
                object.insert(older.into(), items.clone());
            }
            object.insert("items".into(), items);
            if let Value::Object(fields) = fields {
                object.extend(fields);
            }
            json(kind, object)
        }
        Output::Text if is(Format::Name) => {
            let mut names: Vec<String> = items.iter().map(T::name).collect();
            names.sort();
            names.dedup();
            Ok(names.iter().try_for_each(line)?)
        }
        Output::Text => {
            let hidden = if is(Format::Wide) { 0 } else { T::WIDE };
            let shown = T::HEADER.len().saturating_sub(hidden);
            let mut rows: Vec<Vec<String>> = items.iter().flat_map(T::rows).collect();
            rows.iter_mut().for_each(|row| row.truncate(shown));
            Ok(table(T::HEADER.get(..shown).unwrap_or_default(), rows)?)
        }
    }
}

/// Writes an error as JSON or YAML, unless a value was written already.
pub(crate) fn error(code: u8, message: &str) -> anyhow::Result<()> {
    match (is(Format::Json) || is(Format::Yaml)) && !WRITTEN.load(Ordering::Relaxed) {
        true => json("Error", json!({ "code": code, "message": message })),
        false => Ok(()),
    }
}

/// Whether only names are requested.
pub(crate) fn names_only() -> bool {
    is(Format::Name)
}

/// Whether wide tables are requested.
pub(crate) fn is_wide() -> bool {
    is(Format::Wide)
}

pub(crate) fn is(format: Format) -> bool {
    FORMAT.get() == Some(&format)
}

/// Writes a table. On a terminal it fits the width, as far as no word must be broken. Elsewhere lines are not broken,
/// unless `$COLUMNS` gives a width.
pub(crate) fn table(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> io::Result<()> {
    let rows = rows.into_iter().map(|row| row.iter().map(|cell| on_one_line(cell)).collect());
    let rows: Vec<Vec<String>> = rows.collect();
    laid_out(header, &rows, width()).iter().try_for_each(coloured_line)
}

/// The width of the output; `None` if lines may have any length.
fn width() -> Option<u16> {
    #[cfg(test)]
    if let Some(width) = samples::width() {
        return width;
    }
    size(&io::stdout()).or_else(|| columns(env::var("COLUMNS").ok().as_deref()))
}

/// Joins the lines of a cell: daemons' texts may have line breaks.
fn on_one_line(cell: &str) -> String {
    match cell.contains(['\n', '\r']) {
        true => {
            cell.split(['\n', '\r']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
        }
        false => cell.to_owned(),
    }
}

/// The lines of a table.
fn laid_out(header: &[&str], rows: &[Vec<String>], width: Option<u16>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING).force_no_tty();
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    match width {
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    let longest = |text: &str| text.split(' ').map(|word| word.chars().count()).max();
    for (index, column) in table.column_iter_mut().enumerate() {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(String::as_str);
        let words = cells.chain(header.get(index).copied()).filter_map(longest).max();
        // A column of comfy-table has a blank on either side.
        let least = u16::try_from(words.unwrap_or_default() + 2).unwrap_or(u16::MAX);
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
    }
    table.lines().map(|text| text.trim_end().to_owned()).collect()
}

/// Colours words that need an operator's attention, if colours are possible and wanted.
fn painted(text: &str) -> String {
    let is_wanted = !COLOURLESS.load(Ordering::Relaxed);
    match is_wanted && shows_colours(io::stdout().is_terminal(), |name| env::var(name).ok()) {
        true => in_colours(text),
        false => text.to_owned(),
    }
}

/// Colours are for terminals that have them, unless the user turned them off (no-color.org).
fn shows_colours(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let unwanted = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_terminal && !unwanted && variable("TERM").as_deref() != Some("dumb")
}

fn in_colours(text: &str) -> String {
    let (red, yellow, end) = ("\x1b[31m", "\x1b[33m", "\x1b[0m");
    let paint = |text: String, (words, colour): (&str, &str)| {
        text.replace(words, &format!("{colour}{words}{end}"))
    };
    let red =
        ["NOT READY", "NO ANSWER", "QUARANTINED", "PROBLEM", "DIED", "FAILED"].map(|w| (w, red));
    let yellow = ["DEGRADED", "DRAINED", "WARNING", "degraded"].map(|word| (word, yellow));
    red.into_iter().chain(yellow).fold(text.to_owned(), paint)
}

/// The columns of the terminal.
fn size(stdout: &io::Stdout) -> Option<u16> {
    stdout.is_terminal().then(Table::new).and_then(|table| table.width())
}

/// The value of `$COLUMNS`, if it is a positive number.
fn columns(given: Option<&str>) -> Option<u16> {
    given.and_then(|columns| columns.parse().ok()).filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_wrong_arguments_is_found() {
        for (arguments, format) in [
            ("clustermesh -o json nothing", Some(Format::Json)),
            ("clustermesh nothing -ojson", Some(Format::Json)),
            ("clustermesh nothing -o=yaml", Some(Format::Yaml)),
            ("clustermesh nothing --output yaml", Some(Format::Yaml)),
            ("clustermesh --output=json nothing", Some(Format::Json)),
            ("clustermesh nothing --out -o", None),
            ("clustermesh nothing -o xml", None),
            ("clustermesh lab exec -- curl -o json", None),
        ] {
            let words = arguments.split(' ').map(str::to_owned);
            assert_eq!(asked_for(words), format, "{arguments}");
        }
    }

    #[test]
    fn what_is_no_terminal_has_the_width_it_says() {
        for (given, width) in
            [(Some("80"), Some(80)), (None, None), (Some("0"), None), (Some("wide"), None)]
        {
            assert_eq!(columns(given), width, "{given:?}");
        }
    }

    /// For a pipe, lines have any length; for a terminal they are broken, but not within words.
    #[test]
    fn tables_break_no_word() {
        let words = "k8s:io.kubernetes.pod.namespace=shop";
        let rows = [vec!["a".to_owned(), [words; 8].join(" ")], vec!["b".into(), "x".into()]];
        let piped = laid_out(&["CLUSTER", "LABELS"], &rows, None);
        assert_eq!(piped.len(), 3, "{piped:#?}");
        for width in [20, 60, 80, 120] {
            let lines = laid_out(&["CLUSTER", "LABELS"], &rows, Some(width));
            let whole = lines.iter().flat_map(|line| line.split_whitespace());
            assert_eq!(whole.filter(|word| *word == words).count(), 8, "{width}: {lines:#?}");
            let longest = lines.iter().map(String::len).max().unwrap();
            assert!(longest <= usize::from(width.max(60)), "{width}: {lines:#?}");
        }
    }

    #[test]
    fn a_cell_with_several_lines_is_one() {
        for (cell, shown) in
            [("a b", "a b"), ("a\nb", "a b"), ("a\r\n\nb\n", "a b"), ("", ""), ("\n", "")]
        {
            assert_eq!(on_one_line(cell), shown, "{cell:?}");
        }
    }

    #[test]
    fn colours_are_for_terminals_whose_users_want_them() {
        for (is_terminal, no_color, term, shown) in [
            (true, None, None, true),
            (true, Some(""), Some("xterm"), true),
            (true, Some("1"), Some("xterm"), false),
            (true, None, Some("dumb"), false),
            (false, None, Some("xterm"), false),
        ] {
            let variable = |name: &str| {
                let value = if name == "NO_COLOR" { no_color } else { term };
                value.map(str::to_owned)
            };
            assert_eq!(shows_colours(is_terminal, variable), shown, "{no_color:?} {term:?}");
        }
    }

    #[test]
    fn colours_leave_the_words() {
        assert_eq!(in_colours("a  NOT READY  tcp"), "a  \x1b[31mNOT READY\x1b[0m  tcp");
        assert_eq!(in_colours("a  DEGRADED"), "a  \x1b[33mDEGRADED\x1b[0m");
        assert_eq!(in_colours("a  ready"), "a  ready");
    }
}
