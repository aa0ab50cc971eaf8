//! `clustermesh bench report`: combines several runs of benchmarks. Each number becomes the median, with the smallest and
//! the largest value.
//!
//! It can fill in the tables of a document. Above each table is a comment with the name of the results and a template of a
//! row. In braces are a field, a divisor, and the number of decimals:
//!
//! ```text
//! <!-- figures takeover: | {services} | {kernel.p50Nanos/1e6:1} / {kernel.p99Nanos/1e6:1} | -->
//! ```
//!
//! `mesh.changes` means the rows of the list `changes` in each row of `mesh`; they also have the fields of that row.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, bail};
use mesh_bench::median;
use serde_json::{Map, Value, json};

use crate::{
    outcome::{Outcome, warn},
    output::{self, Output},
};

/// The rows of each table. Each number is an object with `median`, `min` and `max`.
type Tables = BTreeMap<String, Vec<Value>>;

pub(super) fn report(
    files: &[PathBuf],
    into: Option<PathBuf>,
    output: Output,
) -> anyhow::Result<Outcome> {
    let read =
        |path: &PathBuf| fs::read_to_string(path).with_context(|| path.display().to_string());
    let mut runs = BTreeMap::new();
    for path in files {
        add_run(&mut runs, &read(path)?).with_context(|| path.display().to_string())?;
    }
    let tables = merged(&runs)?;
    if let Some(path) = into {
        let (text, missing) =
            filled_in(&read(&path)?, &tables).with_context(|| path.display().to_string())?;
        for name in missing {
            warn(format!("{}: no results of {name}: its table is not changed", path.display()));
        }
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    match output {
        Output::Json => output::json("BenchReport", serde_json::to_value(&tables)?)?,
        Output::Text => output::line(markdown(&tables))?,
    }
    Ok(Outcome::Done)
}

/// Adds the tables of one run, from the output of `clustermesh bench --output json`.
fn add_run(runs: &mut BTreeMap<String, Vec<Value>>, text: &str) -> anyhow::Result<()> {
    let run: Map<String, Value> = serde_json::from_str(text)?;
    if run.get("kind").and_then(Value::as_str) != Some("Bench") {
        bail!("it is not the output of `clustermesh bench --output json`: its kind is not Bench");
    }
    for (name, rows) in run.into_iter().filter(|(_, value)| value.is_array() || value.is_object()) {
        let rows = if rows.is_array() { rows } else { Value::Array(vec![rows]) };
        runs.entry(name).or_default().push(rows);
    }
    Ok(())
}

fn merged(runs: &BTreeMap<String, Vec<Value>>) -> anyhow::Result<Tables> {
    let one = |(name, runs): (&String, &Vec<Value>)| {
        let all = spread(&runs.iter().collect::<Vec<_>>());
        let Some(Value::Array(rows)) = all else {
            bail!("{name}: its runs have different rows: measure them with the same flags");
        };
        Ok((name.clone(), rows))
    };
    runs.iter().map(one).collect()
}

/// Combines the same value of several runs. `None`: the values differ in type or fields.
fn spread(values: &[&Value]) -> Option<Value> {
    let first = *values.first()?;
    match first {
        Value::Object(fields) => {
            let same =
                |value: &&Value| value.as_object().is_some_and(|o| o.keys().eq(fields.keys()));
            if !values.iter().all(same) {
                return None;
            }
            let of = |name: &String| {
                let each: Option<Vec<&Value>> =
                    values.iter().map(|value| value.get(name)).collect();
                Some((name.clone(), spread(&each?)?))
            };
            fields.keys().map(of).collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        Value::Array(items) => {
            let same = |value: &&Value| value.as_array().is_some_and(|a| a.len() == items.len());
            if !values.iter().all(same) {
                return None;
            }
            let of = |index| {
                let each: Option<Vec<&Value>> =
                    values.iter().map(|value| value.get(index)).collect();
                spread(&each?)
            };
            (0..items.len()).map(of).collect::<Option<Vec<_>>>().map(Value::Array)
        }
        Value::Number(_) => {
            let numbers: Vec<f64> =
                values.iter().map(|value| value.as_f64()).collect::<Option<_>>()?;
            let min = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            let max = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            Some(json!({"median": median(numbers), "min": min, "max": max}))
        }
        // A text may differ between runs, as whether a peer was quarantined.
        _ => {
            let mut words: Vec<String> = values.iter().map(|value| word(value)).collect();
            words.dedup();
            Some(words.join(", ").into())
        }
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// All tables, with all fields.
fn markdown(tables: &Tables) -> String {
    let mut text = String::new();
    for (name, rows) in tables {
        let columns = rows.first().map(fields).unwrap_or_default();
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        text += &format!("## {name}\n\n");
        text += &line(columns.iter().map(|(path, _)| path.clone()).collect());
        text += &line(vec!["---".into(); columns.len()]);
        for row in rows {
            text += &line(fields(row).into_iter().map(|(_, value)| in_full(value)).collect());
        }
        text.push('\n');
    }
    text.trim_end().into()
}

/// Each value in a row, with its path.
fn fields(row: &Value) -> Vec<(String, &Value)> {
    let below = |name: String, value| -> Vec<(String, &Value)> {
        let join = |(path, value): (String, _)| match path.as_str() {
            "" => (name.clone(), value),
            path => (format!("{name}.{path}"), value),
        };
        fields(value).into_iter().map(join).collect()
    };
    match row {
        Value::Object(all) if !all.contains_key("median") => {
            all.iter().flat_map(|(name, value)| below(name.clone(), value)).collect()
        }
        Value::Array(all) => {
            all.iter().enumerate().flat_map(|(at, value)| below(at.to_string(), value)).collect()
        }
        value => vec![(String::new(), value)],
    }
}

/// The document with its tables filled in, and the names of its tables without results.
fn filled_in(document: &str, tables: &Tables) -> anyhow::Result<(String, Vec<String>)> {
    let (mut text, mut missing) = (String::new(), Vec::new());
    let mut lines = document.lines().peekable();
    let keep = |text: &mut String, line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    while let Some(line) = lines.next() {
        keep(&mut text, line);
        let Some(comment) = line.strip_prefix("<!-- figures ") else { continue };
        let template = comment.strip_suffix(" -->").and_then(|comment| comment.split_once(": "));
        let (name, template) =
            template.with_context(|| format!("not a line of figures: {line}"))?;
        let Some(rows) = rows(tables, name) else {
            missing.push(name.to_owned());
            continue;
        };
        // Blank lines, the table's header and the line below it are kept.
        while lines.peek().is_some_and(|next| next.is_empty()) {
            keep(&mut text, lines.next().unwrap_or_default());
        }
        for _ in 0..2 {
            let head = lines.next().filter(|line| line.starts_with('|'));
            keep(&mut text, head.with_context(|| format!("{name}: a table without a head"))?);
        }
        while lines.peek().is_some_and(|next| next.starts_with('|')) {
            lines.next();
        }
        for row in rows {
            let row = filled(template, &row).with_context(|| format!("figures of {name}"))?;
            keep(&mut text, &row);
        }
    }
    Ok((text, missing))
}

/// The rows of a table, or those of a list in each of its rows.
fn rows(tables: &Tables, name: &str) -> Option<Vec<Value>> {
    let Some((table, list)) = name.split_once('.') else { return tables.get(name).cloned() };
    let inner = |row: &Value| -> Option<Vec<Value>> {
        let outer = row.as_object()?;
        let items = row.get(list)?.as_array()?.iter().filter_map(Value::as_object);
        let with_outer = items.map(|item| {
            let both = outer.clone().into_iter().chain(item.clone());
            Value::Object(both.collect())
        });
        Some(with_outer.collect())
    };
    let all: Option<Vec<Vec<Value>>> = tables.get(table)?.iter().map(inner).collect();
    all.map(|rows| rows.into_iter().flatten().collect())
}

fn filled(template: &str, row: &Value) -> anyhow::Result<String> {
    let mut parts = template.split('{');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (field, rest) = part.split_once('}').context("a { without its }")?;
        let (field, decimals) = field.split_once(':').unwrap_or((field, "0"));
        let (field, divisor) = field.split_once('/').unwrap_or((field, "1"));
        let value = field.split('.').try_fold(row, |value, name| value.get(name));
        let value = value.with_context(|| format!("there is no field {field}"))?;
        let divisor = divisor.parse().with_context(|| format!("{field}/{divisor}"))?;
        let decimals = decimals.parse().with_context(|| format!("{field}:{decimals}"))?;
        text += &shown(value, divisor, decimals);
        text += rest;
    }
    Ok(text)
}

/// A number as `median (min–max)`, or alone if these look the same.
fn shown(value: &Value, divisor: f64, decimals: usize) -> String {
    let part = |name| Some(number(value.get(name)?.as_f64()? / divisor, decimals));
    match (part("median"), part("min"), part("max")) {
        (Some(median), Some(min), Some(max)) if min != max => format!("{median} ({min}–{max})"),
        (Some(median), ..) => median,
        _ => word(value),
    }
}

/// A number without decimals if it is whole in all runs, and with two otherwise.
fn in_full(value: &Value) -> String {
    let parts = ["median", "min", "max"].map(|name| value.get(name).and_then(Value::as_f64));
    let whole = parts.into_iter().flatten().all(|part| part.fract() == 0.0);
    shown(value, 1.0, if whole { 0 } else { 2 })
}

/// A number with commas between thousands.
fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(w, r)| (w, Some(r)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::from(sign);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    rest.map_or(grouped.clone(), |rest| format!("{grouped}.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(texts: &[&str]) -> anyhow::Result<Tables> {
        let mut runs = BTreeMap::new();
        for text in texts {
            add_run(&mut runs, text)?;
        }
        merged(&runs)
    }

    /// Two runs of release builds, the second of which has only some of the tables, and one on kind clusters.
    fn recorded() -> Tables {
        tables(&[
            include_str!("../../tests/fixtures/bench/run-1.json"),
            include_str!("../../tests/fixtures/bench/run-2.json"),
            include_str!("../../tests/fixtures/bench/kind.json"),
        ])
        .unwrap()
    }

    #[test]
    fn a_number_is_its_median_with_the_smallest_and_the_largest() {
        let run = |nanos: u64, bytes: u64| {
            format!(
                r#"{{"apiVersion": "v1", "kind": "Bench", "one": {{"services": 1000, "kernel": {{"p50Nanos": {nanos}}}, "cut": {}}},
                   "two": [{{"name": "x", "list": [{{"bytes": {bytes}}}]}}]}}"#,
                nanos > 2_000_000
            )
        };
        let runs = [run(3_000_000, 7), run(1_000_000, 7), run(2_000_000, 7)];
        let tables = tables(&runs.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let expected = json!({"median": 2e6, "min": 1e6, "max": 3e6});
        assert_eq!(tables["one"][0]["kernel"]["p50Nanos"], expected);
        let document = "Text.\n\n<!-- figures one: | {services} | {kernel.p50Nanos/1e6:1} | {cut} | -->\n\n\
                        | a | b | c |\n|---|---|---|\n| old | old | old |\n| old | old | old |\n\n\
                        <!-- figures two.list: | {name} | {bytes} | -->\n| a | b |\n|---|---|\n\
                        <!-- figures three: | {x} | -->\n| a |\n|---|\n| stays |\n";
        let (text, missing) = filled_in(document, &tables).unwrap();
        assert!(text.contains("|---|---|---|\n| 1,000 | 2.0 (1.0–3.0) | yes, no |\n\n"), "{text}");
        assert!(text.contains("| a | b |\n|---|---|\n| x | 7 |\n<!--"), "{text}");
        assert!(text.ends_with("| a |\n|---|\n| stays |\n"), "{text}");
        assert_eq!(missing, ["three"]);
        assert_eq!(filled_in(&text, &tables).unwrap().0, text, "twice is as once");
        assert!(markdown(&tables).contains("## one\n\n| cut | kernel.p50Nanos | services |\n"));
        assert!(
            markdown(&tables).contains("| yes, no | 2,000,000 (1,000,000–3,000,000) | 1,000 |")
        );
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let complaint = |texts: &[&str]| format!("{:#}", tables(texts).unwrap_err());
        let bench = |rows: &str| format!(r#"{{"kind": "Bench", "fill": {rows}}}"#);
        let two = complaint(&[&bench(r#"[{"a": 1}]"#), &bench(r#"[{"a": 1}, {"a": 2}]"#)]);
        assert!(two.starts_with("fill: its runs have different rows"), "{two}");
        let other = complaint(&[r#"{"kind": "Error"}"#]);
        assert!(other.contains("its kind is not Bench"), "{other}");
        let tables = tables(&[&bench(r#"[{"a": 1}]"#)]).unwrap();
        let error = |line: &str| format!("{:#}", filled_in(line, &tables).unwrap_err());
        let field = error("<!-- figures fill: | {b} | -->\n| a |\n|---|\n");
        assert_eq!(field, "figures of fill: there is no field b");
        assert_eq!(error("<!-- figures fill: | {a} | -->\nText\n"), "fill: a table without a head");
        assert!(error("<!-- figures fill -->\n").starts_with("not a line of figures"));
    }

    #[test]
    fn numbers_have_commas() {
        let all = [(1234567.0, 0), (999.4, 0), (-1234.5, 1), (0.005, 2)];
        let shown = all.map(|(value, decimals)| number(value, decimals));
        assert_eq!(shown, ["1,234,567", "999", "-1,234.5", "0.01"]);
    }

    /// Recorded runs fill each table of the document: a renamed field would be noticed.
    #[test]
    fn all_tables_of_the_document_are_filled_from_recorded_figures() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/performance.md");
        let document = fs::read_to_string(path).unwrap();
        let tables = recorded();
        let (text, missing) = filled_in(&document, &tables).unwrap();
        assert_eq!(missing, Vec::<String>::new());
        let figures = |line: &&str| line.starts_with("<!-- figures ");
        let names: Vec<&str> = document.lines().filter(figures).collect();
        for table in tables.keys() {
            let is_there = |line: &&str| line.starts_with(&format!("<!-- figures {table}"));
            assert!(names.iter().any(is_there), "the document has no table of {table}");
        }
        let without_rows = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with('|')).map(str::to_owned).collect()
        };
        assert_eq!(without_rows(&text), without_rows(&document));
        assert!(text.lines().any(|line| line.contains('–') && line.starts_with('|')));
    }
}
