//! What operators read of errors.

use std::borrow::Cow;

/// What the standard library puts behind the kernel's words.
const NUMBER: &str = " (os error ";

/// A text without the numbers of the kernel's errors: `Permission denied (os error 13)` is `Permission denied`.
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
    fn numbers_of_errors_are_left_out() {
        let denied = io::Error::from_raw_os_error(13);
        let text = format!("a.yaml: {denied}; b.yaml: {denied}.");
        assert!(text.contains("os error 13"), "else there is nothing to prove: {text}");
        assert_eq!(plain(&text), "a.yaml: Permission denied; b.yaml: Permission denied.");
        for same in ["", "nothing of it", "an (os error that is none)", " (os error 5"] {
            assert_eq!(plain(same), same);
        }
        assert!(matches!(plain("as it is"), Cow::Borrowed(_)));
    }
}
