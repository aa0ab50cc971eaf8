//! What is drained: the `drain.yaml` in a ConfigMap.

use std::{collections::BTreeMap, time::Duration};

use http::{Method, StatusCode};
use mesh_source::{Drain, DrainError};
use serde::Deserialize;
use serde_json::json;

use crate::{
    connection::Connection,
    failure::Failure,
    follower::{Event, Followed, Problems},
    resource::{Resource, Unreadable},
    response::Metadata,
};

/// What is drained, and the version of the ConfigMap that says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionedDrain {
    /// What is drained.
    pub drain: Drain,
    /// The version; a later one is greater.
    pub version: u64,
}

/// What the follower of the ConfigMap reports.
#[derive(Debug, Default)]
pub struct FollowedDrain {
    /// What is drained, if that may be new.
    pub drain: Option<VersionedDrain>,
    /// Whether versions cannot be compared with those before.
    pub restarted: bool,
    /// What does not work; `None`: as before.
    pub problems: Option<Problems<String>>,
}

/// The ConfigMap, to be changed.
#[derive(Clone)]
pub struct DrainConfigMap {
    connection: Connection,
}

/// Why the ConfigMap could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DrainConfigMapError {
    /// There is none.
    #[error(
        "there is no ConfigMap {NAME} in namespace {namespace}: apply deploy/manifests/apiserver-rbac.yaml"
    )]
    Missing {
        /// The apiserver's namespace.
        namespace: String,
    },
    /// It has no `drain.yaml` that can be used.
    #[error("ConfigMap {namespace}/{NAME}: drain.yaml: {reason}: correct it first")]
    Invalid {
        /// The apiserver's namespace.
        namespace: String,
        /// What is wrong.
        reason: String,
    },
    /// The API server does not answer, or refuses.
    #[error("{0}")]
    Request(String),
}

const NAME: &str = "clustermesh-drain";
const KEY: &str = "drain.yaml";
const PATIENCE: Duration = Duration::from_secs(5);

/// The ConfigMap, to be followed.
#[derive(Clone, Debug)]
pub(crate) struct DrainResource {
    path: String,
    role: String,
}

/// The object, as far as it is read.
#[derive(Deserialize)]
struct ConfigMap {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

fn parse(json: &str) -> Result<VersionedDrain, String> {
    let ConfigMap { metadata, data } =
        serde_json::from_str(json).map_err(|error| error.to_string())?;
    let text = data.get(KEY).map(String::as_str).unwrap_or_default();
    let drain = Drain::parse(text).map_err(|error: DrainError| error.to_string())?;
    let version = metadata.version().ok_or("its resourceVersion is no number")?;
    Ok(VersionedDrain { drain, version })
}

// === impl DrainResource ===

impl DrainResource {
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            // By its name, so that a right for this one is enough.
            path: format!(
                "/api/v1/namespaces/{namespace}/configmaps?fieldSelector=metadata.name%3D{NAME}"
            ),
            role: format!("its Role in namespace {namespace}"),
        }
    }
}

impl Resource for DrainResource {
    type Key = String;
    type Object = VersionedDrain;

    fn path(&self) -> &str {
        &self.path
    }

    fn name(&self) -> &str {
        "the ConfigMap clustermesh-drain"
    }

    fn role(&self) -> &str {
        &self.role
    }

    fn decode(&self, json: &str) -> Result<VersionedDrain, Unreadable<String>> {
        parse(json).map_err(|reason| Unreadable {
            key: self.key_of(json),
            reason: format!("{KEY}: {reason}: what was drained before stays drained"),
        })
    }

    fn key_of(&self, json: &str) -> Option<String> {
        Metadata::of(json)?.into_name()
    }

    fn key(_: &VersionedDrain) -> String {
        NAME.into()
    }
}

// === impl FollowedDrain ===

impl FollowedDrain {
    /// The last state in what a follower reports. Without the ConfigMap nothing is drained; one that cannot be read changes
    /// nothing.
    pub(crate) fn new(followed: Followed<DrainResource>) -> Self {
        let Followed { events, problems } = followed;
        let (mut drain, mut is_there, mut restarted) = (None, false, false);
        for event in events {
            match event {
                Event::Listing => is_there = false,
                Event::Applied { object, .. } => (drain, is_there) = (Some(object), true),
                Event::Unreadable { .. } => is_there = true,
                Event::Deleted { version, .. } => {
                    drain = Some(VersionedDrain { version, ..VersionedDrain::default() });
                }
                Event::Listed { version } if !is_there => {
                    drain = Some(VersionedDrain { version, ..VersionedDrain::default() });
                }
                Event::Listed { .. } | Event::Bookmark { .. } => {}
                Event::Restarted => restarted = true,
            }
        }
        Self { drain, restarted, problems }
    }
}

