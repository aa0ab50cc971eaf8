//! The tests that `docs/testing.md` names exist.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path};

/// Test names by the file before them, as in "`file.rs`: `one`, `other`; `next.rs`: `third`".
fn named(text: &str) -> Vec<(String, String)> {
    let mut file = None;
    let mut all = Vec::new();
    for word in text.lines().filter(|line| line.starts_with('|')).flat_map(words) {
        if word.ends_with(".rs") {
            file = Some(word);
        } else if let Some(file) = file.as_ref().filter(|_| is_name(&word)) {
            all.push((file.clone(), word));
        }
    }
    all
}

/// What stands between backticks in the last cell of a row.
fn words(row: &str) -> Vec<String> {
    let cell = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn proofs_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/testing.md")).unwrap();
    let named = named(&text);
    assert!(named.len() > 80, "only {} tests are named", named.len());
    for (file, test) in named {
        let code = fs::read_to_string(root.join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(code.contains(&format!("fn {test}(")), "{file} has no test {test}");
    }
}

#[test]
fn names_are_found_behind_their_file() {
    let row = "| a `promise` | `a/b.rs`: `one`, `two`; `c.rs`: `three`; `make test` |";
    let pairs = [("a/b.rs", "one"), ("a/b.rs", "two"), ("c.rs", "three")];
    assert_eq!(named(row), pairs.map(|(file, test)| (file.to_owned(), test.to_owned())));
}
