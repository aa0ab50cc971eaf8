use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// For each key: value, create revision, mod revision, version.
type State = BTreeMap<u8, (u8, i64, i64, i64)>;

/// The state at each revision; revision 1 has index 0.
struct Model {
    states: Vec<State>,
    compacted: i64,
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8, u8),
    PutTwo([(u8, u8); 2]),
    Compact(u8),
}

fn key(key: u8) -> Bytes {
    vec![b'k', key].into()
}

/// The keys from `first` up to `end`, without `end`.
fn span(first: u8, end: u8) -> Span {
    Span::new(key(first), key(end))
}

fn step() -> impl Strategy<Value = Step> {
    let small = 0..8_u8;
    prop_oneof![
        5 => (small.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (small.clone(), small.clone()).prop_map(|(first, end)| Step::Delete(first, end)),
        2 => [(small.clone(), any::<u8>()), (small, any::<u8>())].prop_map(Step::PutTwo),
        1 => (0..12_u8).prop_map(Step::Compact),
    ]
}

impl Model {
    fn put(&self, pairs: &[(u8, u8)]) -> State {
        let mut state = self.states.last().unwrap().clone();
        let revision = self.states.len() as i64 + 1;
        for &(key, value) in pairs {
            let (created, version) = state
                .get(&key)
                .map_or((revision, 1), |(_, created, _, version)| (*created, version + 1));
            state.insert(key, (value, created, revision, version));
        }
        state
    }
}

fn entries(state: &State, first: u8, end: u8) -> Vec<Entry> {
    let within = state.iter().filter(|(key, _)| (first..end).contains(*key));
    let entry =
        |(k, (value, create_revision, mod_revision, version)): (&u8, &(u8, i64, i64, i64))| Entry {
            key: key(*k),
            value: vec![*value].into(),
            create_revision: *create_revision,
            mod_revision: *mod_revision,
            version: *version,
        };
    within.map(entry).collect()
}

proptest! {
    /// Compares the store with a model that keeps every state whole.
    #[test]
    fn every_state_since_the_compaction_is_read_and_delivered(steps in prop::collection::vec(step(), 1..60), (first, end, limit) in (0..8_u8, 0..9_u8, 1..5_usize)) {
        let mut store = Store::default();
        let mut model = Model { states: vec![State::new()], compacted: 0 };
        for step in steps {
            let put = |(k, value): (u8, u8)| Write::Put(key(k), vec![value].into());
            match step {
                Step::Put(k, value) => {
                    store.write(&[put((k, value))]).unwrap();
                    model.states.push(model.put(&[(k, value)]));
                }
                Step::PutTwo(pairs) => {
                    let written = store.write(&pairs.map(put));
                    if pairs[0].0 == pairs[1].0 {
                        prop_assert_eq!(written, Err(StoreError::Duplicate));
                    } else {
                        model.states.push(model.put(&pairs));
                    }
                }
                Step::Delete(from, to) => {
                    let mut state = model.states.last().unwrap().clone();
                    let before = state.len();
                    state.retain(|k, _| !(from..to).contains(k));
                    let gone = before - state.len();
                    prop_assert_eq!(store.write(&[Write::Delete(span(from, to))]), Ok(vec![gone]));
                    if gone > 0 {
                        model.states.push(state);
                    }
                }
                Step::Compact(back) => {
                    let revision = model.states.len() as i64 - i64::from(back) + 2;
                    let expected = match revision {
                        _ if revision > model.states.len() as i64 => Err(StoreError::Future),
                        _ if revision <= model.compacted => Err(StoreError::Compacted),
                        _ => {
                            model.compacted = revision;
                            Ok(())
                        }
                    };
                    prop_assert_eq!(store.compact(revision), expected);
                }
            }
        }
        prop_assert_eq!((store.revision(), store.compacted()), (model.states.len() as i64, model.compacted));
        for revision in 1..=store.revision() {
            let read = store.range(&span(first, end), Some(revision), Some(limit));
            let position = store.position_of(revision);
            if revision < model.compacted {
                prop_assert_eq!(read, Err(StoreError::Compacted));
                prop_assert_eq!(position, Err(StoreError::Compacted));
                continue;
            }
            let state = |revision: i64| &model.states[usize::try_from(revision).unwrap() - 1];
            let all = entries(state(revision), first, end);
            let (count, more) = (all.len() as i64, all.len() > limit);
            let page = Page { entries: all.into_iter().take(limit).collect(), more, count };
            prop_assert_eq!(read, Ok(page));
            // The reported changes since a revision are the differences between successive states.
            let mut expected = Vec::new();
            for at in revision.max(2)..=store.revision() {
                let (before, after) = (state(at - 1), state(at));
                let put = after.iter().filter(|(_, state)| state.2 == at).map(|(k, _)| (at, *k, true));
                let gone = before.keys().filter(|k| !after.contains_key(k)).map(|k| (at, *k, false));
                expected.extend(put.chain(gone));
            }
            let mut found: Vec<_> = store
                .changes(position.unwrap())
                .map(|(_, change)| (change.revision(), change.key()[1], matches!(change, Change::Put(_))))
                .collect();
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
        let future = store.range(&span(0, 9), Some(store.revision() + 1), None);
        prop_assert_eq!(future, Err(StoreError::Future));
    }
}

#[test]
fn spans_are_written_as_etcd_writes_them() {
    let one = Span::new(Bytes::from_static(b"b"), Bytes::new());
    let from = Span::new(Bytes::from_static(b"b"), Bytes::from_static(&[0]));
    let between = Span::new(Bytes::from_static(b"b"), Bytes::from_static(b"c"));
    let empty = Span::new(Bytes::from_static(b"c"), Bytes::from_static(b"b"));
    let mut store = Store::default();
    let keys = ["a", "b", "ba", "c"].map(|key| Bytes::from_static(key.as_bytes()));
    store.write(&keys.clone().map(|key| Write::Put(key, Bytes::new()))).unwrap();
    for (span, expected) in [(one, "b"), (from, "b ba c"), (between, "b ba"), (empty, "")] {
        let page = store.range(&span, None, None).unwrap();
        let found: Vec<&str> =
            page.entries.iter().map(|entry| std::str::from_utf8(&entry.key).unwrap()).collect();
        assert_eq!(found.join(" "), expected);
        let contained: Vec<&Bytes> = keys.iter().filter(|key| span.contains(key)).collect();
        assert_eq!(contained.len(), found.len(), "{span:?}");
    }
}

/// A position stays valid after a compaction: the changes that remain are reported.
#[test]
fn a_position_outlives_a_compaction() {
    let mut store = Store::default();
    for value in 0..4_u8 {
        store.write(&[Write::Put(key(value), Bytes::new())]).unwrap();
    }
    let (position, _) = store.changes(store.position_of(2).unwrap()).nth(1).unwrap();
    store.compact(5).unwrap();
    let rest: Vec<i64> = store.changes(position).map(|(_, change)| change.revision()).collect();
    assert_eq!(rest, [5]);
    store.write(&[Write::Put(key(9), Bytes::new())]).unwrap();
    let after = store.changes(position).last().unwrap().0;
    assert_eq!(after, store.end());
}
