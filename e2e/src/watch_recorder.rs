//! Records the requests, responses and events of a follower, and checks them as a reader would.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Instant,
};

use mesh_chaos::guarantees::{self, ReferenceModel, Response, Watch};
use mesh_follow::{
    Action, Command, Event, Follower, Input, KeyRange, Machine, RangeId, Status, WatchEvent,
    WatchId,
};

/// A recorded step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A watch was requested.
    Asked(WatchId, KeyRange, i64),
    /// The etcd responded.
    Came(WatchId, Response),
    /// A batch of events for the reader.
    Reported(Vec<Event>),
}

/// A follower whose steps are recorded.
#[derive(Debug)]
pub struct Recording {
    follower: Follower,
    entries: Arc<Mutex<Vec<Entry>>>,
}

/// The state of a reader of one range.
#[derive(Debug, Default)]
struct Reader {
    keys: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    round: u32,
    listing: bool,
    /// The last revision that it received.
    at: i64,
    /// What it received over this connection.
    seen: BTreeSet<(i64, Vec<u8>)>,
}

// === impl Recording ===

impl Recording {
    /// Records a follower from now on.
    pub fn new(follower: Follower) -> (Self, Arc<Mutex<Vec<Entry>>>) {
        let entries = Arc::new(Mutex::new(Vec::new()));
        (Self { follower, entries: Arc::clone(&entries) }, entries)
    }

    fn note(&self, entry: Entry) {
        self.entries.lock().unwrap().push(entry);
    }
}

impl Machine for Recording {
    type Event = Event;
    type Command = Command;

    fn handle(&mut self, now: Instant, input: Input) {
        match &input {
            Input::Events { watch, events, .. } => {
                let events = events.iter().map(event).collect();
                self.note(Entry::Came(*watch, Response::Events(events)));
            }
            Input::Progress { watch, header } => {
                self.note(Entry::Came(*watch, Response::Progress(header.revision)));
            }
            Input::Canceled { watch, compacted: true, .. } => {
                self.note(Entry::Came(*watch, Response::Compacted(0)));
            }
            _ => {}
        }
        self.follower.handle(now, input);
    }

    fn command(&mut self, now: Instant, command: Command) {
        self.follower.command(now, command);
    }

    fn poll(&mut self, now: Instant) -> Option<Action> {
        let action = self.follower.poll(now);
        if let Some(Action::Watch { watch, span, from }) = &action {
            self.note(Entry::Asked(*watch, span.clone(), *from));
        }
        action
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.follower.next_timeout()
    }

    fn take_events(&mut self) -> Vec<Event> {
        let events = self.follower.take_events();
        if !events.is_empty() {
            self.note(Entry::Reported(events.clone()));
        }
        events
    }

    fn status(&self) -> &Status {
        self.follower.status()
    }
}

fn event(event: &WatchEvent) -> guarantees::Event {
    match event {
        WatchEvent::Put(kv) => guarantees::Event {
            key: kv.key.clone(),
            value: Some(kv.value.clone()),
            revision: kv.mod_revision,
            created: kv.create_revision == kv.mod_revision,
            previous: None,
        },
        WatchEvent::Delete { key, mod_revision } => guarantees::Event {
            key: key.clone(),
            value: None,
            revision: *mod_revision,
            created: false,
            previous: None,
        },
    }
}

/// The watches of a key range, with their responses.
pub fn watches(entries: &[Entry], span: &KeyRange) -> Vec<Watch> {
    let mut watches = BTreeMap::new();
    for entry in entries {
        match entry {
            Entry::Asked(id, asked, from) if asked == span => {
                let watch = Watch {
                    name: format!("watch {} from revision {from}", id.0),
                    start: span.start.clone(),
                    end: span.end.clone(),
                    from: *from,
                    previous: false,
                    responses: Vec::new(),
                };
                watches.insert(*id, watch);
            }
            Entry::Came(id, response) => {
                if let Some(watch) = watches.get_mut(id) {
                    watch.responses.push(response.clone());
                }
            }
            Entry::Asked(..) | Entry::Reported(_) => {}
        }
    }
    watches.into_values().collect()
}

/// Processes the events of a range like a reader, and checks them: revisions ascend, no change comes twice over one
/// connection, and after each list and each batch the reader has what the etcd had at one revision. Returns the last of
/// these revisions.
pub fn read(
    entries: &[Entry],
    range: RangeId,
    span: &KeyRange,
    reference: &ReferenceModel,
) -> Result<i64, String> {
    let mut reader = Reader::default();
    let batches = entries.iter().filter_map(|entry| match entry {
        Entry::Reported(events) => Some(events),
        _ => None,
    });
    for batch in batches {
        let mut changed = false;
        for event in batch {
            changed |= reader.take(event, range)?;
        }
        if changed && !reader.listing {
            reader.compare(span, reference)?;
        }
    }
    Ok(reader.at)
}

// === impl Reader ===

