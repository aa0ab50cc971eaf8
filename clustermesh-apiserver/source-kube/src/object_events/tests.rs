use mesh_model::object::Kind;

use super::*;

fn object(name: &str) -> ObjectKey {
    let (kind, namespace) = (Kind::NetworkPolicy, "shop".into());
    ObjectKey { kind, namespace, name: name.into() }
}

fn event(note: Option<&str>) -> ObjectEvent {
    let note = note.map(ToOwned::to_owned);
    ObjectEvent { object: object("deny"), uid: Uid::from("u1"), note }
}

fn pending(note: &str) -> Pending {
    Pending { uid: Uid::from("u1"), note: note.into() }
}

#[test]
fn an_event_is_what_an_api_server_accepts() {
    let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let found = body(&object("deny"), &pending("no"), "host", now);
    let wanted = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": { "name": name(&object("deny"), &pending("no")), "namespace": "shop" },
        "eventTime": "2026-01-02T03:04:05.000000Z",
        "type": "Warning", "reason": "PolicyRefused", "action": "Validate", "note": "no",
        "regarding": {
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "shop",
            "name": "deny", "uid": "u1",
        },
        "reportingController": "clustermesh.dev/apiserver", "reportingInstance": "host",
    });
    assert_eq!(found, wanted);
    let cluster = ObjectKey {
        kind: Kind::CiliumClusterwideNetworkPolicy,
        namespace: "".into(),
        name: "deny".into(),
    };
    let found = body(&cluster, &pending(&"ä".repeat(1_000)), "host", now);
    assert_eq!(found["metadata"]["namespace"], "default");
    assert_eq!(found["regarding"].get("namespace"), None);
    assert_eq!(found["note"].as_str().unwrap().len(), NOTE);
}

#[test]
fn a_name_follows_from_what_is_said() {
    let one = name(&object("deny"), &pending("no"));
    assert!(one.starts_with("deny.") && one.len() == "deny.".len() + 16, "{one}");
    assert_eq!(one, name(&object("deny"), &pending("no")));
    assert_ne!(one, name(&object("deny"), &pending("yes")));
    let other = Pending { uid: Uid::from("u2"), ..pending("no") };
    assert_ne!(one, name(&object("deny"), &other));
    let long = [&"a".repeat(229), "-", &"b".repeat(23)].concat();
    let name = name(&object(&long), &pending("no"));
    mesh_model::names::subdomain(&name).unwrap();
}

#[test]
fn what_was_said_is_said_again_only_after_something_else() {
    let mut book = Book::default();
    let mut say = |note: Option<&str>| {
        book.take(event(note));
        let (object, pending) = book.next()?;
        let repeated = book.repeated(&object, &pending);
        book.written(&object, &pending, true);
        assert_eq!(book.next(), None);
        Some((pending.note, repeated))
    };
    let said = |note: &str, count| Some((note.to_owned(), count));
    assert_eq!(say(Some("a")), said("a", None));
    // A list once more, as after a lost watch.
    assert_eq!(say(Some("a")), None);
    assert_eq!(say(Some("b")), said("b", None));
    assert_eq!(say(Some("a")), said("a", Some(2)));
    assert_eq!(say(None), None);
    assert_eq!(say(Some("a")), said("a", Some(3)));
}

#[test]
fn one_that_changes_before_it_is_written_is_written_once() {
    let mut book = Book::default();
    book.take(event(Some("a")));
    let (object, first) = book.next().unwrap();
    book.take(event(Some("b")));
    book.written(&object, &first, true);
    assert_eq!(book.next().unwrap().1.note, "b");
    book.take(event(None));
    assert_eq!(book.next(), None);
}

#[test]
fn answers_say_whether_to_ask_again() {
    let answer = |code: u16, body: &str| match outcome(Ok((
        StatusCode::from_u16(code).unwrap(),
        body.into(),
    ))) {
        Answer::Exists => "exists",
        Answer::Other(Outcome::Done) => "done",
        Answer::Other(Outcome::Pointless) => "pointless",
        Answer::Other(Outcome::Refused(_)) => "refused",
        Answer::Other(Outcome::Failed(_)) => "failed",
    };
    let terminating = r#"{"details":{"causes":[{"reason":"NamespaceTerminating"}]}}"#;
    for (code, body, wanted) in [
        (201, "", "done"),
        (200, "", "done"),
        (409, "", "exists"),
        (404, "", "pointless"),
        (403, terminating, "pointless"),
        (403, "{}", "failed"),
        (422, "{}", "refused"),
        (500, "{}", "failed"),
    ] {
        assert_eq!(answer(code, body), wanted, "{code} {body}");
    }
    let forbidden = Failure::refused(StatusCode::FORBIDDEN, String::new());
    let wanted = "the API server does not allow this apiserver to write events about refused policies: give its ClusterRole the verbs create and patch on events.events.k8s.io";
    assert_eq!(sentence(&forbidden), wanted);
}
