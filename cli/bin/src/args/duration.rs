//! Durations, as Go and kubectl write them.

use std::time::Duration;

/// A duration as in `5s`, `1m30s` or `720h`. A plain number is one of seconds, as it was before there were units; this goes
/// with the next minor version.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) => {
            Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is no duration"))
        }
        Err(_) => mesh_offline::parse_time(text)
            .map_err(|_| format!("{text:?} is no duration, as in 5s, 1m30s or 720h")),
    }
}

/// The same in whole seconds; a part of one counts as one.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let duration = duration(text)?;
    Ok(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_numbers_are_seconds() {
        for (text, millis) in [
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("720h", 2_592_000_000),
            ("30d", 2_592_000_000),
            ("250ms", 250),
            ("60", 60_000),
            ("0.5", 500),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!((seconds("1m30s"), seconds("200ms"), seconds("7")), (Ok(90), Ok(1), Ok(7)));
        for bad in ["", "s", "5 s", "-1", "-1s", "1y", "inf", "nan", "99999999999999999999d"] {
            assert!(duration(bad).unwrap_err().contains("no duration"), "{bad}");
        }
    }
}
