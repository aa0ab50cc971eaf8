//! A peer's text in a message: never all of it.

use mesh_model::excerpt;

/// How much of a peer's text an error repeats, in characters.
const SHOWN: usize = 120;
/// How long a reason may be, in which such texts are.
const REASON: usize = 500;

/// Text of a peer as an error repeats it.
pub(crate) fn shown(text: &str) -> String {
    excerpt(text, SHOWN).into_owned()
}

/// A reason that others wrote, and that may repeat all of what was wrong.
pub(crate) fn reason(text: &str) -> String {
    excerpt(text, REASON).into_owned()
}
