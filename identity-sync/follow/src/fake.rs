//! An etcd made of a list of changes, to run the state machines against.
//!
//! It answers as the real one does in what matters here: pages at one revision, watches from a revision on, all changes
//! of one revision together unless fragmented, compaction, and a new history.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    machine::{
        Action, Header, Input, KeyRange, KeyValue, ListError, Machine, RequestId, WatchEvent,
        WatchId,
    },
    status::{ConnectionPhase, Failure},
};

/// A key's state from a revision on: when it was created, and its value; `None` where it was removed.
type Version = (i64, Option<(i64, Vec<u8>)>);

/// A request for keys, and when its answer arrives.
struct Request {
    id: RequestId,
    span: KeyRange,
    limit: i64,
    revision: Option<i64>,
    keys_only: bool,
    due: Instant,
}

pub(crate) struct FakeEtcd {
    pub(crate) cluster_id: u64,
    pub(crate) revision: i64,
    compacted: i64,
    /// By key, in the order of revisions.
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
    /// The keys that each revision changed, in the order of its changes.
    log: BTreeMap<i64, Vec<Vec<u8>>>,
    /// Pages with more bytes are too large for the reader.
    pub(crate) page_bytes: usize,
    /// Delivers a revision's changes one by one.
    pub(crate) fragments: bool,
    /// Refuses everything but the head.
    pub(crate) refuses_data: bool,
    /// Lists of all kinds, look-ups of canaries included.
    pub(crate) lists: usize,
    /// First pages of lists that begin with this.
    pub(crate) counted: (Vec<u8>, usize),
    pub(crate) connections: usize,
    /// How long an answer takes to come.
    pub(crate) round_trip: Duration,
    connected: bool,
    requests: VecDeque<Request>,
    watches: BTreeMap<i64, (KeyRange, i64, usize)>,
}

impl FakeEtcd {
    pub(crate) fn new(cluster_id: u64) -> Self {
        Self {
            cluster_id,
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            log: BTreeMap::new(),
            page_bytes: usize::MAX,
            fragments: false,
            refuses_data: false,
            lists: 0,
            counted: (Vec::new(), 0),
            connections: 0,
            round_trip: Duration::ZERO,
            connected: false,
            requests: VecDeque::new(),
            watches: BTreeMap::new(),
        }
    }

    /// Puts and removes keys in one revision.
    pub(crate) fn change(&mut self, changes: &[(&str, Option<&str>)]) {
        self.revision += 1;
        for (key, value) in changes {
            self.set(key, value.map(str::as_bytes));
        }
    }

    /// Changes a key in the current revision.
    fn set(&mut self, key: &str, value: Option<&[u8]>) {
        let (key, revision) = (key.as_bytes().to_vec(), self.revision);
        let versions = self.keys.entry(key.clone()).or_default();
        let before = versions.last().and_then(|(_, value)| value.as_ref());
        if value.is_none() && before.is_none() {
            return;
        }
        let created = before.map_or(revision, |(created, _)| *created);
        versions.push((revision, value.map(|value| (created, value.to_vec()))));
        self.log.entry(revision).or_default().push(key);
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.change(&[(key, Some(value))]);
    }

    /// Puts a value that is no text.
    pub(crate) fn put_bytes(&mut self, key: &str, value: &[u8]) {
        self.revision += 1;
        self.set(key, Some(value));
    }

    pub(crate) fn delete(&mut self, key: &str) {
        self.change(&[(key, None)]);
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
    }

    /// Begins a new history; the connection breaks with the old one.
    pub(crate) fn restart(&mut self, cluster_id: u64) {
        let Self { page_bytes, lists, connections, round_trip, .. } = *self;
        let counted = std::mem::take(&mut self.counted);
        let new = Self::new(cluster_id);
        *self = Self { page_bytes, lists, connections, round_trip, counted, ..new };
    }

    /// Goes back to its state at a revision, like one that is restored from a backup: all later changes are lost.
    pub(crate) fn restore(&mut self, revision: i64) {
        self.revision = revision;
        self.log.retain(|at, _| *at <= revision);
        for versions in self.keys.values_mut() {
            versions.retain(|(at, _)| *at <= revision);
        }
        self.keys.retain(|_, versions| !versions.is_empty());
    }

    fn get(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let versions = self.keys.get(key)?;
        let (at, value) = versions.iter().rfind(|(at, _)| *at <= revision)?;
        let (created, value) = value.as_ref()?;
        Some(KeyValue {
            key: key.to_vec(),
            value: value.clone(),
            create_revision: *created,
            mod_revision: *at,
        })
    }

    pub(crate) fn all(&self, span: &KeyRange, revision: i64) -> Vec<KeyValue> {
        self.some(span, revision, usize::MAX)
    }

    fn some(&self, span: &KeyRange, revision: i64, limit: usize) -> Vec<KeyValue> {
        let keys = self.keys.range(span.start.clone()..span.end.clone());
        keys.filter_map(|(key, _)| self.get(key, revision)).take(limit).collect()
    }

    fn header(&self) -> Header {
        Header { cluster_id: self.cluster_id, revision: self.revision }
    }

    /// Breaks the connection.
    pub(crate) fn cut(&mut self, machine: &mut impl Machine, now: Instant) {
        self.connected = false;
        self.requests.clear();
        self.watches.clear();
        machine.handle(now, Input::Disconnected(Failure::new(ConnectionPhase::Tcp, "cut")));
    }

