//! Parses Lists in YAML with all cores.
//!
//! `kubectl get -o yaml` prints all objects as one document. The document is split where items begin, and each piece is parsed
//! as a List of its own. The parser itself confirms each split: one more item is appended to the piece, and must be the last
//! item of the parsed List. It is not if the piece ends within a quoted string, a block scalar, or a flow collection. If a
//! document cannot be split, or a piece is not valid, the whole document is parsed, which also finds the line of an error.

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::{Format, PIECE, tree};

/// A document that is split at its items.
struct Split<'a> {
    /// What precedes the first item, with the line `items:`.
    head: &'a str,
    /// At least two pieces, each with at least one item. The last one also has what follows the items.
    pieces: Vec<&'a str>,
    /// The indentation of the items, in spaces.
    indent: usize,
}

/// The field that contains the items.
const ITEMS: &str = "items";
/// The number of values around the items of a piece: the List, the name of its field, the array, and the appended item.
const AROUND: usize = 4;
/// What a line may begin and end with.
const BLANK: [char; 3] = [' ', '\r', '\n'];

/// Parses one value like [`tree::read`]. Lists in YAML are split into pieces of at least `size` bytes if that is possible.
pub(super) fn read(
    format: Format,
    text: &str,
    size: usize,
) -> Result<Option<Value>, (usize, String)> {
    if format == Format::Yaml
        && let Some(list) = in_pieces(text, size)
    {
        return Ok(Some(list));
    }
    tree::read(format, text)
}

/// Parses a document in pieces. The result equals that of [`tree::read`]; `None` if this is not certain.
fn in_pieces(text: &str, size: usize) -> Option<Value> {
    let Split { head, pieces, indent } = split(text, size)?;
    let one_more = format!("{:indent$}- 0\n", "");
    // Confirms that the field `items` begins there, and that the head does not contain one.
    let begin = tree::read_piece(&[head, &one_more].concat(), head.len() + AROUND)?;
    if begin.get(ITEMS) != Some(&json!([0])) || begin.contains_key(tree::TWICE) {
        return None;
    }
    let last = pieces.len() - 1;
    // Together, the pieces are limited to the number of values that the whole document may have.
    let read = |(index, piece): (usize, &&str)| match index == last {
        true => tree::read_piece(&[head, piece].concat(), head.len() + piece.len()),
        false => tree::read_piece(&format!("{ITEMS}:\n{piece}{one_more}"), piece.len() + AROUND),
    };
    // Do not use threads for a short text.
    let lists: Option<Vec<Map<String, Value>>> = match text.len() < PIECE {
        true => pieces.iter().enumerate().map(read).collect(),
        false => pieces.par_iter().enumerate().map(read).collect(),
    };
    let mut lists = lists?;
    // The last piece has all other fields.
    let mut whole = lists.pop()?;
    let mut all = Vec::new();
    for mut list in lists {
        let Some(Value::Array(mut items)) = list.remove(ITEMS) else { return None };
        if items.pop() != Some(json!(0)) {
            return None;
        }
        all.append(&mut items);
    }
    let Some(Value::Array(items)) = whole.get_mut(ITEMS) else { return None };
    all.append(items);
    *items = all;
    Some(whole.into())
}

