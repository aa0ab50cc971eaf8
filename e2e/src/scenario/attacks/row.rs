//! A row of the attack table.

/// One attack.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Keys with their values.
    pub(super) writes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) expected: Expected,
}

/// The expected reaction of an agent.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    /// One more record is rejected, and its message contains this text.
    Rejected(&'static str),
    /// The connection to the peer is refused, with this reason.
    Refused(&'static str),
    /// The keys are ignored.
    Nothing,
}

/// The format in which the hostile cluster exports its services.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Services,
    Slices,
}

const CONFIGS: &[u8] = b"cilium/cluster-config/";
pub(super) const POSITION: &str = "cilium/.heartbeat.position";
/// An identity of the hostile cluster, whose ID is 3: from 3 × 65,536 on.
pub(super) const HOSTILE_IDENTITY: u32 = 200_000;
/// The address of a possible pod in the hostile cluster.
pub(super) const HOSTILE_POD: &str = "10.3.1.77";
pub(super) const HOSTILE_RANGE: &str = "10.3.9.0";

// === impl Row ===

impl Row {
    pub(super) fn changes_config(&self) -> bool {
        self.writes.iter().any(|(key, _)| key.starts_with(CONFIGS))
    }

    /// Keys that are necessary to follow the cluster. After the row they get their previous value.
    pub(super) fn restored(&self) -> impl Iterator<Item = &str> {
        let keys = self.writes.iter().filter_map(|(key, _)| str::from_utf8(key).ok());
        keys.filter(|key| key.as_bytes().starts_with(CONFIGS) || *key == POSITION)
    }
}

/// Keys of the connection, which are restored or left, not deleted: deleting them would only end the connection.
pub(super) fn is_kept(key: &[u8]) -> bool {
    key.starts_with(CONFIGS)
        || key.starts_with(b"cilium/synced/")
        || key.starts_with(b"cilium/.heartbeat")
}

pub(super) fn row(name: &'static str, key: &str, value: &str, expected: Expected) -> Row {
    Row { name, writes: vec![(key.into(), value.into())], expected }
}
