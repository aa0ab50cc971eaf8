//! Timestamps, the values of canaries and heartbeats. They are for people: readers do not use them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// The value of a canary or heartbeat that is put at `now`: RFC 3339 in UTC, in seconds.
pub fn timestamp_value(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// The time in a canary or heartbeat; `None` if it is not in RFC 3339.
pub fn timestamp(value: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(value).ok()?;
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn round_trip() {
        let now = UNIX_EPOCH + Duration::new(1_795_223_765, 999_999_999);
        let value = timestamp_value(now);
        assert_eq!(value, "2026-11-21T01:16:05Z");
        assert_eq!(
            timestamp(value.as_bytes()),
            Some(UNIX_EPOCH + Duration::from_secs(1_795_223_765))
        );
        assert!(timestamp("2026-11-21T02:16:05+01:00".as_bytes()).is_some());
        assert!(timestamp(b"\xff").is_none());
    }
}
