//! List and watch of one kind, without IO.
//!
//! The protocol is Kubernetes' own (API concepts, "Efficient detection of changes"): a list at one version, page by page, then
//! a watch from that version on. The caller executes [`Follower::request`], and hands over what comes back.

use std::{collections::BTreeMap, fmt, time::Duration};

use mesh_backoff::{Backoff, Policy};
use mesh_model::object::Kind;
use mesh_source::{ResourceVersion, SourceEvent};

use crate::{
    failure::Failure,
    resource::{Resource, Unreadable},
    response::{Line, Metadata, Page, Status, version},
};

/// What happens to the objects of a resource, as [`SourceEvent`] has it for the mesh's kinds.
#[derive(Debug)]
pub(crate) enum Event<R: Resource> {
    Listing,
    Applied {
        version: u64,
        object: R::Object,
    },
    Deleted {
        version: u64,
        key: R::Key,
    },
    Unreadable {
        key: R::Key,
    },
    Listed {
        version: u64,
    },
    Bookmark {
        version: u64,
    },
    /// The API server's history is another one: versions before cannot be compared with those that follow.
    Restarted,
}

/// What a follower reports.
pub(crate) struct Followed<R: Resource> {
    pub(crate) events: Vec<Event<R>>,
    /// `None`: as before.
    pub(crate) problems: Option<Problems<R::Key>>,
}

/// What does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems<K> {
    /// Why the last request failed, with what to do.
    pub trouble: Option<String>,
    /// Objects that are there and cannot be read, and why.
    pub unreadable: BTreeMap<K, String>,
    /// The API server has no such kind, and need not have it.
    pub absent: bool,
}

/// What is to be asked next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A page of the list.
    List {
        /// So many objects at most; `None`: all.
        limit: Option<u32>,
        /// Where the page before ended.
        next: Option<String>,
    },
    /// What changes after a version.
    Watch {
        /// The version.
        after: u64,
    },
}

/// Follows one resource.
#[derive(Debug)]
pub(crate) struct Follower<R: Resource> {
    resource: R,
    state: State,
    limit: Option<u32>,
    /// The last version that is known. Another history begins where a list is before it.
    last: Option<u64>,
    backoff: Backoff,
    problems: Problems<R::Key>,
    /// How often in a row the API server said that it has no such kind.
    absences: u32,
}

#[derive(Debug)]
enum State {
    /// Where the next page begins, if one was read.
    Listing(Option<String>),
    /// The version that the watch begins after.
    Watching(u64),
}

/// Objects in a page. A pod of a large cluster has 5 to 20 kB of JSON.
const PAGE: u32 = 500;
/// How often an API server must say that it has no kind. One that starts may say so before it has read its kinds.
const ABSENCES: u32 = 3;
/// How often a kind that is absent is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

// === impl Follower ===

impl<R: Resource> Follower<R> {
    /// A follower of a resource that has asked nothing yet. Those with other seeds wait for other times after a failure.
    pub(crate) fn new(resource: R, seed: u64) -> Self {
        Self {
            resource,
            state: State::Listing(None),
            limit: Some(PAGE),
            last: None,
            backoff: Backoff::new(Policy::CONNECTION, seed),
            problems: Problems::default(),
            absences: 0,
        }
    }

    /// The resource.
    pub(crate) fn resource(&self) -> &R {
        &self.resource
    }

    /// What is to be asked now.
    pub(crate) fn request(&self) -> Request {
        match &self.state {
            State::Listing(next) => Request::List { limit: self.limit, next: next.clone() },
            State::Watching(after) => Request::Watch { after: *after },
        }
    }

