//! Problems in a cluster directory.

use std::path::PathBuf;

/// A problem in a file, or with the folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {reason}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct Problem {
    /// The file, or the folder.
    pub file: PathBuf,
    /// The line, counted from 1, if the problem concerns one.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}
