//! The ports of the daemons, unless a flag names another.

/// UDP, where an agent answers probes.
pub const PROBE: u16 = 9984;
/// TCP on loopback, where an agent serves health and metrics.
pub const AGENT_METRICS: u16 = 9981;
/// TCP on loopback, where an apiserver serves health and metrics.
pub const APISERVER_METRICS: u16 = 9982;