    /// The API server answered with a page of the list.
    ///
    /// # Errors
    /// When it is none, or has no version: see [`Follower::failed`].
    pub(crate) fn page(&mut self, text: &str) -> Result<Vec<Event<R>>, Failure> {
        let State::Listing(next) = &mut self.state else { return Ok(Vec::new()) };
        let broken = |what: &dyn fmt::Display| {
            Failure::Broken(format!("its list of {}: {what}", self.resource.name()))
        };
        let page: Page<'_> = serde_json::from_str(text).map_err(|error| broken(&error))?;
        let found = &page.metadata.resource_version;
        let listed = version(found)
            .ok_or_else(|| broken(&format!("its resourceVersion {found:?} is no number")))?;
        let mut events = Vec::new();
        let mut unreadable = BTreeMap::new();
        if next.is_none() {
            // As after a restore of the API server's etcd.
            let restarted = self.last.is_some_and(|last| listed < last);
            events.extend(restarted.then_some(Event::Restarted));
            events.push(Event::Listing);
        }
        for item in page.items() {
            match self.resource.decode(item) {
                Ok(object) => {
                    let version = version_of(item).unwrap_or(listed);
                    events.push(Event::Applied { version, object });
                }
                Err(Unreadable { key: Some(key), reason }) => {
                    events.push(Event::Unreadable { key: key.clone() });
                    unreadable.insert(key, reason);
                }
                // What it is cannot be taken for gone.
                Err(Unreadable { key: None, reason }) => return Err(broken(&reason)),
            }
        }
        if next.is_none() {
            self.problems.unreadable.clear();
        }
        self.problems.unreadable.append(&mut unreadable);
        (self.problems.trouble, self.problems.absent, self.absences) = (None, false, 0);
        match page.metadata.next.as_str() {
            "" => {
                self.last = Some(listed);
                self.limit = Some(PAGE);
                self.state = State::Watching(listed);
                events.push(Event::Listed { version: listed });
            }
            token => *next = Some(token.to_owned()),
        }
        Ok(events)
    }

    /// A line of the watch.
    ///
    /// # Errors
    /// When the watch is of no more use: see [`Follower::failed`].
    pub(crate) fn line(&mut self, text: &str) -> Result<Option<Event<R>>, Failure> {
        let State::Watching(after) = &mut self.state else { return Ok(None) };
        let broken = |what: &dyn fmt::Display| {
            let of = self.resource.name();
            Failure::Broken(format!("a line of its watch of {of}: {what}"))
        };
        let line: Line<'_> = serde_json::from_str(text).map_err(|error| broken(&error))?;
        let object = line.object.get();
        if line.what == "ERROR" {
            let Status { code, .. } = serde_json::from_str(object).unwrap_or_default();
            return Err(Failure::Refused { code, body: object.to_owned() });
        }
        let version = version_of(object).ok_or_else(|| broken(&"no resourceVersion in it"))?;
        let event = match (line.what.as_ref(), line.what == "BOOKMARK") {
            (_, true) => Some(Event::Bookmark { version }),
            ("ADDED" | "MODIFIED", _) => match self.resource.decode(object) {
                Ok(object) => {
                    self.problems.unreadable.remove(&self.resource.key(&object));
                    Some(Event::Applied { version, object })
                }
                // What it was before stays.
                Err(Unreadable { key: Some(key), reason }) => {
                    self.problems.unreadable.insert(key.clone(), reason);
                    Some(Event::Unreadable { key })
                }
                Err(Unreadable { key: None, reason }) => return Err(broken(&reason)),
            },
            ("DELETED", _) => match self.resource.key_of(object) {
                Some(key) => {
                    self.problems.unreadable.remove(&key);
                    Some(Event::Deleted { version, key })
                }
                None => return Err(broken(&"a deleted object without a name")),
            },
            // A later version of the protocol may have more.
            (_, false) => None,
        };
        *after = version;
        self.last = Some(version);
        self.problems.trouble = None;
        self.backoff.reset();
        Ok(event)
    }

    /// Everything is listed anew: the API server's history is another one.
    pub(crate) fn restart(&mut self) {
        self.state = State::Listing(None);
    }

    /// The watch ended as it was asked to: after its time.
    pub(crate) fn ended(&mut self) {
        self.problems.trouble = None;
        self.backoff.reset();
    }

