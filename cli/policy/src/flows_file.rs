//! Files of flows: JSON, a line each, or CSV.

use serde_json::{Map, Value};

use crate::{
    flow::Flow,
    problem::{Problem, all, read},
};

/// The columns of a table that has no header.
const COLUMNS: [&str; 4] = ["from", "to", "protocol", "port"];

/// Reads the flows of a file, each with its part of the input for messages. `name` is the file's.
///
/// # Errors
/// All lines that are not understood.
pub fn flows(name: &str, text: &str) -> Result<Vec<(String, Flow)>, Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let values = match text.trim_start().chars().next() {
        Some('[') => list(name, text).map_err(|problem| vec![problem])?,
        Some('{') => lines(name, text)?,
        _ => table(name, text)?,
    };
    all(values.into_iter().map(|(part, value)| {
        let flow = read(&value, &part)?;
        Ok((part, flow))
    }))
}

fn list(name: &str, text: &str) -> Result<Vec<(String, Value)>, Problem> {
    let values: Vec<Value> =
        serde_json::from_str(text).map_err(|error| Problem::new(name, "", error.to_string()))?;
    Ok((0..).zip(values).map(|(index, value)| (format!("{name}[{index}]"), value)).collect())
}

fn lines(name: &str, text: &str) -> Result<Vec<(String, Value)>, Vec<Problem>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    all(lines.map(|(number, line)| {
        let part = format!("{name}, line {number}");
        let value = serde_json::from_str(line)
            .map_err(|error| Problem::new(part.clone(), "", error.to_string()))?;
        Ok((part, value))
    }))
}

fn table(name: &str, text: &str) -> Result<Vec<(String, Value)>, Vec<Problem>> {
    let mut reader = csv::ReaderBuilder::new();
    let reader = reader.trim(csv::Trim::All).has_headers(false).flexible(true);
    let mut reader = reader.comment(Some(b'#')).from_reader(text.as_bytes());
    let mut header: Option<csv::StringRecord> = None;
    let mut values = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| Problem::new(name, "", error.to_string()));
        let record = match record {
            Ok(record) => record,
            Err(problem) => {
                values.push(Err(problem));
                continue;
            }
        };
        let header = match &header {
            Some(header) => header,
            None if record.iter().any(|cell| cell == "from" || cell == "to") => {
                header = Some(record);
                continue;
            }
            None => header.insert(COLUMNS.as_slice().into()),
        };
        values.push(row(header, &record, name));
    }
    all(values.into_iter())
}

/// A row as a flow. Cells at the end may be left out, but there are none without a column.
fn row(
    header: &csv::StringRecord,
    record: &csv::StringRecord,
    name: &str,
) -> Result<(String, Value), Problem> {
    let part = format!("{name}, line {}", record.position().map_or(0, csv::Position::line));
    if record.len() > header.len() {
        let reason = format!("{} cells, but {} columns", record.len(), header.len());
        return Err(Problem::new(part, "", reason));
    }
    let cells = header.iter().zip(record).filter(|(_, cell)| !cell.is_empty());
    let cell = |(field, cell): (&str, &str)| {
        let value = match (field, cell.parse::<u16>()) {
            ("port" | "icmpType", Ok(number)) => number.into(),
            _ => cell.into(),
        };
        (field.to_owned(), value)
    };
    let value: Map<String, Value> = cells.map(cell).collect();
    Ok((part, Value::Object(value)))
}
