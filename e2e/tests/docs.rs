//! The tests, reasons and documents that documents name exist.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

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

/// The words in backticks in the last cell of a row.
fn words(row: &str) -> Vec<String> {
    let cell = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn named_tests_exist() {
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
fn test_names_are_found_after_their_file() {
    let row = "| a `promise` | `a/b.rs`: `one`, `two`; `c.rs`: `three`; `make test` |";
    let pairs = [("a/b.rs", "one"), ("a/b.rs", "two"), ("c.rs", "three")];
    assert_eq!(named(row), pairs.map(|(file, test)| (file.to_owned(), test.to_owned())));
}

/// The parts of a table, each with its number of rows: a row that begins in bold is a part's title.
fn parts(section: &str) -> Vec<(&str, usize)> {
    let mut parts: Vec<(&str, usize)> = Vec::new();
    for row in section.lines().filter_map(|line| line.strip_prefix('|')) {
        if let Some(rest) = row.strip_prefix(" **") {
            let title = rest.split("**").next().unwrap_or_default();
            parts.push((title.split(" (").next().unwrap_or_default(), 0));
        } else if let Some((_, rows)) = parts.last_mut() {
            *rows += 1;
        }
    }
    parts
}

#[test]
fn each_difference_from_cilium_has_a_test() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let read = |file: &str| fs::read_to_string(docs.join(file)).unwrap();
    let (tests, differences) = (read("testing.md"), read("compatibility.md"));
    let (_, below) = tests.split_once("\n## Where we differ from Cilium\n").unwrap();
    let proofs = below.split("\n## ").next().unwrap();
    assert_eq!(parts(proofs), parts(&differences));
    assert!(parts(proofs).len() > 5, "{:?}", parts(proofs));
    for row in proofs.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| **")) {
        assert!(row.contains("| proof |") || !named(row).is_empty(), "no test: {row}");
    }
}

/// The first word of each row below a heading, or of its second cell, without the backticks.
fn rows(text: &str, heading: &str) -> BTreeSet<String> {
    let (_, below) = text.split_once(heading).unwrap();
    let section = below.split("\n## ").next().unwrap();
    let cells = section.lines().filter_map(|line| {
        let row = line.strip_prefix('|')?;
        row.split('|').take(2).find(|cell| cell.trim().starts_with('`'))
    });
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn reasons_are_those_that_explain_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let code = read("agent/balance/src/explanation.rs");
    let (_, words) = code.split_once("impl Reason {").unwrap();
    let words = words.split("// ===").next().unwrap();
    let mut printed: BTreeSet<String> =
        words.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    // The agent adds this one, for a table that is full.
    let agent = read("agent/admin/src/explain.rs");
    let added = agent.split("shown.reason = \"").skip(1).filter_map(|rest| rest.split('"').next());
    printed.extend(added.map(str::to_owned));
    assert!(printed.len() > 10, "{printed:?}");
    let explained = rows(&read("docs/load-balancing.md"), "\n## Why a backend is used, or not\n");
    assert_eq!(explained, printed, "docs/load-balancing.md");
    let symptoms = read("docs/troubleshooting.md");
    let named = rows(&symptoms, "\n## A service does not reach other clusters' pods\n");
    assert!(named.len() > 5, "{named:?}");
    assert_eq!(named.difference(&printed).next(), None, "docs/troubleshooting.md");
    let phases = rows(&read("docs/status.md"), "\n## Connection phases\n");
    assert_eq!(rows(&symptoms, "\n## A peer is not ready\n"), phases, "docs/troubleshooting.md");
}

/// Documents of the repository, as paths below its root.
fn documents(root: &Path) -> Vec<PathBuf> {
    let mut all = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "deploy/cni/README.md"]
        .map(PathBuf::from)
        .to_vec();
    for folder in ["docs", "docs/adr"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            all.push(Path::new(folder).join(entry.unwrap().file_name()));
        }
    }
    all.retain(|path| path.extension().is_some_and(|kind| kind == "md"));
    all
}

#[test]
fn links_between_documents_have_targets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seen = 0;
    for document in documents(&root) {
        let text = fs::read_to_string(root.join(&document)).unwrap();
        let folder = root.join(document.parent().unwrap());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") {
                assert!(folder.join(path).exists(), "{}: {link}", document.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "only {seen} links");
}
