//! Whether credentials may be used at a time.

use std::time::{Duration, SystemTime};

use mesh_certs::Credentials;
use mesh_follow::{ConnectionPhase, Failure};

/// How long before its certificate's end a connection ends: longer than the time between two readings of the clock.
pub(crate) const AHEAD: Duration = Duration::from_secs(2);

/// Whether a connection may be made with credentials at this time.
pub(crate) fn usable(credentials: &Credentials, now: SystemTime) -> Result<(), Failure> {
    let valid = credentials.valid_at(now).and_then(|()| credentials.valid_at(now + AHEAD));
    valid.map_err(|error| Failure::new(ConnectionPhase::Tls, error.to_string()))
}
