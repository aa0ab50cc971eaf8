//! The interface between a state machine and the driver that does its IO.

use std::time::Instant;

use crate::status::{ConnectionPhase, Failure, Status};

/// A state machine that follows one etcd.
///
/// Its driver calls [`Machine::poll`] until it returns `None`, performs the actions, takes the events, and goes on with
/// that as long as [there are more](Machine::has_more). Then it sleeps until [`Machine::next_timeout`] or the next
/// input, and passes that to [`Machine::handle`].
pub trait Machine {
    /// Its events.
    type Event;
    /// Its owner's commands.
    type Command;

    /// Takes what happened.
    fn handle(&mut self, now: Instant, input: Input);
    /// Takes what its owner asks for.
    fn command(&mut self, now: Instant, command: Self::Command);
    /// The next thing to do.
    fn poll(&mut self, now: Instant) -> Option<Action>;
    /// When to poll although nothing happened.
    fn next_timeout(&self) -> Option<Instant>;
    /// Its events, in order; a part of them, if there are many.
    fn take_events(&mut self) -> Vec<Self::Event>;
    /// The size of the events that [`Machine::take_events`] returns next, about, in bytes.
    fn batch_bytes(&self) -> usize {
        0
    }
    /// Whether [`Machine::take_events`] returns more without another input.
    fn has_more(&self) -> bool {
        false
    }
    /// Whether it takes an input now. Otherwise part of an earlier one is not decoded yet: the driver polls the machine
    /// until that is done, and leaves further inputs where they are.
    fn wants_input(&self) -> bool {
        true
    }
    /// How the connection is.
    fn status(&self) -> &Status;
}

/// Names a list request, unique in a machine's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a watch, unique in a machine's run, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub i64);

/// Keys from `start` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key after the range.
    pub end: Vec<u8>,
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The etcd cluster's id; another one is another history.
    pub cluster_id: u64,
    /// The store's revision when it answered.
    pub revision: i64,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision that wrote the value.
    pub mod_revision: i64,
}

/// One change that a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key has a value.
    Put(KeyValue),
    /// A key is gone.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// The revision that removed it.
        mod_revision: i64,
    },
}

/// An input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// There is a connection: TLS is done, nothing was requested yet.
    Connected,
    /// There is no connection: it could not be made, or it broke. The machine forgets its requests and watches.
    Disconnected(Failure),
    /// A page of a list.
    Page {
        /// Of this request.
        request: RequestId,
        /// From here.
        header: Header,
        /// The keys, ascending.
        keys: Vec<KeyValue>,
        /// There are more after the last one.
        more: bool,
    },
    /// A list request failed.
    ListFailed {
        /// This one.
        request: RequestId,
        /// Why.
        error: ListError,
    },
    /// The etcd confirmed a watch: it has begun.
    Watching(WatchId),
    /// Changes, in order.
    Events {
        /// Of this watch.
        watch: WatchId,
        /// From here.
        header: Header,
        /// The changes.
        events: Vec<WatchEvent>,
    },
    /// Nothing more will come up to the header's revision: everything before was delivered.
    Progress {
        /// Of this watch.
        watch: WatchId,
        /// From here.
        header: Header,
    },
    /// A watch ended.
    Canceled {
        /// This one.
        watch: WatchId,
        /// Its start was compacted away.
        compacted: bool,
        /// The server's text.
        reason: String,
    },
}

/// Why a list request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The answer is larger than what is accepted.
    #[error("the answer is too large")]
    TooLarge,
    /// The revision asked for is compacted away.
    #[error("the revision is compacted")]
    Compacted,
    /// The server refuses it.
    #[error("{0}")]
    Denied(String),
    /// Anything else; the connection is of no more use.
    #[error("{0}")]
    Broken(String),
}

/// An action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a connection; answer with [`Input::Connected`] or [`Input::Disconnected`].
    Connect,
    /// List keys.
    List {
        /// Answer under this id.
        request: RequestId,
        /// These keys.
        span: KeyRange,
        /// The limit.
        limit: i64,
        /// As of this revision; now, if absent.
        revision: Option<i64>,
        /// Without the values.
        keys_only: bool,
    },
    /// Watch keys from a revision on, that one included.
    Watch {
        /// Deliver under this id.
        watch: WatchId,
        /// These keys.
        span: KeyRange,
        /// From here.
        from: i64,
    },
    /// End a watch.
    CancelWatch(WatchId),
    /// Close the connection. No [`Input::Disconnected`] follows.
    Disconnect,
}

// === impl KeyRange ===

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        let start = prefix.as_bytes().to_vec();
        let mut end = start.clone();
        while let Some(last) = end.pop() {
            if let Some(next) = last.checked_add(1) {
                end.push(next);
                break;
            }
        }
        Self { start, end }
    }

    /// One key.
    pub fn key(key: &str) -> Self {
        let start = key.as_bytes().to_vec();
        Self { end: after(&start), start }
    }

    /// From the first key of one prefix to the last of another.
    pub fn between(first: &str, last: &str) -> Self {
        Self { start: first.as_bytes().to_vec(), end: Self::prefix(last).end }
    }

    /// Whether a key is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && key < self.end.as_slice()
    }
}

/// The key that follows directly.
pub(crate) fn after(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

// === impl ListError ===

impl ListError {
    /// The connection phase in which this leaves the connection.
    pub(crate) fn phase(&self) -> ConnectionPhase {
        match self {
            Self::Denied(_) => ConnectionPhase::Authenticated,
            Self::TooLarge | Self::Compacted | Self::Broken(_) => ConnectionPhase::Synced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let nodes = KeyRange::prefix("cilium/state/nodes/");
        assert_eq!(nodes.end, b"cilium/state/nodes0");
        assert!(nodes.contains(b"cilium/state/nodes/v1/a/n"));
        assert!(!nodes.contains(b"cilium/state/nodes0"));
        let key = KeyRange::key("a");
        assert!(key.contains(b"a") && !key.contains(b"aa"));
        let together = KeyRange::between("cilium/state/identities/", "cilium/state/nodes/");
        assert!(together.contains(b"cilium/state/ip/v1/default/10.0.0.1"));
        assert!(!together.contains(b"cilium/state/services/v1/a/b/c"));
    }
}
