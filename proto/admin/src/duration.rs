//! Durations in flags, as Go and Kubernetes write them.

use std::time::Duration;

use jiff::SignedDuration;

/// A duration as in `500ms`, `90s`, `1m30s` or `2h`.
///
/// # Errors
/// It is something else; as a sentence for the user.
pub fn with_unit(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<SignedDuration>().ok();
    let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
    duration.ok_or_else(|| "not a duration, as in 500ms, 90s, 1m30s or 2h".into())
}

/// The same, or a plain number of seconds, as flags took it that end in `-seconds`; until the next minor release.
///
/// # Errors
/// As [`with_unit`].
pub fn of_flag(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => with_unit(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_in_go() {
        for (text, millis) in
            [("500ms", 500), ("90s", 90_000), ("1m30s", 90_000), ("2h", 7_200_000), ("0s", 0)]
        {
            assert_eq!(with_unit(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(of_flag(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(of_flag("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "-1s", "1y", "soon", "99999999999999999999h"] {
            assert!(of_flag(bad).is_err(), "{bad}");
        }
        assert!(with_unit("7").is_err());
    }
}
