//! Excerpts of long texts for messages.

use std::borrow::Cow;

/// At most `characters` characters of a text. If it is longer, `…` replaces the rest.
pub fn excerpt(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        None => text.into(),
        Some((end, _)) => format!("{}…", text.split_at(end).0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_truncated_between_two_characters() {
        for (text, characters, shown) in [
            ("", 0, ""),
            ("abc", 3, "abc"),
            ("abcd", 3, "abc…"),
            ("äöü", 2, "äö…"),
            ("äöü", 3, "äöü"),
            ("a", 0, "…"),
        ] {
            assert_eq!(excerpt(text, characters), shown, "{text:?} {characters}");
        }
    }
}
