//! Excerpts of a peer's texts for messages.

use mesh_model::excerpt;

/// How much of a peer's text an error contains, in characters.
const SHOWN: usize = 120;
/// The maximum length of a reason that contains such texts, in characters.
const REASON: usize = 500;

/// A peer's text for an error.
pub(crate) fn shown(text: &str) -> String {
    excerpt(text, SHOWN).into_owned()
}

/// The message of a library's error, which may contain all of a peer's text.
pub(crate) fn reason(text: &str) -> String {
    excerpt(text, REASON).into_owned()
}
