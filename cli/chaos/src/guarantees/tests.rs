use super::*;

fn stored(value: &str, created: i64, modified: i64, version: i64) -> Stored {
    Stored { value: value.into(), created, modified, version }
}

fn keys<const N: usize>(keys: [(&str, Stored); N]) -> BTreeMap<Vec<u8>, Stored> {
    keys.into_iter().map(|(key, stored)| (key.into(), stored)).collect()
}

/// Revision 2 puts a and b, 3 changes a, 4 puts a key outside of the range, 5 deletes b, 6 puts b and changes a, 7 deletes
/// both.
fn reference() -> ReferenceModel {
    let mut reference = ReferenceModel::new(1, keys([]));
    reference.next(keys([("k/a", stored("1", 2, 2, 1)), ("k/b", stored("1", 2, 2, 1))]));
    reference.next(keys([("k/a", stored("2", 2, 3, 2)), ("k/b", stored("1", 2, 2, 1))]));
    let other = stored("x", 4, 4, 1);
    reference.next(keys([
        ("k/a", stored("2", 2, 3, 2)),
        ("k/b", stored("1", 2, 2, 1)),
        ("z", other.clone()),
    ]));
    reference.next(keys([("k/a", stored("2", 2, 3, 2)), ("z", other.clone())]));
    reference.next(keys([
        ("k/a", stored("3", 2, 6, 3)),
        ("k/b", stored("4", 6, 6, 1)),
        ("z", other.clone()),
    ]));
    reference.next(keys([("z", other)]));
    reference
}

fn event(key: &str, value: Option<&str>, revision: i64, previous: Option<(&str, i64)>) -> Event {
    Event {
        key: key.into(),
        value: value.map(Into::into),
        revision,
        created: value.is_some() && previous.is_none(),
        previous: previous.map(|(value, modified)| PreviousValue { value: value.into(), modified }),
    }
}

/// What a watch of `k/` from revision 2 on should report.
fn sound() -> Watch {
    let responses = vec![
        Response::Events(vec![
            event("k/a", Some("1"), 2, None),
            event("k/b", Some("1"), 2, None),
            event("k/a", Some("2"), 3, Some(("1", 2))),
        ]),
        Response::Progress(4),
        Response::Events(vec![event("k/b", None, 5, Some(("1", 2)))]),
        Response::Events(vec![
            event("k/a", Some("3"), 6, Some(("2", 3))),
            event("k/b", Some("4"), 6, None),
        ]),
        Response::Events(vec![
            event("k/a", None, 7, Some(("3", 6))),
            event("k/b", None, 7, Some(("4", 6))),
        ]),
        Response::Progress(7),
    ];
    let (start, end) = (b"k/".to_vec(), b"k0".to_vec());
    Watch { name: "watch".into(), start, end, from: 2, previous: true, responses }
}

/// The violated guarantees, each once.
fn wrong(watch: &Watch) -> Vec<Guarantee> {
    let violations =
        watch.violations(&reference()).into_iter().map(|violation| violation.guarantee);
    violations.collect::<BTreeSet<_>>().into_iter().collect()
}

