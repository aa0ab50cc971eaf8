//! Objects of the kind `MeshIdentity`: how they are written and read.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use mesh_alloc::{IdentityAnswer, MeshIdentity, State};
use mesh_model::{Identity, Label, Labels};
use serde::{Deserialize, Serialize};

use crate::{
    follower::{Event, Followed, Problems},
    resource::{Resource, Unreadable},
    response::Metadata,
};

/// What happens to the objects of identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityEvent {
    /// The API server's history is another one.
    Restarted,
    /// A list of all begins.
    Listing,
    /// One is there.
    Applied(MeshIdentity),
    /// The name of one is taken by an object that cannot be read.
    Taken(Identity),
    /// One is gone.
    Deleted {
        /// Its ID.
        id: Identity,
        /// The version of the deletion.
        version: u64,
    },
    /// The list is complete.
    Listed {
        /// The version of the list.
        version: u64,
    },
}

/// What the follower of identities reports.
#[derive(Debug)]
pub struct FollowedIdentities {
    /// What happened, in order.
    pub events: Vec<IdentityEvent>,
    /// What does not work; `None`: as before.
    pub problems: Option<Problems<String>>,
}

/// What became of a request about an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityOutcome {
    /// It is answered.
    Answered(IdentityAnswer),
    /// It was not, and is repeated: why, with what to do.
    Repeated(String),
    /// One is answered after others were not.
    Recovered,
}

/// The kind `MeshIdentity`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MeshIdentityResource;

pub(crate) const PATH: &str = "/apis/clustermesh.dev/v1alpha1/meshidentities";
pub(crate) const NAME: &str = "meshidentities.clustermesh.dev";
const API_VERSION: &str = "clustermesh.dev/v1alpha1";

/// An object as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    /// Keys with their source, as in `k8s:app`.
    labels: BTreeMap<String, String>,
    state: WrittenState,
    since: Timestamp,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WrittenState {
    Used,
    Unused,
    Resting,
}

// === impl WrittenState ===

impl From<State> for WrittenState {
    fn from(state: State) -> Self {
        match state {
            State::Used => Self::Used,
            State::Marked => Self::Unused,
            State::Deleted => Self::Resting,
        }
    }
}

impl From<WrittenState> for State {
    fn from(state: WrittenState) -> Self {
        match state {
            WrittenState::Used => Self::Used,
            WrittenState::Unused => Self::Marked,
            WrittenState::Resting => Self::Deleted,
        }
    }
}

// === impl MeshIdentityResource ===

impl Resource for MeshIdentityResource {
    type Key = String;
    type Object = MeshIdentity;

    fn path(&self) -> &str {
        PATH
    }

    fn name(&self) -> &str {
        NAME
    }

    fn absence(&self) -> String {
        absence()
    }

    fn decode(&self, json: &str) -> Result<MeshIdentity, Unreadable<String>> {
        let unreadable = |reason| Unreadable { key: self.key_of(json), reason };
        let written: Written =
            serde_json::from_str(json).map_err(|error| unreadable(error.to_string()))?;
        read(written).map_err(unreadable)
    }

    fn key_of(&self, json: &str) -> Option<String> {
        Metadata::of(json)?.into_name()
    }

    fn key(&self, object: &MeshIdentity) -> String {
        object.id.to_string()
    }
}

pub(crate) fn absence() -> String {
    format!("the API server has no {NAME}: apply deploy/manifests/meshidentities.yaml")
}

fn read(written: Written) -> Result<MeshIdentity, String> {
    let Written { metadata, spec, .. } = written;
    let (name, version) = (&metadata.name, metadata.version());
    let id = id_of(name).ok_or_else(|| format!("its name {name:?} is not an identity ID"))?;
    let version = version.ok_or_else(|| {
        format!("its resourceVersion {:?} is no number", metadata.resource_version)
    })?;
    let labels = spec.labels.iter().map(|(key, value)| Label::with_name(key, value));
    Ok(MeshIdentity {
        id,
        labels: labels.collect(),
        state: spec.state.into(),
        since: u64::try_from(spec.since.as_nanosecond()).unwrap_or_default(),
        version,
    })
}

/// The ID that a name is.
fn id_of(name: &str) -> Option<Identity> {
    name.parse().ok().filter(|id: &u32| id.to_string() == name).map(Identity::new)
}

/// The body of a request.
pub(crate) fn write(id: Identity, labels: &Labels, state: State, version: Option<u64>) -> Vec<u8> {
    let resource_version = version.map(|version| version.to_string()).unwrap_or_default();
    let labels = labels.iter();
    let labels = labels.map(|(source, key, value)| (format!("{source}:{key}"), value.to_owned()));
    let written = Written {
        api_version: API_VERSION.into(),
        kind: "MeshIdentity".into(),
        metadata: Metadata { name: id.to_string(), resource_version, ..Metadata::default() },
        spec: Spec { labels: labels.collect(), state: state.into(), since: Timestamp::now() },
    };
    // Text and numbers: writing them to memory cannot fail.
    serde_json::to_vec(&written).unwrap_or_default()
}

// === impl FollowedIdentities ===

impl FollowedIdentities {
    pub(crate) fn new(followed: Followed<MeshIdentityResource>) -> Self {
        let Followed { events, problems } = followed;
        let event = |event: Event<MeshIdentityResource>| match event {
            Event::Restarted => Some(IdentityEvent::Restarted),
            Event::Listing => Some(IdentityEvent::Listing),
            Event::Applied { object, .. } => Some(IdentityEvent::Applied(object)),
            Event::Unreadable { key } => id_of(&key).map(IdentityEvent::Taken),
            Event::Deleted { version, key } => {
                id_of(&key).map(|id| IdentityEvent::Deleted { id, version })
            }
            Event::Listed { version } => Some(IdentityEvent::Listed { version }),
            Event::Bookmark { .. } => None,
        };
        Self { events: events.into_iter().filter_map(event).collect(), problems }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels::parse("k8s:app=web;k8s:io.kubernetes.pod.namespace=shop;")
    }

    #[test]
    fn an_object_is_read_as_it_was_written() {
        let id = Identity::new(65_792);
        for state in [State::Used, State::Marked, State::Deleted] {
            let text = String::from_utf8(write(id, &labels(), state, Some(7))).unwrap();
            let read = MeshIdentityResource.decode(&text).unwrap();
            assert_eq!((read.id, read.labels, read.state, read.version), (id, labels(), state, 7));
            assert!(read.since > 1_700_000_000_000_000_000, "{}", read.since);
        }
        let created = String::from_utf8(write(id, &labels(), State::Used, None)).unwrap();
        assert!(!created.contains("resourceVersion"), "{created}");
    }

    #[test]
    fn what_cannot_be_read_says_why_and_which() {
        let object = |name: &str, rest: &str| {
            format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"7"}},{rest}}}"#)
        };
        let spec = r#""spec":{"labels":{},"state":"used","since":"2026-01-01T00:00:00Z"}"#;
        for (text, wanted) in [
            (object("01", spec), "its name \"01\" is not an identity ID"),
            (object("x", spec), "its name \"x\" is not an identity ID"),
            (object("7", r#""spec":{}"#), "missing field `labels`"),
            (object("7", &spec.replace("used", "new")), "unknown variant `new`"),
            (object("7", &spec.replace("2026-01-01", "today")), "failed to parse"),
        ] {
            let unreadable = MeshIdentityResource.decode(&text).unwrap_err();
            assert!(unreadable.reason.contains(wanted), "{text}: {}", unreadable.reason);
            assert!(unreadable.key.is_some());
        }
    }
}
