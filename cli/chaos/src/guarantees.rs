//! Checks a recorded watch against what etcd guarantees.
//!
//! The guarantees are those that etcd documents and that its robustness tests check. They are checked against a
//! [`ReferenceModel`], which does not come from the same watch. This module has no IO: `record` makes the recordings.

mod reference_model;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

pub use reference_model::{PreviousValue, ReferenceModel, Stored};

/// A watch: its request and all of its responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// A name for messages.
    pub name: String,
    /// The first key of the requested range.
    pub start: Vec<u8>,
    /// The first key after the range.
    pub end: Vec<u8>,
    /// The first requested revision.
    pub from: i64,
    /// Whether the request asked for the previous value of each key.
    pub previous: bool,
    /// The responses, in order.
    pub responses: Vec<Response>,
}

/// One response of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Changes.
    Events(Vec<Event>),
    /// Everything up to this revision was delivered.
    Progress(i64),
    /// The watch ended: revisions before this one are compacted.
    Compacted(i64),
}

/// One change, as the watch reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its value; `None` if it was deleted.
    pub key: Vec<u8>,
    /// Its value; `None` if it was removed.
    pub value: Option<Vec<u8>>,
    /// The revision of the change.
    pub revision: i64,
    /// Whether the event reports that the change created the key.
    pub created: bool,
    /// The reported previous value.
    pub previous: Option<PreviousValue>,
}

/// What etcd guarantees of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Guarantee {
    /// Revisions never descend.
    Ordered,
    /// No change comes twice.
    Unique,
    /// All changes of a revision come in one response.
    Atomic,
    /// Progress to a revision means that all its events came before, and none of them comes after.
    Bookmarkable,
    /// The first event is the first change since the requested revision.
    Resumable,
    /// No change between two events is missing.
    Reliable,
    /// Only keys of the requested range are reported.
    Filterable,
    /// A reported previous value is the value before the change.
    Previous,
    /// An event is a creation exactly if the key did not exist before.
    IsCreate,
    /// Every reported change happened.
    True,
}

/// A guarantee that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The guarantee.
    pub guarantee: Guarantee,
    /// The watch, and what is wrong with its responses.
    pub what: String,
}

// === impl Watch ===

impl Watch {
    /// All violations in the watch. Changes after the end of the reference are not checked.
    pub fn violations(&self, reference: &ReferenceModel) -> Vec<Violation> {
        let mut judge = Checker { watch: self, reference, violations: Vec::new() };
        judge.each_event();
        judge.whole_revisions();
        judge.nothing_missing();
        judge.violations
    }

    /// The events of all messages, in order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.responses.iter().flat_map(Response::events)
    }

    /// The last revision of which the watch reported an event or progress.
    pub fn reached(&self) -> Option<i64> {
        let of = |response: &Response| match response {
            Response::Events(events) => events.iter().map(|event| event.revision).max(),
            Response::Progress(revision) => Some(*revision),
            Response::Compacted(_) => None,
        };
        self.responses.iter().filter_map(of).max()
    }

    /// The last revision with a change in the requested range.
    pub fn last_of(&self, reference: &ReferenceModel) -> Option<i64> {
        reference.revisions(self.from, |key| self.asked_for(key)).last()
    }

    fn asked_for(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && key < self.end.as_slice()
    }
}

impl Response {
    fn events(&self) -> &[Event] {
        match self {
            Self::Events(events) => events,
            Self::Progress(_) | Self::Compacted(_) => &[],
        }
    }
}

/// Checks a watch, and collects the violations.
struct Checker<'a> {
    watch: &'a Watch,
    reference: &'a ReferenceModel,
    violations: Vec<Violation>,
}

// === impl Checker ===

