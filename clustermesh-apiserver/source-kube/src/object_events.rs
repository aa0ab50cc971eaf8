//! Events about objects of the cluster, for `kubectl describe`: what of a policy is refused.
//!
//! An object has one event, whatever is refused of it, and another one when that changes. Its name follows from what it says.
//! So replicas and later runs do not repeat it, and it is gone when the API server's time for events has passed.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use http::{Method, StatusCode};
use k8s_openapi::jiff::Timestamp;
use mesh_backoff::{Backoff, Policy};
use mesh_model::object::{ObjectKey, Uid};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time};

use crate::{
    connection::Connection,
    events::{Closed, Events, KubeEvent},
    failure::Failure,
    response::Status,
};

/// What there is to say about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEvent {
    /// The object.
    pub object: ObjectKey,
    /// Distinguishes it from others of the same name.
    pub uid: Uid,
    /// What is refused of it; `None`: nothing is any more.
    pub note: Option<String>,
}

/// An event that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    uid: Uid,
    note: String,
}

/// The events that this process wrote about an object: how often each, by its name.
#[derive(Debug, Default)]
struct Written {
    counts: BTreeMap<String, u64>,
    last: String,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Its namespace is gone, or about to go.
    Pointless,
    /// It is not accepted, whenever it comes.
    Refused(Failure),
    /// It is made once more.
    Failed(Failure),
}

const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after an event, so that a thousand policies do not keep an API server busy.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest note that an API server accepts, in bytes.
const NOTE: usize = 1_024;
/// The longest part of an event's name that comes from its object.
const NAME: usize = 230;
/// How many different events about an object are told apart.
const KEPT: usize = 8;
/// Events about objects without a namespace are in this one.
const DEFAULT: &str = "default";
const REASON: &str = "PolicyRefused";
const CONTROLLER: &str = "clustermesh.dev/apiserver";

/// Writes events until there are no more.
pub(crate) async fn write(
    connection: Connection,
    events: Events,
    mut receiver: mpsc::UnboundedReceiver<ObjectEvent>,
) {
    // If it ends early, the receiver of the events was dropped.
    let _ = write_all(&connection, &events, &mut receiver).await;
    // The other tasks end when one does. This one has no reason to be the first.
    std::future::pending().await
}

async fn write_all(
    connection: &Connection,
    events: &Events,
    receiver: &mut mpsc::UnboundedReceiver<ObjectEvent>,
) -> Result<(), Closed> {
    let mut book = Book::default();
    let mut backoff = Backoff::new(Policy::CONNECTION, 0);
    let mut trouble = None;
    let instance = instance();
    loop {
        while let Ok(event) = receiver.try_recv() {
            book.take(event);
        }
        let Some((object, pending)) = book.next() else {
            book.take(receiver.recv().await.ok_or(Closed)?);
            continue;
        };
        let outcome = once(connection, &book, &instance, &object, &pending).await;
        let (now, pause) = match &outcome {
            Outcome::Done | Outcome::Pointless => (None, PAUSE),
            Outcome::Refused(failure) => (Some(sentence(failure)), PAUSE),
            Outcome::Failed(failure) => (Some(sentence(failure)), backoff.failed()),
        };
        if !matches!(outcome, Outcome::Failed(_)) {
            backoff.reset();
            book.written(&object, &pending, outcome == Outcome::Done);
        }
        if trouble != now {
            trouble.clone_from(&now);
            events.send(KubeEvent::ObjectEvents(now)).await?;
        }
        time::sleep(pause).await;
    }
}

async fn once(
    connection: &Connection,
    book: &Book,
    instance: &str,
    object: &ObjectKey,
    pending: &Pending,
) -> Outcome {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", namespace(object));
    let now = Timestamp::now();
    let body = body(object, pending, instance, now).to_string().into_bytes();
    match outcome(connection.ask(Method::POST, &path, Some(body), PATIENCE).await) {
        // Another replica wrote it, or an earlier run. It is worth a mention if others came in between.
        Answer::Exists => match book.repeated(object, pending) {
            None => Outcome::Done,
            Some(count) => {
                let path = format!("{path}/{}", name(object, pending));
                let series =
                    json!({ "series": { "count": count, "lastObservedTime": time_of(now) } });
                let body = series.to_string().into_bytes();
                match outcome(connection.ask(Method::PATCH, &path, Some(body), PATIENCE).await) {
                    Answer::Other(outcome) => outcome,
                    Answer::Exists => Outcome::Done,
                }
            }
        },
        Answer::Other(outcome) => outcome,
    }
}

/// What an API server answered.
enum Answer {
    Exists,
    Other(Outcome),
}

