//! A file in a ConfigMap of the apiserver's namespace: followed, read, and changed one version at a time.

use std::collections::BTreeMap;

use crate::{
    connection::Connection,
    resource::{Resource, Unreadable},
    response::Metadata,
    stored::{Stored, StoredContent, StoredError, StoredKind},
};

/// What a ConfigMap has, and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versioned<T> {
    /// What it has.
    pub value: T,
    /// The version; a later one is greater.
    pub version: u64,
}

/// A ConfigMap with one file.
#[derive(Debug)]
pub(crate) struct ConfigMapFile<T> {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is called where rights are named.
    pub(crate) described: &'static str,
    /// The key in its `data`: the file's name.
    pub(crate) key: &'static str,
    /// What is in force while the file cannot be read.
    pub(crate) kept: &'static str,
    /// Reads the file, if there is one.
    pub(crate) parse: fn(Option<&str>) -> Result<T, String>,
}

/// Why a ConfigMap could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigMapError {
    /// There is none.
    #[error(
        "there is no ConfigMap {name} in namespace {namespace}: apply deploy/manifests/apiserver-rbac.yaml"
    )]
    Missing {
        /// Its name.
        name: &'static str,
        /// The apiserver's namespace.
        namespace: String,
    },
    /// Its file cannot be used.
    #[error("ConfigMap {namespace}/{name}: {key}: {reason}: correct it first")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// The apiserver's namespace.
        namespace: String,
        /// The name of the file.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The API server does not answer or refuses, or its answer cannot be read.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The new content cannot be written as YAML.
    #[error("{0}")]
    Yaml(String),
}

/// The ConfigMap, to be followed.
#[derive(Debug)]
pub(crate) struct ConfigMapResource<T: 'static> {
    file: &'static ConfigMapFile<T>,
    path: String,
    role: String,
}

/// The ConfigMap, to be changed.
pub(crate) struct ConfigMap<'a, T: 'static> {
    pub(crate) connection: &'a Connection,
    pub(crate) file: &'static ConfigMapFile<T>,
}

// === impl ConfigMapFile ===

impl<T> ConfigMapFile<T> {
    fn object(&self) -> Stored {
        Stored { kind: StoredKind::ConfigMap, name: self.name }
    }

    fn read(
        &self,
        StoredContent { texts, version }: &StoredContent,
    ) -> Result<Versioned<T>, String> {
        let value = (self.parse)(texts.get(self.key).map(String::as_str))?;
        Ok(Versioned { value, version: *version })
    }
}

// === impl ConfigMapResource ===

impl<T> ConfigMapResource<T> {
    pub(crate) fn new(file: &'static ConfigMapFile<T>, namespace: &str) -> Self {
        Self {
            file,
            // By its name, so that a right for this one is enough.
            path: format!(
                "/api/v1/namespaces/{namespace}/configmaps?fieldSelector=metadata.name%3D{}",
                file.name
            ),
            role: format!("its Role in namespace {namespace}"),
        }
    }
}

impl<T> Resource for ConfigMapResource<T> {
    /// There is one, so all have the same.
    type Key = String;
    type Object = Versioned<T>;

    fn path(&self) -> &str {
        &self.path
    }

    fn name(&self) -> &str {
        let ConfigMapFile { described, .. } = self.file;
        described
    }

    fn role(&self) -> &str {
        &self.role
    }

    fn decode(&self, json: &str) -> Result<Versioned<T>, Unreadable<String>> {
        let ConfigMapFile { key, kept, .. } = self.file;
        let read = self.file.object().content(json).and_then(|content| self.file.read(&content));
        read.map_err(|reason| Unreadable {
            key: self.key_of(json),
            reason: format!("{key}: {reason}: {kept}"),
        })
    }

    fn key_of(&self, json: &str) -> Option<String> {
        Metadata::of(json)?.into_name()
    }

    fn key(&self, _: &Versioned<T>) -> String {
        self.file.name.into()
    }
}

// === impl ConfigMap ===

impl<T> ConfigMap<'_, T> {
    /// What it has now.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub(crate) async fn read(&self) -> Result<Versioned<T>, ConfigMapError> {
        let found = self.connection.stored(self.file.object()).await?;
        let missing = || ConfigMapError::Missing {
            name: self.file.name,
            namespace: self.connection.namespace().to_owned(),
        };
        self.parsed(&found.ok_or_else(missing)?)
    }

    /// Replaces the file in a version of it. Returns the new one; `None` if it was changed or removed before.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub(crate) async fn write(
        &self,
        text: &str,
        version: u64,
    ) -> Result<Option<Versioned<T>>, ConfigMapError> {
        let texts = BTreeMap::from([(self.file.key.to_owned(), text.to_owned())]);
        let changed = self.connection.change_stored(self.file.object(), &texts, version).await?;
        changed.map(|content| self.parsed(&content)).transpose()
    }

    fn parsed(&self, content: &StoredContent) -> Result<Versioned<T>, ConfigMapError> {
        let ConfigMapFile { name, key, .. } = *self.file;
        let namespace = self.connection.namespace().to_owned();
        let invalid = |reason| ConfigMapError::Invalid { name, namespace, key, reason };
        self.file.read(content).map_err(invalid)
    }
}