impl Reader {
    /// Processes one event. Returns whether it changed the state.
    fn take(&mut self, event: &Event, mine: RangeId) -> Result<bool, String> {
        match event {
            Event::NewHistory => return Err("there is only one history".into()),
            // The last revision may come again, because its other changes may still have been missing.
            Event::Disconnected => self.seen.clear(),
            Event::Begin(range) if *range == mine => {
                (self.round, self.listing) = (self.round + 1, true);
            }
            Event::Put(range, kv) if *range == mine => {
                if !self.listing {
                    self.received(kv.mod_revision, &kv.key)?;
                }
                self.keys.insert(kv.key.clone(), (kv.value.clone(), self.round));
                return Ok(true);
            }
            Event::Delete(range, key, revision) if *range == mine => {
                self.received(*revision, key)?;
                self.keys.remove(key);
                return Ok(true);
            }
            Event::Done(range, revision) if *range == mine => {
                let round = self.round;
                self.keys.retain(|_, (_, last)| *last == round);
                (self.listing, self.at) = (false, *revision);
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    fn received(&mut self, revision: i64, key: &[u8]) -> Result<(), String> {
        let shown = String::from_utf8_lossy(key);
        if revision < self.at {
            return Err(format!("{shown} of revision {revision} after {}", self.at));
        }
        if !self.seen.insert((revision, key.to_vec())) {
            return Err(format!("{shown} of revision {revision} twice"));
        }
        self.at = revision;
        Ok(())
    }

    fn compare(&self, span: &KeyRange, reference: &ReferenceModel) -> Result<(), String> {
        let mut there = reference.at(self.at);
        there.retain(|key, _| span.contains(key));
        let same = there.len() == self.keys.len()
            && there
                .iter()
                .zip(&self.keys)
                .all(|((key, stored), (mine, (value, _)))| (key, &stored.value) == (mine, value));
        if same {
            return Ok(());
        }
        let show = |key: &Vec<u8>, value: &Vec<u8>| {
            format!("{} = {}", String::from_utf8_lossy(key), String::from_utf8_lossy(value))
        };
        let has: BTreeSet<String> = self.keys.iter().map(|(k, (v, _))| show(k, v)).collect();
        let should: BTreeSet<String> = there.iter().map(|(k, s)| show(k, &s.value)).collect();
        let (more, less) = (has.difference(&should), should.difference(&has));
        let [more, less] = [more.collect::<Vec<_>>(), less.collect()];
        Err(format!("at revision {} a reader has {more:?} and lacks {less:?}", self.at))
    }
}

#[cfg(test)]
mod tests {
    use mesh_chaos::guarantees::Stored;
    use mesh_follow::KeyValue;

    use super::*;

    const DATA: RangeId = RangeId(4);

    fn keys<const N: usize>(keys: [(&str, &str, i64, i64); N]) -> BTreeMap<Vec<u8>, Stored> {
        let stored = |value: &str, created, modified| Stored {
            value: value.into(),
            created,
            modified,
            version: 0,
        };
        keys.into_iter().map(|(key, value, c, m)| (key.into(), stored(value, c, m))).collect()
    }

    /// Revision 2 puts a, 3 changes a and puts b, 4 removes a.
    fn reference() -> ReferenceModel {
        let mut reference = ReferenceModel::new(1, keys([]));
        reference.next(keys([("a", "1", 2, 2)]));
        reference.next(keys([("a", "2", 2, 3), ("b", "1", 3, 3)]));
        reference.next(keys([("b", "1", 3, 3)]));
        reference
    }

    fn put(key: &str, value: &str, revision: i64) -> Event {
        let kv = KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: revision,
            mod_revision: revision,
        };
        Event::Put(DATA, kv)
    }

    fn listed() -> Vec<Event> {
        vec![Event::Connected, Event::Begin(DATA), put("a", "1", 2), Event::Done(DATA, 2)]
    }

    fn third() -> Vec<Event> {
        vec![put("a", "2", 3), put("b", "1", 3)]
    }

    fn fourth() -> Vec<Event> {
        vec![Event::Delete(DATA, b"a".to_vec(), 4)]
    }

    fn judge(batches: &[Vec<Event>]) -> Result<i64, String> {
        let entries: Vec<Entry> = batches.iter().cloned().map(Entry::Reported).collect();
        read(&entries, DATA, &KeyRange::between("a", "b"), &reference())
    }

    #[test]
    fn a_reader_that_received_everything_passes() {
        assert_eq!(judge(&[listed(), third(), fourth()]), Ok(4));
        // After a reconnect: the last revision again, or a new list.
        let broken = vec![Event::Disconnected, Event::Connected, Event::Resumed];
        assert_eq!(judge(&[listed(), third(), broken.clone(), third(), fourth()]), Ok(4));
        let again =
            vec![Event::Begin(DATA), put("a", "2", 3), put("b", "1", 3), Event::Done(DATA, 3)];
        assert_eq!(judge(&[listed(), broken, again, fourth()]), Ok(4));
    }

    #[test]
    fn wrong_events_are_found() {
        let split: Vec<Vec<Event>> = third().into_iter().map(|event| vec![event]).collect();
        for (batches, complaint) in [
            (vec![listed(), split[0].clone(), split[1].clone()], "lacks"),
            (vec![listed(), fourth()], "lacks"),
            (vec![listed(), third(), vec![put("a", "1", 2)]], "after 3"),
            (vec![listed(), third(), third()], "twice"),
            (vec![listed(), vec![put("a", "3", 3), put("b", "1", 3)]], "a reader has"),
            (vec![listed(), vec![Event::NewHistory]], "only one history"),
            (vec![vec![Event::Begin(DATA), Event::Done(DATA, 2)]], "lacks"),
        ] {
            let found = judge(&batches).unwrap_err();
            assert!(found.contains(complaint), "{complaint}: {found}");
        }
    }

    #[test]
    fn watches_are_distinguished() {
        let (mine, other) = (KeyRange::prefix("a"), KeyRange::prefix("b"));
        let entries = [
            Entry::Asked(WatchId(1), mine.clone(), 5),
            Entry::Asked(WatchId(2), other, 5),
            Entry::Came(WatchId(2), Response::Progress(6)),
            Entry::Came(WatchId(1), Response::Progress(7)),
        ];
        let found = watches(&entries, &mine);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].from, &found[0].responses[..]), (5, &[Response::Progress(7)][..]));
    }
}
