//! Texts of other programs in our messages.

/// The longest text of others' that a message repeats, in characters.
const SHOWN: usize = 64;

/// The beginning of a text that may be long.
pub(crate) fn excerpt(text: &str) -> String {
    mesh_model::excerpt(text, SHOWN).into_owned()
}
