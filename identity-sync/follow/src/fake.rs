//! An etcd made of a list of changes, to run the state machines against.
//!
//! It answers as the real one does in what matters here: pages at one revision, watches from a revision on, all changes
//! of one revision together unless fragmented, compaction, and a history that may begin anew.

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

/// A change: the revision, the key, and the value unless it was removed.
type Change = (i64, Vec<u8>, Option<Vec<u8>>);

pub(crate) struct FakeEtcd {
    pub(crate) cluster_id: u64,
    pub(crate) revision: i64,
    compacted: i64,
    log: Vec<Change>,
    /// Pages with more bytes are too large for the reader.
    pub(crate) page_bytes: usize,
    /// Delivers a revision's changes one by one.
    pub(crate) fragments: bool,
    pub(crate) lists: usize,
    connected: bool,
    requests: VecDeque<(RequestId, KeyRange, i64, Option<i64>, bool)>,
    watches: BTreeMap<i64, (KeyRange, i64, usize)>,
}

impl FakeEtcd {
    pub(crate) fn new(cluster_id: u64) -> Self {
        Self {
            cluster_id,
            revision: 1,
            compacted: 0,
            log: Vec::new(),
            page_bytes: usize::MAX,
            fragments: false,
            lists: 0,
            connected: false,
            requests: VecDeque::new(),
            watches: BTreeMap::new(),
        }
    }

    /// Puts and removes keys in one revision.
    pub(crate) fn change(&mut self, changes: &[(&str, Option<&str>)]) {
        self.revision += 1;
        for (key, value) in changes {
            if value.is_some() || self.get(key.as_bytes(), self.revision - 1).is_some() {
                self.log.push((
                    self.revision,
                    key.as_bytes().to_vec(),
                    value.map(|v| v.as_bytes().to_vec()),
                ));
            }
        }
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.change(&[(key, Some(value))]);
    }

    /// Puts a value that is no text.
    pub(crate) fn put_bytes(&mut self, key: &str, value: &[u8]) {
        self.revision += 1;
        self.log.push((self.revision, key.as_bytes().to_vec(), Some(value.to_vec())));
    }

    pub(crate) fn delete(&mut self, key: &str) {
        self.change(&[(key, None)]);
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
    }

    /// Begins a new history; the connection breaks with the old one.
    pub(crate) fn restart(&mut self, cluster_id: u64) {
        let page_bytes = self.page_bytes;
        *self = Self { page_bytes, lists: self.lists, ..Self::new(cluster_id) };
    }

    fn get(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let mut found: Option<KeyValue> = None;
        for (at, changed, value) in
            self.log.iter().filter(|(at, changed, _)| *at <= revision && changed == key)
        {
            found = value.as_ref().map(|value| KeyValue {
                key: changed.clone(),
                value: value.clone(),
                create_revision: found.as_ref().map_or(*at, |before| before.create_revision),
                mod_revision: *at,
            });
        }
        found
    }

    pub(crate) fn all(&self, span: &KeyRange, revision: i64) -> Vec<KeyValue> {
        let mut keys: Vec<&Vec<u8>> =
            self.log.iter().map(|(_, key, _)| key).filter(|k| span.contains(k)).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter().filter_map(|key| self.get(key, revision)).collect()
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
                    self.connected = true;
                    machine.handle(now, Input::Connected);
                }
                Action::List { request, span, limit, revision, keys_only } => {
                    self.requests.push_back((request, span, limit, revision, keys_only));
                }
                Action::Watch { watch, span, from } => {
                    self.watches.insert(watch.0, (span, from, 0));
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
        let all = self.requests.len() + due.len();
        if all == 0 {
            return false;
        }
        let choice = choice % all;
        if choice < self.requests.len() {
            let request = self.requests.remove(choice).unwrap();
            let input = self.list(request);
            machine.handle(now, input);
        } else {
            self.deliver(machine, now, due[choice - self.requests.len()]);
        }
        self.take_actions(machine, now);
        true
    }

    fn list(
        &mut self,
        (request, span, limit, at, keys_only): (RequestId, KeyRange, i64, Option<i64>, bool),
    ) -> Input {
        self.lists += 1;
        if at.is_some_and(|at| at < self.compacted) {
            return Input::ListFailed { request, error: ListError::Compacted };
        }
        let mut keys = self.all(&span, at.unwrap_or(self.revision));
        let limit = usize::try_from(limit).unwrap();
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
        let revision = self
            .log
            .iter()
            .map(|(at, key, _)| (*at, span.contains(key)))
            .find(|(at, mine)| *at >= from && *mine);
        let Some((revision, _)) = revision else {
            self.watches.insert(id, (span, self.revision + 1, 0));
            machine.handle(now, Input::Progress { watch, header: self.header() });
            return;
        };
        let changes: Vec<&Change> =
            self.log.iter().filter(|(at, key, _)| *at == revision && span.contains(key)).collect();
        let take = if self.fragments { 1 } else { changes.len() };
        let events: Vec<WatchEvent> = changes
            .iter()
            .skip(within)
            .take(take)
            .map(|(at, key, value)| match value {
                Some(_) => WatchEvent::Put(self.get(key, *at).unwrap()),
                None => WatchEvent::Delete { key: key.clone(), mod_revision: *at },
            })
            .collect();
        let delivered = within + events.len();
        let next =
            if delivered >= changes.len() { (revision + 1, 0) } else { (revision, delivered) };
        self.watches.insert(id, (span, next.0, next.1));
        machine.handle(now, Input::Events { watch, header: self.header(), events });
    }

    /// Lets time pass in which nothing happens but what the machine does by itself, and answers that.
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

    /// Answers everything, connecting again where needed, until nothing is left to say.
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
