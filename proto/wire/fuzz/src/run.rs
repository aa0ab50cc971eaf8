//! Runs a fuzz body on its corpus, then on inputs made by editing the corpus. The other fuzz crates use it too.
//!
//! Half of the edits change bytes, which mostly breaks the syntax. The others replace whole words and lines by others of the
//! corpus. Such inputs are often syntactically valid, so they reach the checks behind the parser.

use std::{collections::BTreeSet, ops::Range};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRng, TestRunner},
};

/// How many generated inputs a body must accept without a panic in `cargo test`.
const GENERATED: u32 = 100_000;

/// Runs a body on its corpus and on [`GENERATED`] inputs made from it, which are the same in each run.
///
/// # Panics
/// If the body panics. The message has the shortest such input that was found.
#[allow(clippy::panic, reason = "the caller is a test")]
pub fn run(corpus: Vec<Vec<u8>>, body: fn(&[u8])) {
    corpus.iter().for_each(|input| body(input));
    let config = Config { cases: GENERATED, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let outcome = TestRunner::new_with_rng(config, rng).run(&mutated(corpus), |input| {
        body(&input);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// An edit of an input.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Truncate(Index),
    Repeat(Index, usize),
    /// Replaces a piece by another one of the same kind.
    Replace(Piece, Index, Vec<u8>),
    /// Inserts a line before another one.
    InsertLine(Index, Vec<u8>),
}

/// A part of a text.
#[derive(Clone, Copy, Debug)]
enum Piece {
    Word,
    Line,
}

fn mutated(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let interesting: Vec<Vec<u8>> = [
        "\0",
        "\"",
        "{",
        "}",
        "[",
        ",",
        ":",
        "/",
        "-1",
        "4294967296",
        "null",
        "<nil>",
        "..",
        "\n",
        "\u{2028}",
        "\\u0000",
        "::1",
        "10.0.0.1/33",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    let words = Piece::Word.all(corpus.iter().chain(&interesting));
    let lines = Piece::Line.all(&corpus);
    let inserted = prop_oneof![vec(any::<u8>(), 1..8), select(interesting)];
    let at = any::<Index>;
    let edit = prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        4 => (at(), inserted).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        2 => (at(), 1usize..16).prop_map(|(at, n)| Edit::Remove(at, n)),
        1 => at().prop_map(Edit::Truncate),
        1 => (at(), 2usize..200).prop_map(|(at, n)| Edit::Repeat(at, n)),
        6 => (at(), select(words)).prop_map(|(at, word)| Edit::Replace(Piece::Word, at, word)),
        3 => (at(), select(lines.clone())).prop_map(|(at, line)| Edit::Replace(Piece::Line, at, line)),
        3 => (at(), select(lines)).prop_map(|(at, line)| Edit::InsertLine(at, line)),
    ];
    let base = prop_oneof![1 => vec(any::<u8>(), 0..64), 9 => select(corpus)];
    (base, vec(edit, 0..4)).prop_map(|(base, edits)| edits.into_iter().fold(base, apply))
}

fn apply(mut input: Vec<u8>, edit: Edit) -> Vec<u8> {
    let at = |index: Index| index.index(input.len() + 1);
    match edit {
        Edit::Set(index, byte) => {
            let at = at(index);
            if let Some(target) = input.get_mut(at) {
                *target = byte;
            }
        }
        Edit::Insert(index, bytes) => {
            let at = at(index);
            input.splice(at..at, bytes);
        }
        Edit::Remove(index, count) => {
            let from = at(index);
            let to = input.len().min(from + count);
            input.drain(from..to);
        }
        Edit::Truncate(index) => {
            let at = at(index);
            input.truncate(at);
        }
        Edit::Repeat(index, count) => {
            let at = at(index);
            let piece: Vec<u8> = input.iter().skip(at).take(4).copied().collect();
            input.splice(at..at, piece.repeat(count));
        }
        Edit::Replace(piece, index, bytes) => {
            let range = piece.around(&input, at(index));
            input.splice(range, bytes);
        }
        Edit::InsertLine(index, line) => {
            let at = Piece::Line.around(&input, at(index)).start;
            input.splice(at..at, line.into_iter().chain(*b"\n"));
        }
    }
    input
}

impl Piece {
    /// Whether a byte separates two pieces.
    fn separates(self, byte: u8) -> bool {
        match self {
            Self::Word => byte.is_ascii_whitespace() || b"\0\"'()[]{},:=".contains(&byte),
            Self::Line => byte == b'\n',
        }
    }

    /// The range of the piece at an index; empty between two separators.
    fn around(self, input: &[u8], at: usize) -> Range<usize> {
        let (before, after) = input.split_at(at);
        let start = before.iter().rposition(|b| self.separates(*b)).map_or(0, |found| found + 1);
        let length = after.iter().position(|b| self.separates(*b)).unwrap_or(after.len());
        start..at + length
    }

    /// All different pieces of the inputs, and the empty one.
    fn all<'a>(self, inputs: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Vec<u8>> {
        let pieces = inputs.into_iter().flat_map(|input| input.split(|b| self.separates(*b)));
        let all: BTreeSet<&[u8]> = pieces.chain([[].as_slice()]).collect();
        all.into_iter().map(<[u8]>::to_vec).collect()
    }
}