    /// Whether a request failed because the API server has no such kind, and need not have it: what happened thereby, and
    /// how long to wait until it is looked for again.
    pub(crate) fn absent(&mut self, failure: &Failure) -> Option<(Vec<Event<R>>, Duration)> {
        let is_absent = matches!(failure, Failure::Refused { code: 404, .. });
        if !is_absent || !self.resource.is_optional() {
            return None;
        }
        self.state = State::Listing(None);
        self.absences = self.absences.saturating_add(1);
        if self.absences < ABSENCES {
            return Some((Vec::new(), self.backoff.failed()));
        }
        self.backoff.reset();
        let known =
            std::mem::replace(&mut self.problems, Problems { absent: true, ..Problems::default() });
        let gone = [Event::Listing, Event::Listed { version: self.last.unwrap_or_default() }];
        Some((gone.into_iter().filter(|_| !known.absent).collect(), LOOK_AGAIN))
    }

    /// A request failed, or a watch broke off. Returns how long to wait until the next.
    pub(crate) fn failed(&mut self, failure: &Failure) -> Duration {
        let status = failure.status();
        let lost =
            status.as_ref().is_some_and(|status| status.is_expired() || status.is_too_large());
        match &mut self.state {
            // Too slow for its history: the next list is one answer, which has no next page that could expire.
            State::Listing(next @ Some(_)) if lost => {
                *next = None;
                self.limit = None;
            }
            State::Watching(_) if lost => self.state = State::Listing(None),
            State::Listing(_) | State::Watching(_) => {}
        }
        let asked = status.as_ref().and_then(|status| status.details.as_ref());
        let asked = asked.map(|details| Duration::from_secs(details.retry_after_seconds.min(60)));
        self.problems.trouble = (!lost).then(|| self.sentence(failure));
        self.backoff.failed().max(asked.unwrap_or_default())
    }

    /// What does not work.
    pub(crate) fn problems(&self) -> &Problems<R::Key> {
        &self.problems
    }

    fn sentence(&self, failure: &Failure) -> String {
        let verb = match self.state {
            State::Listing(_) => "list",
            State::Watching(_) => "watch",
        };
        match failure {
            Failure::Refused { code: 404, .. } => self.resource.absence(),
            _ => {
                let (of, role) = (self.resource.name(), self.resource.role());
                let right = format!("{role} the verbs list and watch on {of}");
                failure.sentence(verb, of, &right)
            }
        }
    }
}

fn version_of(object: &str) -> Option<u64> {
    Metadata::of(object)?.version()
}

// === impl Problems ===

impl<K> Default for Problems<K> {
    fn default() -> Self {
        Self { trouble: None, unreadable: BTreeMap::new(), absent: false }
    }
}

impl<K: fmt::Display> Problems<K> {
    /// A sentence for each. `kind` stands before the names of objects.
    pub fn sentences(&self, kind: &str) -> impl Iterator<Item = String> {
        let unreadable = self.unreadable.iter();
        let unreadable = unreadable.map(move |(key, reason)| format!("{kind}{key}: {reason}"));
        self.trouble.iter().cloned().chain(unreadable)
    }
}

// === impl Event ===

impl Event<Kind> {
    /// The event of a source.
    pub(crate) fn of_source(self, kind: Kind) -> Option<SourceEvent> {
        Some(match self {
            Self::Restarted => return None,
            Self::Listing => SourceEvent::Listing { kind },
            Self::Applied { version, object } => {
                SourceEvent::Applied { resource_version: ResourceVersion(version), object }
            }
            Self::Deleted { version, key } => {
                SourceEvent::Deleted { resource_version: ResourceVersion(version), key }
            }
            Self::Unreadable { key } => SourceEvent::Unreadable { key },
            Self::Listed { version } => {
                SourceEvent::Listed { kind, resource_version: ResourceVersion(version) }
            }
            Self::Bookmark { version } => {
                SourceEvent::Bookmark { kind, resource_version: ResourceVersion(version) }
            }
        })
    }
}

#[cfg(test)]
mod tests;
