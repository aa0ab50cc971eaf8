//! What the reference does not answer.

/// An input that is invalid, or says something that the reference does not know. It never guesses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reference does not support this: {0}")]
pub struct Unsupported(pub String);
