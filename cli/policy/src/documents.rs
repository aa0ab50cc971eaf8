//! The documents of a file.

use mesh_source::{DecodeProblem, Format, documents_of};
use serde::de::IgnoredAny;
use serde_json::Value;

/// The documents of a file, each with the line on which it begins. JSON may have several, one after another or between
/// lines of `---`, as `kubectl` takes them.
///
/// # Errors
/// The first document that cannot be read.
pub fn documents(format: Format, text: &str) -> Result<Vec<(usize, Value)>, DecodeProblem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Yaml => documents_of(format, text),
        Format::Json if text.lines().any(|line| line.trim_end() == "---") => {
            documents_of(Format::Yaml, text)
        }
        Format::Json => {
            let mut all = Vec::new();
            for (line, text) in values(text) {
                let read = documents_of(format, text);
                let read = read.map_err(|problem| DecodeProblem {
                    line: line + problem.line - 1,
                    ..problem
                })?;
                all.extend(read.into_iter().map(|(within, value)| (line + within - 1, value)));
            }
            Ok(all)
        }
    }
}

/// The texts of values one after another, with their lines. From the first that is no JSON on, one text is the rest.
fn values(text: &str) -> Vec<(usize, &str)> {
    let mut all = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut begin = 0;
    loop {
        let is_value = match stream.next() {
            None => return all,
            Some(read) => read.is_ok(),
        };
        let end = if is_value { stream.byte_offset() } else { text.len() };
        let before = text.get(..begin).unwrap_or_default();
        let value = text.get(begin..end).unwrap_or_default();
        all.push((before.matches('\n').count() + 1, value));
        if !is_value {
            return all;
        }
        begin = end;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_has_many_documents() {
        let cases = [
            (Format::Json, "", json!([])),
            (Format::Json, "{\"a\":1}", json!([[1, { "a": 1 }]])),
            (
                Format::Json,
                "{\"a\":1}\n{\"b\":2}{\"c\":3}\n\n",
                json!([[1, { "a": 1 }], [1, { "b": 2 }], [2, { "c": 3 }]]),
            ),
            (
                Format::Json,
                "{\"a\":1}\n---\n{\"b\":2}\n",
                json!([[1, { "a": 1 }], [3, { "b": 2 }]]),
            ),
            (Format::Yaml, "a: 1\n---\nb: 2\n", json!([[1, { "a": 1 }], [3, { "b": 2 }]])),
        ];
        for (format, text, wanted) in cases {
            let read = serde_json::to_value(documents(format, text).unwrap()).unwrap();
            assert_eq!(read, wanted, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_json_is_named_by_its_line() {
        for (text, line, reason) in [
            ("{\"a\":1}\n{\"b\":\n}", 3, "not JSON"),
            ("{\"a\":1}\nx", 2, "not JSON"),
            ("{\"a\":1}\n{\"b\":1,\"b\":2}", 1, "b occurs twice"),
        ] {
            let problem = documents(Format::Json, text).unwrap_err();
            assert!(
                problem.line == line && problem.reason.contains(reason),
                "{text:?}: {problem:?}"
            );
        }
    }
}
