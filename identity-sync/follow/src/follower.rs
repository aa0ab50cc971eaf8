//! List and watch over ranges of keys, with all the ways in which that fails.

mod head;
mod listing;
mod pace;
mod range;
mod schedule;
mod watching;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use mesh_backoff::{Backoff, Policy};

use crate::{
    machine::{Action, Header, Input, KeyValue, Machine, RequestId},
    status::{ConnectionPhase, Failure, Status},
};
use head::Head;
use range::{Range, RangeState, Watching};
pub use range::{RangeConfig, RangeId};

/// What a follower reports. A range's content is `Begin`, `Put`s, `Done`, and then `Put`s and `Delete`s; a key from
/// before `Begin` that was not put again when `Done` comes is gone. `Begin` may come again before `Done`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a connection, and the etcd answered.
    Connected,
    /// The connection is lost; what was reported stays valid as far as is known.
    Disconnected,
    /// Earlier events are of another history than what follows: everything is listed again.
    NewHistory,
    /// It is the history from before the connection was lost: what was listed continues from there.
    Resumed,
    /// All keys of the range follow.
    Begin(RangeId),
    /// A key has this value.
    Put(RangeId, KeyValue),
    /// A key is gone, in this revision.
    Delete(RangeId, Vec<u8>, i64),
    /// A key exists, but its value is larger than what is accepted.
    TooLarge(RangeId, Vec<u8>),
    /// Changes of the range may have been missed before the list whose [`Event::Done`] follows.
    Gap(RangeId),
    /// These were all keys, as of the revision.
    Done(RangeId, i64),
    /// The answer to [`Follower::look`]: the keys that the range has as of the revision, without their values.
    Seen(RangeId, Vec<KeyValue>, i64),
}

/// Commands of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Break the connection, if there is one, and make another immediately: because of new credentials, for example.
    Reconnect,
}

/// Follows ranges of one etcd.
///
/// The *head* ranges are listed on each connection. Their content names the history: the etcd cluster's ID, the
/// revisions in which the head's keys were created, and the values of the keys that exist for that purpose. In the same
/// history the other ranges go on watching from where they were; in another one everything is listed again, because
/// revisions of two histories cannot be compared.
///
/// Of the other ranges one is listed at a time: so no more than one page of them is in memory.
#[derive(Debug)]
pub struct Follower {
    connection: Connection,
    ranges: Vec<Range>,
    /// The etcd cluster's id on this connection.
    cluster_id: Option<u64>,
    /// The history of the ranges' positions.
    history: Option<History>,
    /// The head, as of this connection.
    head: Head,
    /// Looks at ranges that are not answered yet.
    looks: BTreeMap<RequestId, RangeId>,
    backoff: Backoff,
    next_id: u64,
    actions: VecDeque<Action>,
    events: Vec<Event>,
    status: Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    /// None, and none is tried before then.
    Waiting(Instant),
    /// One is being made.
    Connecting,
    /// There is one; the head is being listed.
    Checking,
    /// There is one and the history is known.
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct History {
    cluster_id: u64,
    head: Head,
}

// === impl Follower ===

impl Follower {
    /// Follows `head` immediately, and other ranges once [`Follower::follow`] names them. `seed` is for the jitter.
    pub fn new(head: Vec<RangeConfig>, seed: u64, now: Instant) -> Self {
        Self {
            connection: Connection::Waiting(now),
            ranges: head.into_iter().map(|config| Range::new(config, true)).collect(),
            cluster_id: None,
            history: None,
            head: Head::default(),
            looks: BTreeMap::new(),
            backoff: Backoff::new(Policy::CONNECTION, seed),
            next_id: 0,
            actions: VecDeque::new(),
            events: Vec::new(),
            status: Status::default(),
        }
    }

    /// Replaces the ranges beside the head. One that is followed already goes on undisturbed.
    pub fn follow(&mut self, configs: Vec<RangeConfig>) {
        let mut kept = Vec::new();
        for range in std::mem::take(&mut self.ranges) {
            if range.head || configs.contains(&range.config) {
                kept.push(range);
            } else if let RangeState::Watching(Watching { watch, .. }) = range.state {
                self.actions.push_back(Action::CancelWatch(watch));
            }
        }
        for config in configs {
            if !kept.iter().any(|range| range.config == config) {
                kept.push(Range::new(config, false));
            }
        }
        self.ranges = kept;
    }

    /// Lists a range again, as soon as that may be. It is watched until then.
    pub fn relist(&mut self, id: RangeId) {
        let Some(range) = self.ranges.iter_mut().find(|range| range.config.id == id) else {
            return;
        };
        match &range.state {
            RangeState::Listing(_) | RangeState::Watching(_) => range.again = true,
            RangeState::Idle => range.lose_position(),
        }
    }

    /// Events of a range from a revision on are to come once more, over the next connection.
    pub(crate) fn rewind(&mut self, id: RangeId, revision: i64) {
        let ranges = self.ranges.iter_mut().filter(|range| range.config.id == id);
        ranges.for_each(|range| range.rewind(revision));
    }

    /// Looks at which keys a range of the head has. The answer is [`Event::Seen`]; none comes if the connection breaks.
    pub fn look(&mut self, id: RangeId) {
        if !matches!(self.connection, Connection::Checking | Connection::Open) {
            return;
        }
        let request = RequestId(self.id());
        let Some(range) = self.ranges.iter().find(|range| range.config.id == id) else { return };
        self.looks.insert(request, id);
        self.actions.push_back(Action::List {
            request,
            span: range.config.span.clone(),
            limit: i64::try_from(head::MAX_KEYS).unwrap_or(i64::MAX),
            revision: None,
            keys_only: true,
        });
    }