/// Splits a document at its items, judged by their indentation. `None` if they have no block style, or are only one piece.
fn split(text: &str, size: usize) -> Option<Split<'_>> {
    // The parser takes a NUL for the end of the text, and a carriage return alone for the end of a line.
    let is_odd = |text: &str| {
        text.contains('\0') || text.split('\r').skip(1).any(|rest| !rest.starts_with('\n'))
    };
    if text.len() <= size || is_odd(text) {
        return None;
    }
    let is_items = |line: &str| {
        let rest = line.strip_prefix(ITEMS).and_then(|rest| rest.strip_prefix(':'));
        rest.is_some_and(|rest| rest.trim_matches(BLANK).is_empty())
    };
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines.by_ref().take_while(|line| !is_items(line)).map(str::len).sum();
    let items = text.get(before..)?.find('\n')?;
    let (head, body) = text.split_at_checked(before + items + 1)?;
    let (mut pieces, mut indent) = (Vec::new(), None);
    let (mut begin, mut end) = (0, 0);
    for line in lines {
        let at = end;
        end += line.len();
        let depth = line.bytes().take_while(|byte| *byte == b' ').count();
        // Within an item.
        if indent.is_some_and(|indent| depth > indent) {
            continue;
        }
        let content = line.trim_matches(BLANK);
        let is_item = content == "-" || content.starts_with("- ");
        match indent {
            _ if content.is_empty() || content.starts_with('#') => {}
            None if is_item => indent = Some(depth),
            Some(indent) if depth == indent && is_item => {
                if at - begin >= size {
                    pieces.push(body.get(begin..at)?);
                    begin = at;
                }
            }
            // Another field of the List.
            Some(_) if depth == 0 && content.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                break;
            }
            _ => return None,
        }
    }
    if pieces.is_empty() {
        return None;
    }
    pieces.push(body.get(begin..)?);
    Some(Split { head, pieces, indent: indent? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{decode, decode_in_pieces};

    /// Whether a document can be split at each item. The result of each split must equal that of the whole document.
    fn is_split(text: &str) -> bool {
        let [one, several] = [1, 30].map(|size| in_pieces(text, size));
        for value in [&one, &several].into_iter().flatten() {
            assert_eq!(tree::read(Format::Yaml, text), Ok(Some(value.clone())), "{text}");
        }
        one.is_some()
    }

    fn text(lines: &[&str]) -> String {
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn lists_are_split_at_their_items() {
        let kubectl = text(&[
            "apiVersion: v1",
            "items:",
            "- apiVersion: v1",
            "  kind: Pod",
            "  metadata:",
            "    annotations:",
            "      last-applied: |",
            "        - {\"kind\":\"Pod\"}",
            "",
            "        items:",
            "    name: a",
            "- apiVersion: v1",
            "  kind: Pod",
            "  spec:",
            "    containers:",
            "    - args:",
            "      - \"# none\"",
            "      - 'it''s'",
            "      name: web",
            "kind: List",
            "metadata:",
            "  resourceVersion: \"\"",
        ]);
        for text in [
            kubectl.clone(),
            kubectl.replace('\n', "\r\n"),
            kubectl.trim_end().to_owned(),
            text(&["kind: List", "items:", "  - a: b", "    c: d", "  - e"]),
            text(&["# of 1", "items: ", "# of 2", "", "-", "# of 3", "- a # of 4", "", "# of 5"]),
            // Block scalars, which end where the next item begins.
            text(&["items:", "- |+", "  a", "", "  ", "- b", "- >-", "", "- |2", "    - c", "- d"]),
            text(&["items:", "- a", "  b", "- - c", "  - d", "-   e: f", "    g: h", "- 0", "- ~"]),
            text(&["items:", "- [a,", "  b]", "- \"c", "  d\"", "- ? e", "  : f", "- ! g"]),
            // Neither the kind nor duplicate fields matter.
            text(&["kind: ConfigMap", "items:", "- a", "- b", "data: {c: d}", "kind: Two"]),
            text(&["items:", "- a", "- b", "kind: ~", "items:", "- c"]),
        ] {
            assert!(is_split(&text), "{text}");
        }
    }

    #[test]
    fn ambiguous_documents_are_not_split() {
        for text in [
            text(&["items: []", "kind: List"]),
            text(&["items: [a,", "- b,", "- c]"]),
            text(&["items:", "- a"]),
            text(&["- items:", "  - a", "  - b"]),
            text(&["spec:", "  items:", "  - a", "  - b"]),
            // Anchors, aliases and merge keys.
            text(&["items:", "- &a b", "- *a"]),
            text(&["kind: &a List", "items:", "- b", "- c", "d: *a"]),
            text(&["items:", "- {<<: {a: b}}", "- c"]),
            // Strings and collections that continue where an item seems to begin.
            text(&["|", "items:", "- a", "- b"]),
            text(&["a: 'b", "items:", "- c", "- d'"]),
            text(&["a: 'b", "items:", "- c'", "- d'", "items:", "- e", "- f"]),
            text(&["items:", "- 'a", "- b'"]),
            text(&["items:", "- [a,", "- b]"]),
            text(&["\"items\":", "- a: '", "items:", "- b'", "- c"]),
            text(&["\"items\": [0]", "items:", "- a", "- b"]),
            // Entries and fields that do not belong to the items.
            text(&["items:", "  - a", "- b", "- c"]),
            text(&["items:", "- a", "\t- b", "- c", "- d"]),
            text(&["items:", "-\ta", "-\tb"]),
            text(&["items:", "- a\rkind: Pod", "- b", "- c"]),
            text(&["items:", "- a\0", "- b", "- c"]),
            text(&["  kind: List", "items:", "- a", "- b"]),
            text(&["{kind: List}", "items:", "- a", "- b"]),
            text(&["%YAML 1.2", "items:", "- a", "- b"]),
        ] {
            assert!(!is_split(&text), "{text}");
        }
    }

    /// All combinations of three lines between two items.
    #[test]
    fn each_split_gives_the_value_of_the_whole_document() {
        let lines = [
            "- a\n",
            "-\n",
            "- b: c\n",
            "  d: |\n",
            "  - e\n",
            "    - f\n",
            "    g\n",
            "- |\n",
            "- >+\n",
            "\n",
            "   \n",
            "# h\n",
            "  # i\n",
            "- 'j\n",
            "  k'\n",
            "- [l,\n",
            "  m]\n",
            "n: o\n",
            "p:\n",
            "\tq\n",
            "- ? r\n",
            "  : s\n",
            "  t: u\r\n",
            "- &v w\n",
            "- *v\n",
            "items:\n",
            // Indents the next line.
            "  ",
        ];
        let (mut all, mut splits) = (0, 0);
        for (head, tail) in [("", "kind: List\n"), ("x: 'y\n", "")] {
            for first in lines {
                for second in lines {
                    for third in lines {
                        let text = format!("{head}items:\n- 1\n{first}{second}{third}- 2\n{tail}");
                        all += 1;
                        splits += usize::from(is_split(&text));
                    }
                }
            }
        }
        assert!(splits > all / 10, "{splits} of {all}");
    }

    #[test]
    fn problems_have_the_lines_of_the_whole_document() {
        let item = |name: &str| {
            format!("- apiVersion: v1\n  kind: Namespace\n  metadata: {{name: {name}}}\n")
        };
        let list = |names: [&str; 4]| {
            let items: String = names.iter().map(|name| item(name)).collect();
            format!("# first\n---\napiVersion: v1\nitems:\n{items}kind: List\n")
        };
        for (text, says) in [
            (list(["a", "b", "[c", "d"]), "line 13: document 1: not YAML: "),
            (list(["a", "b", "C", "d"]), "line 3: item 2: Namespace C: metadata.name \"C\": "),
            (list(["a", "b", "c", "''"]), "line 3: item 3: Namespace: it has no metadata.name"),
            (
                list(["a", "b", "c", "d"]).replace("apiV", "apV"),
                "line 3: List: apVersion: did you ",
            ),
        ] {
            let text = format!("{text}---\nkind: Pod\n");
            let decoded = decode(Format::Yaml, &text);
            let said = decoded.broken.iter().chain(&decoded.rejected).next().unwrap();
            assert!(said.to_string().starts_with(says), "{said}");
            assert_eq!(decode_in_pieces(Format::Yaml, &text, 1), decoded);
        }
    }
}