fn outcome(answer: Result<(StatusCode, String), Failure>) -> Answer {
    let (code, body) = match answer {
        Ok(answer) => answer,
        Err(failure) => return Answer::Other(Outcome::Failed(failure)),
    };
    let failure = || Failure::refused(code, body.clone());
    Answer::Other(match code {
        StatusCode::OK | StatusCode::CREATED => Outcome::Done,
        StatusCode::CONFLICT => return Answer::Exists,
        StatusCode::NOT_FOUND => Outcome::Pointless,
        StatusCode::FORBIDDEN if failure().status().as_ref().is_some_and(is_terminating) => {
            Outcome::Pointless
        }
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => Outcome::Refused(failure()),
        _ => Outcome::Failed(failure()),
    })
}

fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.map(|cause| cause.reason.as_str()).any(|reason| reason == "NamespaceTerminating")
}

fn sentence(failure: &Failure) -> String {
    let right = "its ClusterRole the verbs create and patch on events.events.k8s.io";
    failure.sentence("write", "events about refused policies", right)
}

fn namespace(object: &ObjectKey) -> &str {
    if object.namespace.is_empty() { DEFAULT } else { &object.namespace }
}

/// The name of an event: the same for the same words about the same object.
fn name(object: &ObjectKey, pending: &Pending) -> String {
    let mut hasher = DefaultHasher::new();
    (object.kind.as_str(), pending.uid.to_string(), &pending.note).hash(&mut hasher);
    let name = object.name.get(..object.name.floor_char_boundary(NAME)).unwrap_or_default();
    // A part of a name ends with a letter or digit.
    format!("{}.{:016x}", name.trim_end_matches(['-', '.']), hasher.finish())
}

fn body(object: &ObjectKey, pending: &Pending, instance: &str, now: Timestamp) -> Value {
    let Pending { uid, note } = pending;
    let version = object.kind.policy().map_or("v1", |kind| kind.api_version());
    let regarding = [
        ("apiVersion", version.to_owned()),
        ("kind", object.kind.to_string()),
        ("name", object.name.to_string()),
        ("namespace", object.namespace.to_string()),
        ("uid", uid.to_string()),
    ];
    let regarding = regarding.into_iter().filter(|(_, value)| !value.is_empty());
    let regarding: BTreeMap<&str, String> = regarding.collect();
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": name(object, pending), "namespace": namespace(object) },
        "eventTime": time_of(now),
        "type": "Warning",
        "reason": REASON,
        "action": "Validate",
        "note": note.get(..note.floor_char_boundary(NOTE)).unwrap_or_default(),
        "regarding": regarding,
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
    })
}

/// A time with microseconds, as an API server wants it.
fn time_of(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// What names this replica in events: the name of its host.
fn instance() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("clustermesh-apiserver-{:.100}", host.trim())
}

/// What is to be written, and what was.
#[derive(Debug, Default)]
struct Book {
    pending: BTreeMap<ObjectKey, Pending>,
    written: BTreeMap<ObjectKey, Written>,
}

// === impl Book ===

impl Book {
    fn take(&mut self, event: ObjectEvent) {
        let ObjectEvent { object, uid, note } = event;
        match note {
            Some(note) => drop(self.pending.insert(object, Pending { uid, note })),
            None => {
                self.pending.remove(&object);
                // What comes after it is news, even if it was said before.
                if let Some(written) = self.written.get_mut(&object) {
                    written.last.clear();
                }
            }
        }
    }

    /// The next event. One that was just written is not written again.
    fn next(&mut self) -> Option<(ObjectKey, Pending)> {
        loop {
            let (object, pending) = self.pending.first_key_value()?;
            let last = self.written.get(object).map(|written| written.last.as_str());
            if last != Some(name(object, pending).as_str()) {
                return Some((object.clone(), pending.clone()));
            }
            self.pending.pop_first();
        }
    }

    /// How often an event came in all, if this process wrote it before.
    fn repeated(&self, object: &ObjectKey, pending: &Pending) -> Option<u64> {
        let count = self.written.get(object)?.counts.get(&name(object, pending))?;
        Some(count.saturating_add(1))
    }

    /// An event needs no further request.
    fn written(&mut self, object: &ObjectKey, pending: &Pending, done: bool) {
        if self.pending.get(object) == Some(pending) {
            self.pending.remove(object);
        }
        if !done {
            return;
        }
        let written = self.written.entry(object.clone()).or_default();
        if written.counts.len() >= KEPT {
            written.counts.clear();
        }
        written.last = name(object, pending);
        *written.counts.entry(written.last.clone()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests;
