//! Error texts without the kernel's error numbers.

use std::borrow::Cow;

/// The standard library appends this to the kernel's error text, then a number and `)`.
const NUMBER: &str = " (os error ";

/// Removes the kernel's error numbers: `Permission denied (os error 13)` becomes `Permission denied`.
pub fn plain(text: &str) -> Cow<'_, str> {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(NUMBER) {
        plain += before;
        match after.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(')') {
            Some(after) => rest = after,
            None => {
                plain += NUMBER;
                rest = after;
            }
        }
    }
    if rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    plain += rest;
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn error_numbers_are_removed() {
        let denied = io::Error::from_raw_os_error(13);
        let text = format!("a.yaml: {denied}; b.yaml: {denied}.");
        assert!(
            text.contains("os error 13"),
            "the standard library no longer appends the number: {text}"
        );
        assert_eq!(plain(&text), "a.yaml: Permission denied; b.yaml: Permission denied.");
        for same in ["", "nothing of it", "an (os error that is none)", " (os error 5"] {
            assert_eq!(plain(same), same);
        }
        assert!(matches!(plain("as it is"), Cow::Borrowed(_)));
    }
}
