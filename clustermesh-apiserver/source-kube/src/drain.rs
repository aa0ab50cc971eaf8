//! What is drained: the `drain.yaml` in a ConfigMap.

use std::time::Duration;

use http::{Method, StatusCode};
use mesh_source::{Drain, DrainError};
use serde::Deserialize;
use serde_json::json;

use crate::{
    connection::Connection,
    follower::{Event, Failure, Followed},
    resource::{Resource, Unreadable},
    response::{Status, version},
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
    /// Why the last request failed, or the ConfigMap cannot be read: with what to do.
    pub trouble: Option<String>,
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
    data: std::collections::BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    resource_version: String,
}

fn parse(json: &str) -> Result<VersionedDrain, String> {
    let ConfigMap { metadata, data } =
        serde_json::from_str(json).map_err(|error| error.to_string())?;
    let text = data.get(KEY).map(String::as_str).unwrap_or_default();
    let drain = Drain::parse(text).map_err(|error: DrainError| error.to_string())?;
    let version = version(&metadata.resource_version);
    Ok(VersionedDrain { drain, version: version.ok_or("its resourceVersion is no number")? })
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
        parse(json).map_err(|reason| Unreadable { key: self.key_of(json), reason })
    }

    fn key_of(&self, json: &str) -> Option<String> {
        let ConfigMap { metadata, .. } = serde_json::from_str(json).ok()?;
        Some(metadata.name).filter(|name| !name.is_empty())
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
        let Followed { events, trouble, unreadable } = followed;
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
        let unreadable = unreadable.unwrap_or_default().into_iter().next();
        let unreadable = unreadable.map(|(name, reason)| {
            format!("ConfigMap {name}: {KEY}: {reason}: what was drained before stays drained")
        });
        Self { drain, restarted, trouble: trouble.or(unreadable) }
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
        let answer = self.connection.ask(Method::GET, &self.path(), None, PATIENCE).await;
        match answer.map_err(|failure| request("read", &failure))? {
            (StatusCode::OK, text) => parse(&text).map_err(|reason| DrainConfigMapError::Invalid {
                namespace: self.namespace(),
                reason,
            }),
            (StatusCode::NOT_FOUND, _) => {
                Err(DrainConfigMapError::Missing { namespace: self.namespace() })
            }
            (status, body) => {
                Err(request("read", &Failure::Refused { code: status.as_u16(), body }))
            }
        }
    }

    /// Replaces a version of it. Returns the new one; `None` if somebody else changed it before.
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
        let patch = Some(patch.to_string().into_bytes());
        let answer = self.connection.ask(Method::PATCH, &self.path(), patch, PATIENCE).await;
        match answer.map_err(|failure| request("change", &failure))? {
            (StatusCode::OK, text) => parse(&text).map(Some).map_err(|reason| {
                DrainConfigMapError::Invalid { namespace: self.namespace(), reason }
            }),
            (StatusCode::CONFLICT, _) => Ok(None),
            (StatusCode::NOT_FOUND, _) => {
                Err(DrainConfigMapError::Missing { namespace: self.namespace() })
            }
            (status, body) => {
                Err(request("change", &Failure::Refused { code: status.as_u16(), body }))
            }
        }
    }

    fn namespace(&self) -> String {
        self.connection.namespace().into()
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{NAME}", self.connection.namespace())
    }
}

fn request(verb: &str, failure: &Failure) -> DrainConfigMapError {
    DrainConfigMapError::Request(match failure {
        Failure::Broken(reason) => format!("the API server: {reason}"),
        Failure::Refused { code: 403, .. } => {
            let right = if verb == "read" { "get" } else { "patch" };
            format!(
                "the API server does not allow this apiserver to {verb} the ConfigMap {NAME}: give its Role the verb {right} on configmaps named {NAME}"
            )
        }
        Failure::Refused { code, body } => {
            let Status { message, .. } = serde_json::from_str(body).unwrap_or_default();
            format!("the API server refused to {verb} the ConfigMap {NAME} (HTTP {code}) {message}")
        }
    })
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
        let new =
            |events| FollowedDrain::new(Followed { events, trouble: None, unreadable: None }).drain;
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