    /// Takes what the machine wants done. Nothing is answered yet.
    pub(crate) fn take_actions(&mut self, machine: &mut impl Machine, now: Instant) {
        while let Some(action) = machine.poll(now) {
            match action {
                Action::Connect => {
                    (self.connected, self.connections) = (true, self.connections + 1);
                    machine.handle(now, Input::Connected);
                }
                Action::List { request: id, span, limit, revision, keys_only } => {
                    let due = now + self.round_trip;
                    self.requests.push_back(Request { id, span, limit, revision, keys_only, due });
                }
                Action::Watch { watch, span, from } => {
                    self.watches.insert(watch.0, (span, from, 0));
                    machine.handle(now, Input::Watching(watch));
                }
                Action::CancelWatch(watch) => {
                    self.watches.remove(&watch.0);
                }
                Action::Disconnect => {
                    self.connected = false;
                    self.requests.clear();
                    self.watches.clear();
                }
            }
        }
    }

    /// Answers one thing that is due, if any: the `choice`th request, or a watch.
    pub(crate) fn answer(
        &mut self,
        machine: &mut impl Machine,
        now: Instant,
        choice: usize,
    ) -> bool {
        self.take_actions(machine, now);
        if !self.connected {
            return false;
        }
        let due: Vec<i64> = self
            .watches
            .iter()
            .filter(|(_, (_, from, _))| *from <= self.revision)
            .map(|(id, _)| *id)
            .collect();
        let answered = self.requests.iter().filter(|request| request.due <= now).count();
        let all = answered + due.len();
        if all == 0 {
            return false;
        }
        let choice = choice % all;
        if choice < answered {
            // They are asked in turn, and take equally long.
            let request = self.requests.remove(choice).unwrap();
            let input = self.list(request);
            machine.handle(now, input);
        } else {
            self.deliver(machine, now, due[choice - answered]);
        }
        self.take_actions(machine, now);
        true
    }

    fn list(&mut self, request: Request) -> Input {
        let Request { id: request, span, limit, revision: at, keys_only, .. } = request;
        self.lists += 1;
        self.counted.1 += usize::from(span.start == self.counted.0);
        if self.refuses_data && span.start.starts_with(b"cilium/state") {
            let error = ListError::Broken("etcdserver: too many requests".into());
            return Input::ListFailed { request, error };
        }
        if at.is_some_and(|at| at < self.compacted) {
            return Input::ListFailed { request, error: ListError::Compacted };
        }
        let limit = usize::try_from(limit).unwrap();
        let mut keys = self.some(&span, at.unwrap_or(self.revision), limit + 1);
        let more = keys.len() > limit;
        keys.truncate(limit);
        if keys_only {
            keys.iter_mut().for_each(|kv| kv.value.clear());
        }
        if keys.iter().map(|kv| kv.value.len()).sum::<usize>() > self.page_bytes {
            return Input::ListFailed { request, error: ListError::TooLarge };
        }
        Input::Page { request, header: self.header(), keys, more }
    }

    fn deliver(&mut self, machine: &mut impl Machine, now: Instant, id: i64) {
        let (span, from, within) = self.watches[&id].clone();
        let watch = WatchId(id);
        if from <= self.compacted {
            self.watches.remove(&id);
            machine.handle(now, Input::Canceled { watch, compacted: true, reason: String::new() });
            return;
        }
        let within_span = |keys: &[Vec<u8>]| keys.iter().any(|key| span.contains(key));
        let revision = self.log.range(from..).find(|(_, keys)| within_span(keys));
        let Some((revision, changed)) = revision.map(|(at, keys)| (*at, keys)) else {
            self.watches.insert(id, (span, self.revision + 1, 0));
            machine.handle(now, Input::Progress { watch, header: self.header() });
            return;
        };
        let changes: Vec<&Vec<u8>> = changed.iter().filter(|key| span.contains(key)).collect();
        let take = if self.fragments { 1 } else { changes.len() };
        let event = |key: &&Vec<u8>| match self.get(key, revision) {
            Some(kv) => WatchEvent::Put(kv),
            None => WatchEvent::Delete { key: (*key).clone(), mod_revision: revision },
        };
        let events: Vec<WatchEvent> = changes.iter().skip(within).take(take).map(event).collect();
        let delivered = within + events.len();
        let next =
            if delivered >= changes.len() { (revision + 1, 0) } else { (revision, delivered) };
        self.watches.insert(id, (span, next.0, next.1));
        machine.handle(now, Input::Events { watch, header: self.header(), events });
    }

    /// Whether the reader knows all that there is.
    pub(crate) fn is_known(&self) -> bool {
        let known = self.watches.values().all(|(_, from, _)| *from > self.revision);
        self.connected && self.requests.is_empty() && known
    }

    /// Lets time pass in which nothing happens except the machine's own requests, and answers them.
    pub(crate) fn pass(
        &mut self,
        machine: &mut impl Machine,
        now: &mut Instant,
        duration: Duration,
    ) {
        *now += duration;
        self.take_actions(machine, *now);
        self.settle(machine, now);
    }

    /// Answers everything, connecting again where needed, until nothing is left to report.
    pub(crate) fn settle(&mut self, machine: &mut impl Machine, now: &mut Instant) {
        for _ in 0..100_000 {
            *now += Duration::from_secs(1);
            if !self.answer(machine, *now, 0) && self.connected {
                return;
            }
        }
        panic!("never settles");
    }
}