    /// [`Command::Reconnect`].
    pub(crate) fn reconnect(&mut self, now: Instant) {
        if self.connection != Connection::Connecting {
            self.drop_connection();
            self.connection = Connection::Waiting(now);
        }
    }

    /// The revision of a range's last list, if it is complete, being watched, and not to be listed again.
    pub(crate) fn listed_at(&self, id: RangeId) -> Option<i64> {
        let range = self.ranges.iter().find(|range| range.config.id == id)?;
        let watched = matches!(range.state, RangeState::Watching(_)) && !range.again;
        watched.then_some(range.listed).flatten()
    }

    pub(crate) fn status_mut(&mut self) -> &mut Status {
        &mut self.status
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Ends the connection for a reason of ours.
    pub(crate) fn give_up(&mut self, now: Instant, failure: Failure) {
        self.drop_connection();
        self.wait(now, failure);
    }

    fn drop_connection(&mut self) {
        if matches!(self.connection, Connection::Checking | Connection::Open) {
            self.actions.clear();
            self.actions.push_back(Action::Disconnect);
            self.disconnected();
        }
    }

    /// Forgets what belonged to the connection. Positions stay.
    fn disconnected(&mut self) {
        self.ranges.iter_mut().for_each(Range::disconnected);
        self.looks.clear();
        let head = std::mem::take(&mut self.head);
        if self.connection == Connection::Open
            && let Some(cluster_id) = self.cluster_id
        {
            self.history = Some(History { cluster_id, head });
        }
        self.cluster_id = None;
        if self.status.connected {
            self.status.connected = false;
            self.status.reconnects += 1;
            self.events.push(Event::Disconnected);
        }
    }

    fn wait(&mut self, now: Instant, failure: Failure) {
        let pause = self.backoff.failed();
        self.connection = Connection::Waiting(now + pause);
        self.status.failure = Some(failure);
    }

    /// Checks that an answer is of this connection's etcd.
    fn check_header(&mut self, header: Header) -> Result<(), Failure> {
        let known = *self.cluster_id.get_or_insert(header.cluster_id);
        if header.cluster_id == 0 {
            return Err(Failure::new(
                ConnectionPhase::Authenticated,
                "the etcd names no cluster ID in its answer",
            ));
        }
        if known != header.cluster_id {
            let reason =
                format!("the etcd cluster ID changed from {known:x} to {:x}", header.cluster_id);
            return Err(Failure::new(ConnectionPhase::Authenticated, reason));
        }
        if !self.status.connected {
            self.status.connected = true;
            self.status.failure = None;
            self.status.revision = header.revision;
            self.events.push(Event::Connected);
        }
        self.status.etcd_cluster_id = Some(header.cluster_id);
        self.status.revision = self.status.revision.max(header.revision);
        Ok(())
    }

    /// The head is listed: decides whether the positions still mean anything.
    fn check_history(&mut self, revision: i64) {
        let same = self.history.as_ref().is_some_and(|history| {
            Some(history.cluster_id) == self.cluster_id && history.head == self.head
        });
        let data = || self.ranges.iter().filter(|range| !range.head);
        // A position ahead of the store is of a history that was cut off and begun again.
        let ahead = data().filter_map(|range| range.position).any(|p| p.revision > revision);
        if !same || ahead {
            if self.history.is_some() {
                self.events.push(Event::NewHistory);
            }
            self.ranges.iter_mut().for_each(Range::new_history);
        } else {
            self.events.push(Event::Resumed);
        }
        self.connection = Connection::Open;
    }

    /// A connection that was of use is tried again soon when it breaks: one on which all ranges are watched.
    fn count_as_of_use(&mut self) {
        if self.connection == Connection::Open && self.ranges.iter().all(Range::is_watched) {
            self.backoff.reset();
        }
    }
}

impl Machine for Follower {
    type Event = Event;
    type Command = Command;

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Reconnect => self.reconnect(now),
        }
    }

    fn handle(&mut self, now: Instant, input: Input) {
        let result = match input {
            Input::Connected => {
                if self.connection == Connection::Connecting {
                    self.connection = Connection::Checking;
                }
                Ok(())
            }
            Input::Disconnected(failure) => {
                if !matches!(self.connection, Connection::Waiting(_)) {
                    self.actions.clear();
                    self.disconnected();
                    self.wait(now, failure);
                }
                Ok(())
            }
            Input::Page { request, header, keys, more } => self.page(request, header, keys, more),
            Input::ListFailed { request, error } => self.list_failed(request, error),
            Input::Watching(watch) => {
                self.watch_begun(watch);
                Ok(())
            }
            Input::Events { watch, header, events } => self.watch_events(watch, header, events),
            Input::Progress { watch, header } => self.progress(watch, header),
            Input::Canceled { watch, compacted, reason } => self.canceled(watch, compacted, reason),
        };
        match result {
            Ok(()) => {
                self.advance(now);
                self.count_as_of_use();
            }
            Err(failure) => self.give_up(now, failure),
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.actions.is_empty() {
            self.advance(now);
        }
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        match self.connection {
            Connection::Waiting(until) if until <= now => {
                self.connection = Connection::Connecting;
                Some(Action::Connect)
            }
            _ => None,
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        match self.connection {
            Connection::Waiting(until) => Some(until),
            Connection::Connecting | Connection::Checking | Connection::Open => self.next_list(),
        }
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn status(&self) -> &Status {
        &self.status
    }
}

#[cfg(test)]
mod tests;
