//! Events on their way to the consumer, with the room that they take.

use std::vec;

use tokio::sync::OwnedSemaphorePermit;

/// Events of one machine. The room that they take is free again when they are taken out.
#[derive(Debug)]
pub struct Batch<E> {
    events: Vec<E>,
    _room: Option<OwnedSemaphorePermit>,
}

// === impl Batch ===

impl<E> Batch<E> {
    pub(crate) fn new(events: Vec<E>, room: OwnedSemaphorePermit) -> Self {
        Self { events, _room: Some(room) }
    }

    /// The events, in order.
    pub fn into_events(self) -> Vec<E> {
        self.events
    }
}

impl<E> From<Vec<E>> for Batch<E> {
    /// Events that take no room of a connection's.
    fn from(events: Vec<E>) -> Self {
        Self { events, _room: None }
    }
}

impl<E> IntoIterator for Batch<E> {
    type Item = E;
    type IntoIter = vec::IntoIter<E>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.into_iter()
    }
}
