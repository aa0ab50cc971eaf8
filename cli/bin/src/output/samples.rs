//! Captures what commands print, for tests.

use std::{cell::RefCell, fs, path::Path};

use serde_json::json;

use super::{Listed, Output, list, table};

/// The captured output.
struct Shown {
    width: Option<u16>,
    lines: Vec<String>,
}

thread_local! {
    static SHOWN: RefCell<Option<Shown>> = const { RefCell::new(None) };
}

/// Captures a line, if a test captures on this thread.
pub(super) fn keep(text: &str) -> bool {
    SHOWN.with_borrow_mut(|shown| {
        let Some(shown) = shown else { return false };
        shown.lines.extend(text.split('\n').map(str::to_owned));
        true
    })
}

/// The width that a test simulates.
pub(super) fn width() -> Option<Option<u16>> {
    SHOWN.with_borrow(|shown| shown.as_ref().map(|shown| shown.width))
}

/// The lines printed for a reader of this width.
pub(crate) fn rendered(
    width: Option<u16>,
    print: impl FnOnce() -> anyhow::Result<()>,
) -> Vec<String> {
    SHOWN.set(Some(Shown { width, lines: Vec::new() }));
    let printed = print();
    let shown = SHOWN.take().unwrap();
    printed.unwrap();
    shown.lines
}

/// Prints for a pipe and for a terminal of 80 columns. No line is broken for the pipe, and no word for the terminal. There,
/// no line is longer than `longest`: 80, or more for a table whose words need more.
pub(crate) fn fits(longest: usize, print: impl Fn() -> anyhow::Result<()>) {
    let piped = rendered(None, &print);
    assert_eq!(piped, rendered(Some(2_000), &print), "a line is broken for a pipe");
    let terminal = rendered(Some(80), &print);
    let words = |lines: &[String]| {
        let mut words: Vec<String> =
            lines.iter().flat_map(|line| line.split_whitespace().map(str::to_owned)).collect();
        words.sort();
        words
    };
    assert!(!words(&piped).is_empty());
    assert_eq!(words(&piped), words(&terminal), "a word is broken: {terminal:#?}");
    let found = terminal.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    assert!(found <= longest.max(80), "{found} columns: {terminal:#?}");
}

/// The same for a list. Its wide form may have any width.
pub(crate) fn list_fits<T: Listed>(longest: usize, items: &[T]) {
    fits(longest, || list(Output::Text, "List", None, items, json!({})));
    fits(usize::MAX, || Ok(table(T::HEADER, items.iter().flat_map(T::rows))?));
}

/// The module whose tables `tests/tables.rs` prints, from files.
const ELSEWHERE: &str = "explain";

/// Each file that prints a table has a test that it fits.
#[test]
fn every_table_has_a_sample() {
    let mut without = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut with = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let is_elsewhere = path.to_string_lossy().contains(&format!("/src/{ELSEWHERE}"));
            let prints = text.contains("output::table(") || text.contains("impl Listed for");
            let prints = prints && !is_elsewhere && !path.ends_with("output/samples.rs");
            match (prints, text.contains("samples::fits(") || text.contains("samples::list_fits("))
            {
                (true, false) => without.push(path),
                (true, true) => with += 1,
                (false, _) => {}
            }
        }
    }
    assert!(without.is_empty() && with > 10, "{with} have one, and these have none: {without:#?}");
}

#[test]
fn what_does_not_fit_is_found() {
    let print = |text: &'static str| move || Ok(super::line(text)?);
    assert_eq!(rendered(None, print("a\nb")), ["a", "b"]);
    fits(80, print("a word"));
    let long = "x".repeat(81).leak();
    assert!(std::panic::catch_unwind(|| fits(80, print(long))).is_err());
}
