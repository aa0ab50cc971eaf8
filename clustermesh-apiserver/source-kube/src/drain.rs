//! What is drained: the `drain.yaml` in a ConfigMap.

use mesh_source::Drain;

use crate::{
    config_map::{ConfigMap, ConfigMapError, ConfigMapFile, ConfigMapResource, Versioned},
    connection::Connection,
    follower::{Event, Followed, Problems},
};

/// What is drained, and the version of the ConfigMap that says so.
pub type VersionedDrain = Versioned<Drain>;

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

/// The ConfigMap.
pub(crate) static FILE: ConfigMapFile<Drain> = ConfigMapFile {
    name: "clustermesh-drain",
    described: "the ConfigMap clustermesh-drain",
    key: "drain.yaml",
    kept: "what was drained before stays drained",
    parse: |text| Drain::parse(text.unwrap_or_default()).map_err(|error| error.to_string()),
};

// === impl FollowedDrain ===

impl FollowedDrain {
    /// The last state in what a follower reports. Without the ConfigMap nothing is drained; one that cannot be read changes
    /// nothing.
    pub(crate) fn new(followed: Followed<ConfigMapResource<Drain>>) -> Self {
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
    pub async fn read(&self) -> Result<VersionedDrain, ConfigMapError> {
        self.config_map().read().await
    }

    /// Replaces a version of it. Returns the new one; `None` if it was changed before.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn write(
        &self,
        drain: &Drain,
        version: u64,
    ) -> Result<Option<VersionedDrain>, ConfigMapError> {
        let text = drain.to_yaml().map_err(|error| ConfigMapError::Yaml(error.to_string()))?;
        self.config_map().write(&text, version).await
    }

    fn config_map(&self) -> ConfigMap<'_, Drain> {
        ConfigMap { connection: &self.connection, file: &FILE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Resource as _;

    #[test]
    fn a_config_map_has_a_drain_yaml() {
        let map = |data: &str| {
            format!(r#"{{"metadata":{{"name":"clustermesh-drain","resourceVersion":"7"}}{data}}}"#)
        };
        let resource = ConfigMapResource::new(&FILE, "clustermesh-system");
        for (data, cluster) in [
            (r#","data":{"drain.yaml":"cluster: true\nnodes: []\n"}"#, true),
            (r#","data":{"drain.yaml":""}"#, false),
            ("", false),
        ] {
            let found = resource.decode(&map(data)).unwrap();
            assert_eq!((found.value.cluster, found.version), (cluster, 7), "{data}");
        }
        let wrong = map(r#","data":{"drain.yaml":"clusters: true"}"#);
        let unreadable = resource.decode(&wrong).unwrap_err();
        assert_eq!(unreadable.key.as_deref(), Some(FILE.name));
        assert!(unreadable.reason.contains("clusters"), "{}", unreadable.reason);
    }

    #[test]
    fn without_the_config_map_nothing_is_drained_and_an_unreadable_one_changes_nothing() {
        let new = |events| FollowedDrain::new(Followed { events, problems: None }).drain;
        let drained =
            VersionedDrain { value: Drain { cluster: true, ..Drain::default() }, version: 5 };
        let nothing = |version| Some(VersionedDrain { value: Drain::default(), version });
        let applied = |object| Event::Applied { version: 5, object };
        let listed = || Event::Listed { version: 9 };
        assert_eq!(new(vec![Event::Listing, listed()]), nothing(9));
        assert_eq!(new(vec![Event::Listing, applied(drained.clone()), listed()]), Some(drained));
        let unreadable = Event::Unreadable { key: FILE.name.into() };
        assert_eq!(new(vec![Event::Listing, unreadable, listed()]), None);
        assert_eq!(new(vec![Event::Deleted { version: 11, key: FILE.name.into() }]), nothing(11));
    }
}