fn events(watch: &mut Watch, index: usize) -> &mut Vec<Event> {
    match &mut watch.responses[index] {
        Response::Events(events) => events,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_an_etcd_says_of_a_history_is_sound() {
    assert_eq!(sound().violations(&reference()), []);
    assert_eq!(sound().reached(), Some(7));
    // A shorter watch is sound too, one from a later revision, and one with events after the reference's end.
    let mut shorter = sound();
    shorter.responses.truncate(3);
    assert_eq!(shorter.violations(&reference()), []);
    let mut later = sound();
    later.from = 5;
    later.responses.drain(..2);
    later.responses.push(Response::Events(vec![event("k/c", Some("new"), 8, None)]));
    assert_eq!(later.violations(&reference()), []);
    let mut ended = later.clone();
    ended.responses = vec![Response::Compacted(9)];
    assert_eq!(ended.violations(&reference()), []);
}

#[test]
fn events_out_of_order_are_found() {
    let mut watch = sound();
    watch.responses.swap(2, 3);
    assert_eq!(wrong(&watch), [Guarantee::Ordered]);
    // Within a response too.
    let mut watch = sound();
    events(&mut watch, 0).swap(1, 2);
    assert!(wrong(&watch).contains(&Guarantee::Ordered));
}

#[test]
fn an_event_that_comes_twice_is_found() {
    let mut watch = sound();
    let again = events(&mut watch, 3)[0].clone();
    events(&mut watch, 3).push(again);
    assert_eq!(wrong(&watch), [Guarantee::Unique]);
}

#[test]
fn a_revision_in_two_messages_or_half_in_one_is_found() {
    let mut watch = sound();
    let second = events(&mut watch, 3).pop().unwrap();
    watch.responses.insert(4, Response::Events(vec![second]));
    assert_eq!(wrong(&watch), [Guarantee::Atomic]);
    let mut watch = sound();
    events(&mut watch, 4).pop();
    assert_eq!(wrong(&watch), [Guarantee::Atomic]);
}

#[test]
fn progress_that_promises_too_much_is_found() {
    // An event of the revision comes after the progress.
    let mut watch = sound();
    watch.responses.swap(1, 2);
    watch.responses[1] = events(&mut watch, 1)
        .drain(..)
        .collect::<Vec<_>>()
        .pop()
        .map(|event| Response::Events(vec![event]))
        .unwrap();
    watch.responses.insert(1, Response::Progress(5));
    assert_eq!(wrong(&watch), [Guarantee::Bookmarkable]);
    // The events of the revision never come.
    let mut watch = sound();
    watch.responses.truncate(2);
    watch.responses.push(Response::Progress(6));
    assert_eq!(wrong(&watch), [Guarantee::Bookmarkable]);
}

#[test]
fn a_watch_that_begins_too_late_is_found() {
    let mut watch = sound();
    watch.responses.drain(..2);
    watch.responses.pop();
    assert_eq!(wrong(&watch), [Guarantee::Resumable]);
}

#[test]
fn a_revision_left_out_is_found() {
    let mut watch = sound();
    watch.responses.remove(2);
    watch.responses.pop();
    assert_eq!(wrong(&watch), [Guarantee::Reliable]);
}

#[test]
fn a_key_that_no_watch_asked_for_is_found() {
    let mut watch = sound();
    watch.responses.remove(1);
    watch.responses.insert(1, Response::Events(vec![event("z", Some("x"), 4, None)]));
    assert_eq!(wrong(&watch), [Guarantee::Filterable]);
}

#[test]
fn another_previous_value_is_found() {
    for other in [
        None,
        Some(PreviousValue { value: "1".into(), modified: 3 }),
        Some(PreviousValue { value: "2".into(), modified: 2 }),
    ] {
        let mut watch = sound();
        events(&mut watch, 3)[0].previous = other;
        assert_eq!(wrong(&watch), [Guarantee::Previous]);
        // A watch that did not ask for previous values gets none.
        watch.previous = false;
        assert_eq!(wrong(&watch), []);
    }
}

#[test]
fn a_creation_that_is_none_is_found() {
    for index in [0, 1] {
        let mut watch = sound();
        let created = &mut events(&mut watch, 3)[index].created;
        *created = !*created;
        assert_eq!(wrong(&watch), [Guarantee::IsCreate]);
    }
}

#[test]
fn what_never_happened_is_found() {
    let mut watch = sound();
    events(&mut watch, 3).push(event("k/c", Some("5"), 6, None));
    assert_eq!(wrong(&watch), [Guarantee::True]);
    let mut watch = sound();
    events(&mut watch, 3)[0].value = Some("5".into());
    assert_eq!(wrong(&watch), [Guarantee::True]);
}

#[test]
fn a_truth_by_a_watch_is_the_truth_by_reading() {
    let mut model = ReferenceModel::new(1, keys([]));
    sound().events().for_each(|event| model.apply(event));
    let elsewhere = event("z", Some("x"), 4, None);
    model.apply(&elsewhere);
    assert_eq!(model.end(), reference().end());
    for revision in 1..=3 {
        assert_eq!(model.at(revision), reference().at(revision));
    }
}
