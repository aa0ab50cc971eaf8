//! The current time, for code that has to be tested at other times.

use std::{fmt, sync::Arc, time::SystemTime};

/// The wall clock, or a replacement for it. It may be stepped, in either direction, at any time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// This machine's.
    pub fn system() -> Self {
        Self::new(SystemTime::now)
    }

    /// A clock that returns what the given function returns.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
