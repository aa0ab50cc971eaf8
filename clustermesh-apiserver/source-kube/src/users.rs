//! The etcd users of peers: the `users.yaml` in a ConfigMap.

use crate::{
    config_map::{ConfigMap, ConfigMapError, ConfigMapFile, ConfigMapResource, Versioned},
    connection::Connection,
    follower::{Event, Followed, Problems},
};

/// The text of the file; `None` without one.
pub type VersionedUsers = Versioned<Option<String>>;

/// What the follower of the ConfigMap reports.
#[derive(Debug, Default)]
pub struct FollowedUsers {
    /// The text of the file, if it may be new. A ConfigMap or a file that is gone is not reported: it does not mean that there
    /// are no peers.
    pub text: Option<String>,
    /// What does not work; `None`: as before.
    pub problems: Option<Problems<String>>,
}

/// The ConfigMap, to be changed.
#[derive(Clone)]
pub struct UsersConfigMap {
    connection: Connection,
}

/// The ConfigMap.
pub(crate) static FILE: ConfigMapFile<Option<String>> = ConfigMapFile {
    name: "clustermesh-users",
    described: "the ConfigMap clustermesh-users",
    key: "users.yaml",
    kept: "the peers' users stay as they are",
    // The reader of the text parses it.
    parse: |text| Ok(text.map(str::to_owned)),
};

// === impl FollowedUsers ===

impl FollowedUsers {
    /// The last text in what a follower reports.
    pub(crate) fn new(followed: Followed<ConfigMapResource<Option<String>>>) -> Self {
        let Followed { events, problems } = followed;
        let mut texts = events.into_iter().filter_map(|event| match event {
            Event::Applied { object, .. } => object.value,
            _ => None,
        });
        Self { text: texts.next_back(), problems }
    }
}

// === impl UsersConfigMap ===

impl UsersConfigMap {
    /// The ConfigMap in the apiserver's namespace.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// What it has now.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn read(&self) -> Result<VersionedUsers, ConfigMapError> {
        self.config_map().read().await
    }

    /// Replaces the file in a version of it. Returns the new one; `None` if it was changed before.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn write(
        &self,
        text: &str,
        version: u64,
    ) -> Result<Option<VersionedUsers>, ConfigMapError> {
        self.config_map().write(text, version).await
    }

    fn config_map(&self) -> ConfigMap<'_, Option<String>> {
        ConfigMap { connection: &self.connection, file: &FILE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_gone_is_not_reported_and_an_empty_one_is() {
        let applied = |text: Option<&str>| Event::Applied {
            version: 5,
            object: Versioned { value: text.map(str::to_owned), version: 5 },
        };
        let text = |events| FollowedUsers::new(Followed { events, problems: None }).text;
        let listed = || Event::Listed { version: 9 };
        let gone = || Event::Deleted { version: 9, key: FILE.name.into() };
        assert_eq!(text(vec![Event::Listing, listed()]), None);
        assert_eq!(text(vec![Event::Listing, applied(None), listed()]), None);
        assert_eq!(text(vec![applied(Some("one")), gone()]).as_deref(), Some("one"));
        assert_eq!(text(vec![applied(Some("one")), applied(Some(""))]).as_deref(), Some(""));
    }
}
