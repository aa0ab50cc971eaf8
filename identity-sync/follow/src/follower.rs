//! List and watch over ranges of keys, with all the ways in which that breaks.

mod listing;
mod range;
mod watching;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use mesh_backoff::{Backoff, Policy};

use crate::{
    machine::{Action, Header, Input, KeyValue, Machine, RequestId, WatchId},
    status::{ConnectionPhase, Failure, Status},
};
use range::{Listing, Range, RangeState};
pub use range::{RangeConfig, RangeId};

/// What a follower tells. A range's content is `Begin`, `Put`s, `Done`, and then `Put`s and `Delete`s; whatever was there
/// before `Begin` and was not put again when `Done` comes is gone. `Begin` may come again before `Done`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection stands and was answered.
    Connected,
    /// The connection is gone; what was told stays true as far as anybody knows.
    Disconnected,
    /// What was told before is of another history than what is told from here on: everything is listed anew.
    NewHistory,
    /// It is the history that it was before the connection broke: what was listed goes on from there.
    Resumed,
    /// All keys of the range follow.
    Begin(RangeId),
    /// A key has this value.
    Put(RangeId, KeyValue),
    /// A key is gone, in this revision.
    Delete(RangeId, Vec<u8>, i64),
    /// A key is there, but its value is larger than what is accepted.
    TooLarge(RangeId, Vec<u8>),
    /// That were all keys, as of the revision.
    Done(RangeId, i64),
}

/// What its owner may tell a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Break the connection, if one stands, and make another at once: there are new credentials, say.
    Reconnect,
}

/// Follows ranges of one etcd.
///
/// The *head* ranges are listed on each connection. What they hold names the history: the etcd cluster's id, the
/// revisions in which the head's keys were created, and the values of those that are there for that. In the same history the other ranges go on watching where they were;
/// in another one everything is listed anew, because revisions of two histories cannot be compared.
#[derive(Debug)]
pub struct Follower {
    connection: Connection,
    ranges: Vec<Range>,
    /// The etcd cluster's id on this connection.
    cluster_id: Option<u64>,
    /// What the ranges' positions belong to.
    history: Option<History>,
    /// The create revisions of the head's keys, as of this connection.
    head_keys: BTreeMap<Vec<u8>, KeyName>,
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
    /// One stands; the head is being listed.
    Checking,
    /// One stands and the history is known.
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct History {
    cluster_id: u64,
    head_keys: BTreeMap<Vec<u8>, KeyName>,
}

/// What a key of the head contributes to its history's name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyName {
    created: i64,
    value: Option<Vec<u8>>,
}

impl KeyName {
    fn new(range: &RangeConfig, kv: &KeyValue) -> Self {
        let value = range.names_history.then(|| kv.value.clone());
        Self { created: kv.create_revision, value }
    }
}

// === impl Follower ===

