//! A file in a ConfigMap of the apiserver's namespace: followed, read, and changed one version at a time.

use std::{collections::BTreeMap, time::Duration};

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::{
    connection::Connection,
    failure::Failure,
    resource::{Resource, Unreadable},
    response::Metadata,
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
    /// The API server does not answer, or refuses.
    #[error("{0}")]
    Request(String),
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

const PATIENCE: Duration = Duration::from_secs(5);

/// The object, as far as it is read.
#[derive(Deserialize)]
struct AnyConfigMap {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

// === impl ConfigMapFile ===

impl<T> ConfigMapFile<T> {
    fn read(&self, json: &str) -> Result<Versioned<T>, String> {
        let AnyConfigMap { metadata, data } =
            serde_json::from_str(json).map_err(|error| error.to_string())?;
        let value = (self.parse)(data.get(self.key).map(String::as_str))?;
        let version = metadata.version().ok_or("its resourceVersion is no number")?;
        Ok(Versioned { value, version })
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
        self.file.read(json).map_err(|reason| Unreadable {
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
        let (status, body) = self.ask(Method::GET, None).await?;
        self.answer("read", status, body)
    }

    /// Replaces the file in a version of it. Returns the new one; `None` if it was changed before.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub(crate) async fn write(
        &self,
        text: &str,
        version: u64,
    ) -> Result<Option<Versioned<T>>, ConfigMapError> {
        let patch = json!({
            "metadata": { "resourceVersion": version.to_string() },
            "data": { self.file.key: text },
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
    ) -> Result<(StatusCode, String), ConfigMapError> {
        let (namespace, name) = (self.connection.namespace(), self.file.name);
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        let verb = if body.is_some() { "change" } else { "read" };
        let answer = self.connection.ask(method, &path, body, PATIENCE).await;
        answer.map_err(|failure| self.request(verb, &failure))
    }

    fn answer(
        &self,
        verb: &str,
        status: StatusCode,
        body: String,
    ) -> Result<Versioned<T>, ConfigMapError> {
        let ConfigMapFile { name, key, .. } = *self.file;
        let namespace = || self.connection.namespace().to_owned();
        match status {
            StatusCode::OK => self.file.read(&body).map_err(|reason| ConfigMapError::Invalid {
                name,
                namespace: namespace(),
                key,
                reason,
            }),
            StatusCode::NOT_FOUND => Err(ConfigMapError::Missing { name, namespace: namespace() }),
            status => Err(self.request(verb, &Failure::refused(status, body))),
        }
    }

    fn request(&self, verb: &str, failure: &Failure) -> ConfigMapError {
        let right = if verb == "read" { "get" } else { "patch" };
        let right = format!("its Role the verb {right} on configmaps named {}", self.file.name);
        ConfigMapError::Request(failure.sentence(verb, self.file.described, &right))
    }
}
