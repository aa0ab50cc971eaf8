use mesh_model::object::Object;
use proptest::prelude::*;

use super::*;

fn namespace(name: &str, version: u64) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}"#)
}

fn page(items: &[String], version: u64, next: &str) -> String {
    let items = items.join(",");
    format!(
        r#"{{"kind":"NamespaceList","apiVersion":"v1","metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{items}]}}"#
    )
}

fn line(what: &str, object: &str) -> String {
    format!(r#"{{"type":"{what}","object":{object}}}"#)
}

fn refused(code: u16, reason: &str) -> Failure {
    let body = format!(r#"{{"kind":"Status","code":{code},"reason":"{reason}"}}"#);
    Failure::Refused { code, body }
}

/// Short: what an event says.
fn word(event: &Event<Kind>) -> String {
    match event {
        Event::Listing => "listing".into(),
        Event::Applied { version, object } => format!("+{}@{version}", object.key().name),
        Event::Deleted { version, key } => format!("-{}@{version}", key.name),
        Event::Unreadable { key } => format!("?{}", key.name),
        Event::Listed { version } => format!("listed@{version}"),
        Event::Bookmark { version } => format!("mark@{version}"),
        Event::Restarted => "restarted".into(),
    }
}

fn words(events: &[Event<Kind>]) -> Vec<String> {
    events.iter().map(word).collect()
}

fn follower() -> Follower<Kind> {
    Follower::new(Kind::Namespace, 1)
}

/// A follower that has listed nothing, and watches.
fn watching() -> Follower<Kind> {
    let mut follower = follower();
    follower.page(&page(&[], 5, "")).unwrap();
    follower
}

#[test]
fn a_list_is_read_page_by_page_and_then_watched() {
    let mut follower = follower();
    assert_eq!(follower.request(), Request::List { limit: Some(500), next: None });
    let first = follower.page(&page(&[namespace("a", 3)], 9, "more")).unwrap();
    assert_eq!(words(&first), ["listing", "+a@3"]);
    assert_eq!(follower.request(), Request::List { limit: Some(500), next: Some("more".into()) });
    let last = follower.page(&page(&[namespace("b", 4)], 9, "")).unwrap();
    assert_eq!(words(&last), ["+b@4", "listed@9"]);
    assert_eq!(follower.request(), Request::Watch { after: 9 });
}

#[test]
fn each_line_moves_the_watch() {
    let mut follower = watching();
    for (text, wanted) in [
        (line("ADDED", &namespace("a", 6)), Some("+a@6")),
        (line("MODIFIED", &namespace("a", 7)), Some("+a@7")),
        (line("DELETED", &namespace("a", 8)), Some("-a@8")),
        (
            line("BOOKMARK", r#"{"kind":"Namespace","metadata":{"resourceVersion":"12"}}"#),
            Some("mark@12"),
        ),
        (line("LATER", &namespace("a", 13)), None),
    ] {
        let event = follower.line(&text).unwrap();
        assert_eq!(event.as_ref().map(word).as_deref(), wanted, "{text}");
    }
    follower.ended();
    assert_eq!(follower.request(), Request::Watch { after: 13 });
}

#[test]
fn an_expired_history_is_listed_again_and_a_broken_watch_goes_on() {
    for (failure, lists) in [
        (refused(410, "Expired"), true),
        (refused(504, "Timeout"), false),
        (Failure::Broken("connection reset".into()), false),
        (refused(403, "Forbidden"), false),
    ] {
        let mut follower = watching();
        follower.failed(&failure);
        let wanted = match lists {
            true => Request::List { limit: Some(500), next: None },
            false => Request::Watch { after: 5 },
        };
        assert_eq!(follower.request(), wanted, "{failure:?}");
    }
    // In the middle of a watch.
    let mut follower = watching();
    let failure = follower.line(&line("ERROR", r#"{"code":410,"reason":"Expired"}"#)).unwrap_err();
    follower.failed(&failure);
    assert_eq!(follower.request(), Request::List { limit: Some(500), next: None });
}

/// A list that takes longer than the API server keeps its history must come to an end all the same.
#[test]
fn a_list_that_expires_is_asked_for_as_one_answer() {
    let mut follower = follower();
    follower.page(&page(&[namespace("a", 3)], 9, "more")).unwrap();
    follower.failed(&refused(410, "Expired"));
    assert_eq!(follower.request(), Request::List { limit: None, next: None });
    let events = follower.page(&page(&[namespace("b", 11)], 12, "")).unwrap();
    assert_eq!(words(&events), ["listing", "+b@11", "listed@12"]);
}

#[test]
fn an_object_that_cannot_be_read_costs_itself_and_stays_as_it_was() {
    let mut follower = follower();
    let bad = r#"{"metadata":{"name":"bad","resourceVersion":"4","labels":"none"}}"#.to_owned();
    let events = follower.page(&page(&[namespace("a", 3), bad.clone()], 9, "")).unwrap();
    assert_eq!(words(&events), ["listing", "+a@3", "?bad", "listed@9"]);
    assert_eq!(follower.problems().unreadable.len(), 1);
    // Mended.
    follower.line(&line("MODIFIED", &namespace("bad", 10))).unwrap();
    assert!(follower.problems().unreadable.is_empty());
    // Broken anew, and gone.
    follower.line(&line("MODIFIED", &bad)).unwrap();
    assert_eq!(follower.problems().unreadable.len(), 1);
    let gone = follower.line(&line("DELETED", &bad)).unwrap();
    assert_eq!(gone.as_ref().map(word).as_deref(), Some("-bad@4"));
    assert!(follower.problems().unreadable.is_empty());
}

#[test]
fn an_answer_that_is_none_changes_nothing() {
    for text in [
        "",
        "<html>",
        r#"{"items":[]}"#,
        r#"{"metadata":{"resourceVersion":"x"},"items":[]}"#,
        r#"{"metadata":{"resourceVersion":"7"},"items":[7]}"#,
        r#"{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{}}]}"#,
    ] {
        let mut follower = follower();
        let failure = follower.page(text).unwrap_err();
        follower.failed(&failure);
        assert_eq!(follower.request(), Request::List { limit: Some(500), next: None }, "{text}");
        let trouble = follower.problems().trouble.as_deref().unwrap();
        assert!(trouble.starts_with("the API server: its list of namespaces: "), "{trouble}");
    }
    for text in ["", "7", r#"{"type":"ADDED"}"#, &line("ADDED", "{}"), &line("DELETED", "7")] {
        let mut follower = watching();
        let failure = follower.line(text).unwrap_err();
        follower.failed(&failure);
        assert_eq!(follower.request(), Request::Watch { after: 5 }, "{text}");
    }
}

#[test]
fn a_missing_right_is_named() {
    let mut follower = Follower::new(Kind::EndpointSlice, 1);
    follower.failed(&refused(403, "Forbidden"));
    let trouble = follower.problems().trouble.as_deref().unwrap();
    assert!(
        trouble.contains("the verbs list and watch on endpointslices.discovery.k8s.io"),
        "{trouble}"
    );
}

#[test]
fn pauses_grow_until_a_watch_is_of_use() {
    let mut follower = watching();
    let broken = Failure::Broken("reset".into());
    let first = follower.failed(&broken);
    let later = (0..6).map(|_| follower.failed(&broken)).last().unwrap();
    assert!(later > first * 4, "{first:?} {later:?}");
    // A list that is answered while every watch fails is no use.
    follower.failed(&refused(410, "Expired"));
    follower.page(&page(&[], 20, "")).unwrap();
    assert!(follower.failed(&broken) > first * 4);
    follower.line(&line("ADDED", &namespace("a", 21))).unwrap();
    assert!(follower.failed(&broken) < first * 4);
}

#[test]
fn what_the_server_asks_for_is_waited() {
    let mut follower = watching();
    let body = r#"{"code":429,"details":{"retryAfterSeconds":30}}"#.to_owned();
    assert!(follower.failed(&Failure::Refused { code: 429, body }) >= Duration::from_secs(30));
}

#[test]
fn versions_that_go_back_are_another_history() {
    let mut follower = watching();
    follower.line(&line("ADDED", &namespace("a", 900))).unwrap();
    follower.failed(&refused(410, "Expired"));
    let events = follower.page(&page(&[], 700, "")).unwrap();
    assert_eq!(words(&events), ["restarted", "listing", "listed@700"]);
    assert_eq!(follower.request(), Request::Watch { after: 700 });
}

/// What an API server has, and what a follower's events come to.
#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    /// The watch breaks off, having delivered so many lines of those pending.
    Break(u8),
    /// The history up to now is compacted.
    Compact,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_u8).prop_map(Step::Put),
        2 => (0..6_u8).prop_map(Step::Delete),
        2 => (0..4_u8).prop_map(Step::Break),
        1 => Just(Step::Compact),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// Whatever breaks and expires, what was reported is in the end what there is.
    #[test]
    fn a_follower_ends_with_what_there_is(steps in steps(), paged in 1..4_usize) {
        let mut there = BTreeMap::<String, u64>::new();
        let mut history = Vec::<(u64, String)>::new();
        let mut version = 10;
        let mut compacted = 0;
        let mut follower = follower();
        let mut reported = BTreeMap::<String, u64>::new();
        let mut listing: Option<BTreeMap<String, u64>> = None;
        let mut take = |events: Vec<Event<Kind>>| {
            for event in events {
                match event {
                    Event::Listing => listing = Some(BTreeMap::new()),
                    Event::Applied { version, object: Object::Namespace(of) } => {
                        reported.insert(of.name.clone(), version);
                        if let Some(listing) = &mut listing {
                            listing.insert(of.name, version);
                        }
                    }
                    Event::Deleted { key, .. } => drop(reported.remove(&*key.name)),
                    Event::Listed { .. } => {
                        let listed = listing.take().unwrap_or_default();
                        reported.retain(|name, _| listed.contains_key(name));
                    }
                    _ => {}
                }
            }
            reported.clone()
        };
        let mut last = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Break(u8::MAX)]) {
            match step {
                Step::Put(name) => {
                    version += 1;
                    let name = format!("n{name}");
                    history.push((version, line(if there.contains_key(&name) { "MODIFIED" } else { "ADDED" }, &namespace(&name, version))));
                    there.insert(name, version);
                }
                Step::Delete(name) => {
                    let name = format!("n{name}");
                    if there.remove(&name).is_some() {
                        version += 1;
                        history.push((version, line("DELETED", &namespace(&name, version))));
                    }
                }
                Step::Compact => compacted = version,
                Step::Break(lines) => {
                    // As often as it takes to watch to the end of the lines.
                    for _ in 0..20 {
                        match follower.request() {
                            Request::List { limit, next } => {
                                let all: Vec<_> = there.iter().collect();
                                let from: usize = next.map_or(0, |next| next.parse().unwrap());
                                let to = limit.map_or(all.len(), |_| (from + paged).min(all.len()));
                                let items: Vec<_> = all[from..to].iter().map(|(name, at)| namespace(name, **at)).collect();
                                let next = if to < all.len() { to.to_string() } else { String::new() };
                                last = take(follower.page(&page(&items, version, &next)).unwrap());
                            }
                            Request::Watch { after } if after < compacted => {
                                follower.failed(&refused(410, "Expired"));
                            }
                            Request::Watch { after } => {
                                let lines = history.iter().filter(|(at, _)| *at > after).take(lines.into());
                                for (_, text) in lines {
                                    last = take(follower.line(text).unwrap().into_iter().collect());
                                }
                                follower.failed(&Failure::Broken("cut".into()));
                                break;
                            }
                        }
                    }
                }
            }
        }
        prop_assert_eq!(last, there);
    }
}

fn optional() -> Follower<Kind> {
    Follower::new(Kind::CiliumNetworkPolicy, 1)
}

/// Kinds of another project: without it, there are no such objects.
#[test]
fn a_kind_that_need_not_be_there_is_empty_and_looked_for_again() {
    let missing = refused(404, "NotFound");
    let mut follower = optional();
    for _ in 0..2 {
        let (events, pause) = follower.absent(&missing).unwrap();
        assert!(events.is_empty() && pause < Duration::from_secs(1), "it may be starting");
        assert!(!follower.problems().absent);
    }
    let (events, pause) = follower.absent(&missing).unwrap();
    assert_eq!((words(&events), pause), (vec!["listing".into(), "listed@0".into()], LOOK_AGAIN));
    assert!(follower.problems().absent && follower.problems().trouble.is_none());
    let (events, pause) = follower.absent(&missing).unwrap();
    assert_eq!((words(&events), pause), (Vec::new(), LOOK_AGAIN));
    assert_eq!(follower.request(), Request::List { limit: Some(500), next: None });

    // It is installed.
    let events = follower.page(&page(&[namespace("a", 8)], 9, "")).unwrap();
    assert_eq!(words(&events), ["listing", "+a@8", "listed@9"]);
    assert!(!follower.problems().absent);

    // It is removed while it is watched.
    let said = (0..3).map(|_| words(&follower.absent(&missing).unwrap().0)).collect::<Vec<_>>();
    assert_eq!(said.concat(), ["listing", "listed@9"]);
}

#[test]
fn what_is_not_absent_is_a_problem() {
    assert!(optional().absent(&refused(403, "Forbidden")).is_none());
    assert!(optional().absent(&Failure::Broken("connection reset".into())).is_none());
    let mut follower = follower();
    assert!(follower.absent(&refused(404, "NotFound")).is_none());
    follower.failed(&refused(404, "NotFound"));
    assert_eq!(follower.problems().trouble.as_deref(), Some("the API server has no namespaces"));
    // An answer in between: the kind is there.
    let mut follower = optional();
    follower.absent(&refused(404, "NotFound")).unwrap();
    follower.absent(&refused(404, "NotFound")).unwrap();
    follower.page(&page(&[], 5, "")).unwrap();
    assert!(words(&follower.absent(&refused(404, "NotFound")).unwrap().0).is_empty());
}