// === impl DrainConfigMap ===

impl DrainConfigMap {
    /// The ConfigMap in the apiserver's namespace.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// What it has now.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn read(&self) -> Result<VersionedDrain, DrainConfigMapError> {
        let (status, body) = self.ask(Method::GET, None).await?;
        self.answer("read", status, body)
    }

    /// Replaces a version of it. Returns the new one; `None` if it was changed before.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn write(
        &self,
        drain: &Drain,
        version: u64,
    ) -> Result<Option<VersionedDrain>, DrainConfigMapError> {
        let text =
            drain.to_yaml().map_err(|error| DrainConfigMapError::Request(error.to_string()))?;
        let patch = json!({
            "metadata": { "resourceVersion": version.to_string() },
            "data": { KEY: text },
        });
        let patch = patch.to_string().into_bytes();
        match self.ask(Method::PATCH, Some(patch)).await? {
            (StatusCode::CONFLICT, _) => Ok(None),
            (status, body) => self.answer("change", status, body).map(Some),
        }
    }

    async fn ask(
        &self,
        method: Method,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, String), DrainConfigMapError> {
        let path = format!("/api/v1/namespaces/{}/configmaps/{NAME}", self.connection.namespace());
        let verb = if body.is_some() { "change" } else { "read" };
        let answer = self.connection.ask(method, &path, body, PATIENCE).await;
        answer.map_err(|failure| request(verb, &failure))
    }

    fn answer(
        &self,
        verb: &str,
        status: StatusCode,
        body: String,
    ) -> Result<VersionedDrain, DrainConfigMapError> {
        let namespace = || self.connection.namespace().to_owned();
        match status {
            StatusCode::OK => parse(&body)
                .map_err(|reason| DrainConfigMapError::Invalid { namespace: namespace(), reason }),
            StatusCode::NOT_FOUND => Err(DrainConfigMapError::Missing { namespace: namespace() }),
            status => Err(request(verb, &Failure::refused(status, body))),
        }
    }
}

fn request(verb: &str, failure: &Failure) -> DrainConfigMapError {
    let right = if verb == "read" { "get" } else { "patch" };
    let right = format!("its Role the verb {right} on configmaps named {NAME}");
    DrainConfigMapError::Request(failure.sentence(verb, "the ConfigMap clustermesh-drain", &right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_map_has_a_drain_yaml() {
        let map = |data: &str| {
            format!(r#"{{"metadata":{{"name":"clustermesh-drain","resourceVersion":"7"}}{data}}}"#)
        };
        let resource = DrainResource::new("clustermesh-system");
        for (data, cluster) in [
            (r#","data":{"drain.yaml":"cluster: true\nnodes: []\n"}"#, true),
            (r#","data":{"drain.yaml":""}"#, false),
            ("", false),
        ] {
            let found = resource.decode(&map(data)).unwrap();
            assert_eq!((found.drain.cluster, found.version), (cluster, 7), "{data}");
        }
        let wrong = map(r#","data":{"drain.yaml":"clusters: true"}"#);
        let unreadable = resource.decode(&wrong).unwrap_err();
        assert_eq!(unreadable.key.as_deref(), Some(NAME));
        assert!(unreadable.reason.contains("clusters"), "{}", unreadable.reason);
    }

    #[test]
    fn without_the_config_map_nothing_is_drained_and_an_unreadable_one_changes_nothing() {
        let new = |events| FollowedDrain::new(Followed { events, problems: None }).drain;
        let drained =
            VersionedDrain { drain: Drain { cluster: true, ..Drain::default() }, version: 5 };
        let nothing = |version| Some(VersionedDrain { drain: Drain::default(), version });
        let applied = |object| Event::Applied { version: 5, object };
        let listed = || Event::Listed { version: 9 };
        assert_eq!(new(vec![Event::Listing, listed()]), nothing(9));
        assert_eq!(new(vec![Event::Listing, applied(drained.clone()), listed()]), Some(drained));
        let unreadable = Event::Unreadable { key: NAME.into() };
        assert_eq!(new(vec![Event::Listing, unreadable, listed()]), None);
        assert_eq!(new(vec![Event::Deleted { version: 11, key: NAME.into() }]), nothing(11));
    }
}
