//! Something in a cluster directory that is not as it should be.

use std::path::PathBuf;

/// Something in a file, or in the folder, that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {reason}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct Problem {
    /// The file, or the folder.
    pub file: PathBuf,
    /// The line, counted from 1, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}
