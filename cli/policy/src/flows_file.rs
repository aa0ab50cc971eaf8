//! Files of flows: JSON, a line each, or CSV with a header.

use serde_json::{Map, Value};

use crate::{
    flow::Flow,
    problem::{Problem, read},
};

/// Reads the flows of a file, each with its part of the input for messages. `name` is the file's.
///
/// # Errors
/// The first line that is not understood.
pub fn flows(name: &str, text: &str) -> Result<Vec<(String, Flow)>, Problem> {
    let values = match text.trim_start().chars().next() {
        Some('[') => list(name, text)?,
        Some('{') => lines(name, text)?,
        _ => table(name, text)?,
    };
    values
        .into_iter()
        .map(|(part, value)| {
            let flow = read(&value, &part)?;
            Ok((part, flow))
        })
        .collect()
}

fn list(name: &str, text: &str) -> Result<Vec<(String, Value)>, Problem> {
    let values: Vec<Value> =
        serde_json::from_str(text).map_err(|error| Problem::new(name, "", error.to_string()))?;
    Ok((0..).zip(values).map(|(index, value)| (format!("{name}[{index}]"), value)).collect())
}

fn lines(name: &str, text: &str) -> Result<Vec<(String, Value)>, Problem> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let part = format!("{name}, line {number}");
            let value = serde_json::from_str(line)
                .map_err(|error| Problem::new(part.clone(), "", error.to_string()))?;
            Ok((part, value))
        })
        .collect()
}

fn table(name: &str, text: &str) -> Result<Vec<(String, Value)>, Problem> {
    let refuse = |error: csv::Error| Problem::new(name, "", error.to_string());
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(refuse)?.clone();
    let mut values = Vec::new();
    for record in reader.records() {
        let record = record.map_err(refuse)?;
        let line = record.position().map_or(0, csv::Position::line);
        let cells = header.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
        let cell = |(field, cell): (&str, &str)| {
            let value = match (field, cell.parse::<u16>()) {
                ("port" | "icmpType", Ok(number)) => number.into(),
                _ => cell.into(),
            };
            (field.to_owned(), value)
        };
        let value: Map<String, Value> = cells.map(cell).collect();
        values.push((format!("{name}, line {line}"), Value::Object(value)));
    }
    Ok(values)
}