impl Checker<'_> {
    fn violation(&mut self, guarantee: Guarantee, what: impl fmt::Display) {
        self.violations.push(Violation { guarantee, what: format!("{}: {what}", self.watch.name) });
    }

    /// Checks each event against those before it.
    fn each_event(&mut self) {
        let (mut last, mut progress) = (0, 0);
        let mut seen = BTreeSet::new();
        for response in &self.watch.responses {
            if let Response::Progress(revision) = response {
                progress = progress.max(*revision);
            }
            for event in response.events() {
                if event.revision < last {
                    self.violation(Guarantee::Ordered, format!("{event} after revision {last}"));
                }
                last = last.max(event.revision);
                if !seen.insert((event.revision, &event.key)) {
                    self.violation(Guarantee::Unique, format!("{event} twice"));
                }
                if event.revision <= progress {
                    self.violation(
                        Guarantee::Bookmarkable,
                        format!("{event} after progress to {progress}"),
                    );
                }
                if !self.watch.asked_for(&event.key) {
                    self.violation(
                        Guarantee::Filterable,
                        format!("{event}, which no watch asked for"),
                    );
                }
                self.delivered_of(event);
            }
        }
    }

    /// Checks an event against what the reference says of its revision.
    fn delivered_of(&mut self, event: &Event) {
        if !self.reference.covers(event.revision) {
            return;
        }
        let Some(change) = self.reference.change(event.revision, &event.key) else {
            self.violation(Guarantee::True, format!("{event} never happened"));
            return;
        };
        let value = change.after.as_ref().map(|stored| &stored.value);
        if value != event.value.as_ref() {
            self.violation(Guarantee::True, format!("{event} had another value"));
        }
        let created = change.before.is_none() && change.after.is_some();
        if created != event.created {
            let instead = if created { "a creation" } else { "none" };
            self.violation(Guarantee::IsCreate, format!("{event} is {instead}"));
        }
        let before = change.before.as_ref().map(Stored::before);
        if self.watch.previous && before != event.previous {
            self.violation(Guarantee::Previous, format!("{event} had something else before it"));
        }
    }

    /// No revision is split over two responses, or reported in part.
    fn whole_revisions(&mut self) {
        let mut received: BTreeMap<i64, BTreeSet<&[u8]>> = BTreeMap::new();
        let mut before: Option<i64> = None;
        for response in &self.watch.responses {
            let events = response.events();
            if let (Some(first), Some(before)) = (events.first(), before)
                && first.revision == before
            {
                self.violation(Guarantee::Atomic, format!("revision {before} is in two messages"));
            }
            before = events.last().map(|event| event.revision).or(before);
            for event in events {
                received.entry(event.revision).or_default().insert(&event.key);
            }
        }
        for (revision, received) in received {
            let happened = self.reference.keys(revision).filter(|key| self.watch.asked_for(key));
            let missing = happened.filter(|key| !received.contains(key)).count();
            if missing > 0 {
                self.violation(
                    Guarantee::Atomic,
                    format!("revision {revision} lacks {missing} changes"),
                );
            }
        }
    }

    /// Every revision with a change in the range was reported.
    fn nothing_missing(&mut self) {
        let mut received: BTreeSet<i64> = BTreeSet::new();
        let mut progress = Vec::new();
        for response in &self.watch.responses {
            received.extend(response.events().iter().map(|event| event.revision));
            if let Response::Progress(revision) = response {
                progress.push((*revision, received.clone()));
            }
        }
        let asked = |key: &[u8]| self.watch.asked_for(key);
        let happened: Vec<i64> = self.reference.revisions(self.watch.from, asked).collect();
        let (first, last) = (received.first().copied(), received.last().copied());
        let mut found = Vec::new();
        for revision in happened.iter().copied().filter(|revision| !received.contains(revision)) {
            let what = format!("revision {revision} is missing");
            if Some(revision) < first {
                found.push((Guarantee::Resumable, what));
            } else if Some(revision) < last {
                found.push((Guarantee::Reliable, what));
            }
        }
        for (to, received) in progress {
            let missing =
                happened.iter().find(|revision| **revision <= to && !received.contains(revision));
            if let Some(missing) = missing {
                let what = format!("progress to {to} before revision {missing}");
                found.push((Guarantee::Bookmarkable, what));
            }
        }
        for (guarantee, what) in found {
            self.violation(guarantee, what);
        }
    }
}

// === impl Event ===

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.value.is_some() { "put" } else { "removal" };
        write!(
            f,
            "the {verb} of {} in revision {}",
            String::from_utf8_lossy(&self.key),
            self.revision
        )
    }
}

// === impl Guarantee ===

impl Guarantee {
    /// All guarantees.
    pub const ALL: [Self; 10] = [
        Self::Ordered,
        Self::Unique,
        Self::Atomic,
        Self::Bookmarkable,
        Self::Resumable,
        Self::Reliable,
        Self::Filterable,
        Self::Previous,
        Self::IsCreate,
        Self::True,
    ];
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordered => "ordered",
            Self::Unique => "unique",
            Self::Atomic => "atomic",
            Self::Bookmarkable => "bookmarkable",
            Self::Resumable => "resumable",
            Self::Reliable => "reliable",
            Self::Filterable => "filterable",
            Self::Previous => "previous value",
            Self::IsCreate => "is-create",
            Self::True => "true",
        })
    }
}

#[cfg(test)]
mod tests;