impl Follower {
    /// Follows `head` at once, and other ranges once [`Follower::follow`] names them. `seed` is for the jitter.
    pub fn new(head: Vec<RangeConfig>, seed: u64, now: Instant) -> Self {
        Self {
            connection: Connection::Waiting(now),
            ranges: head.into_iter().map(|config| Range::new(config, true)).collect(),
            cluster_id: None,
            history: None,
            head_keys: BTreeMap::new(),
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
            } else if let RangeState::Watching(watch) = range.state {
                self.actions.push_back(Action::CancelWatch(watch));
            }
        }
        for config in configs {
            if !kept.iter().any(|range| range.config == config) {
                kept.push(Range::new(config, false));
            }
        }
        self.ranges = kept;
        if self.connection == Connection::Open {
            self.begin_all();
        }
    }

    /// Lists a range anew, although nothing says that it is needed.
    pub fn relist(&mut self, id: RangeId) {
        let Some(index) = self.ranges.iter().position(|range| range.config.id == id) else {
            return;
        };
        let Some(range) = self.ranges.get_mut(index) else { return };
        match &range.state {
            RangeState::Listing(_) => range.again = true,
            RangeState::Watching(watch) => {
                self.actions.push_back(Action::CancelWatch(*watch));
                range.state = RangeState::Idle;
                self.list(index);
            }
            RangeState::Idle => range.position = None,
        }
    }

    /// [`Command::Reconnect`].
    pub(crate) fn reconnect(&mut self, now: Instant) {
        if self.connection != Connection::Connecting {
            self.drop_connection();
            self.connection = Connection::Waiting(now);
        }
    }

    /// The revision of a range's last list, once it is complete and being watched.
    pub(crate) fn listed_at(&self, id: RangeId) -> Option<i64> {
        let range = self.ranges.iter().find(|range| range.config.id == id)?;
        matches!(range.state, RangeState::Watching(_)).then_some(range.listed).flatten()
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
        for range in &mut self.ranges {
            range.state = RangeState::Idle;
            range.again = false;
        }
        if self.connection == Connection::Open
            && let Some(cluster_id) = self.cluster_id
        {
            self.history =
                Some(History { cluster_id, head_keys: std::mem::take(&mut self.head_keys) });
        }
        self.cluster_id = None;
        self.head_keys.clear();
        if self.status.connected {
            self.status.connected = false;
            self.status.reconnects += 1;
            self.events.push(Event::Disconnected);
        }
    }

    fn wait(&mut self, now: Instant, failure: Failure) {
        // The builder sets no limit on the number of tries, so there always is a next one.
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
                "the etcd names no cluster id in its answer",
            ));
        }
        if known != header.cluster_id {
            let reason =
                format!("the etcd cluster id changed from {known:x} to {:x}", header.cluster_id);
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

    fn list(&mut self, index: usize) {
        let request = RequestId(self.id());
        let Some(range) = self.ranges.get_mut(index) else { return };
        let listing = Listing {
            request,
            from: range.config.span.start.clone(),
            limit: range.config.page,
            revision: None,
            naming: false,
        };
        range.again = false;
        range.ask(listing, &mut self.actions);
    }

    fn watch(&mut self, index: usize) {
        let watch = WatchId(i64::try_from(self.id()).unwrap_or(i64::MAX));
        let Some(range) = self.ranges.get_mut(index) else { return };
        let Some(position) = range.position else { return };
        let from = position.revision + i64::from(position.complete);
        range.state = RangeState::Watching(watch);
        self.actions.push_back(Action::Watch { watch, span: range.config.span.clone(), from });
    }

    /// Begins what is not going on yet: in the known history with a watch, otherwise with a list.
    fn begin_all(&mut self) {
        for index in 0..self.ranges.len() {
            match self.ranges.get(index) {
                Some(range) if range.state != RangeState::Idle => {}
                Some(range) if range.position.is_some() && !range.head => self.watch(index),
                _ => self.list(index),
            }
        }
    }

    /// The head is listed: decides whether the positions still mean anything.
    fn check_history(&mut self, revision: i64) {
        let same = self.history.as_ref().is_some_and(|history| {
            Some(history.cluster_id) == self.cluster_id && history.head_keys == self.head_keys
        });
        let data = || self.ranges.iter().filter(|range| !range.head);
        // A position ahead of the store is of a history that was cut off and begun again.
        let ahead = data().filter_map(|range| range.position).any(|p| p.revision > revision);
        if !same || ahead {
            if self.history.is_some() {
                self.events.push(Event::NewHistory);
            }
            self.ranges.iter_mut().filter(|range| !range.head).for_each(|r| r.position = None);
        } else {
            self.events.push(Event::Resumed);
        }
        self.connection = Connection::Open;
        self.backoff.reset();
        self.begin_all();
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
                    for index in 0..self.ranges.len() {
                        if self.ranges.get(index).is_some_and(|range| range.head) {
                            self.list(index);
                        }
                    }
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
            Input::Events { watch, header, events } => self.watch_events(watch, header, events),
            Input::Progress { watch, header } => self.progress(watch, header),
            Input::Canceled { watch, compacted, reason } => self.canceled(watch, compacted, reason),
        };
        if let Err(failure) = result {
            self.give_up(now, failure);
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Action> {
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
            Connection::Connecting | Connection::Checking | Connection::Open => None,
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
