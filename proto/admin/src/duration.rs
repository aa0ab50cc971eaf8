//! Durations in flags, as Go and Kubernetes write them.

use std::{str::FromStr, time::Duration};

use jiff::{Span, SpanRelativeTo};

/// After how long something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// This time.
    Time(Duration),
    /// It is not done.
    Never,
}

/// Parses a duration such as `500ms`, `90s`, `1m30s`, `2h` or `30d`. A day has 24 hours.
///
/// # Errors
/// If it is no duration, is negative, or has years or months. The error is a message for the user.
pub fn with_unit(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().ok();
    let days = SpanRelativeTo::days_are_24_hours();
    let duration = span.and_then(|span| span.to_duration(days).ok());
    let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
    duration.ok_or_else(|| "not a duration, as in 500ms, 90s, 1m30s, 2h or 30d".into())
}

/// Like [`with_unit`], but also accepts a number of seconds without a unit, as flags did before they had units. This form
/// goes with the next minor release.
///
/// # Errors
/// As [`with_unit`].
pub fn of_flag(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    seconds.map_or_else(|| with_unit(text), Ok)
}

// === impl After ===

impl After {
    /// The time; `None` if it is not done.
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::Time(time) => Some(time),
            Self::Never => None,
        }
    }
}

impl FromStr for After {
    type Err = String;

    /// Reads a duration with its unit, as `15s` or `500ms`, or `never`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self::Never),
            text => with_unit(text).map(Self::Time).map_err(|why| format!("{why}, or never")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_in_go() {
        for (text, millis) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("720h", 2_592_000_000),
            ("30d", 2_592_000_000),
            ("0s", 0),
        ] {
            assert_eq!(with_unit(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(of_flag(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, millis) in [("60", 60_000), ("0.5", 500), ("0", 0)] {
            assert_eq!(of_flag(text), Ok(Duration::from_millis(millis)), "{text}");
            assert!(with_unit(text).is_err(), "{text}");
        }
        for bad in
            ["", "s", "-1", "-1s", "1y", "1mo", "inf", "nan", "soon", "99999999999999999999h"]
        {
            assert!(of_flag(bad).unwrap_err().starts_with("not a duration"), "{bad}");
        }
    }
}
