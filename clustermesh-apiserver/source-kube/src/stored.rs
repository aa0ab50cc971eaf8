//! Secrets and ConfigMaps of the apiserver's namespace: what an installation keeps in the API server.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{connection::Connection, failure::Failure, response::Metadata};

/// The kind of a stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

/// A Secret or ConfigMap by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Which of both.
    pub kind: StoredKind,
    /// Its name.
    pub name: &'static str,
}

/// What such an object has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredContent {
    /// Its texts by their keys. Binary values are left out.
    pub texts: BTreeMap<String, String>,
    /// Its version.
    pub version: u64,
}

/// Why such an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The API server does not answer, or refuses; a sentence.
    #[error("{0}")]
    Request(String),
    /// The answer is no object, or a value is no base64.
    #[error("{object}: {reason}")]
    Unreadable {
        /// The object.
        object: Stored,
        /// What is wrong.
        reason: String,
    },
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The object, as far as it is read.
#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Connection {
    /// What a stored object has; `None` if there is none.
    ///
    /// # Errors
    /// When the API server does not answer or refuses, or the object cannot be read.
    pub async fn stored(&self, object: Stored) -> Result<Option<StoredContent>, StoredError> {
        let path = self.stored_path(object, true);
        match self.asked(object, Method::GET, &path, None).await? {
            (StatusCode::OK, body) => object.answered(&body).map(Some),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(object.refused(&Method::GET, &Failure::refused(status, body))),
        }
    }

    /// Creates a stored object. Returns whether that was done: `false` if there is one already.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn create_stored(
        &self,
        object: Stored,
        texts: &BTreeMap<String, String>,
    ) -> Result<bool, StoredError> {
        let (kind, data) = match object.kind {
            StoredKind::Secret => ("Secret", "stringData"),
            StoredKind::ConfigMap => ("ConfigMap", "data"),
        };
        let body = json!({
            "apiVersion": "v1", "kind": kind, "metadata": { "name": object.name }, data: texts,
        });
        let path = self.stored_path(object, false);
        match self.asked(object, Method::POST, &path, Some(body)).await? {
            (StatusCode::CREATED, _) => Ok(true),
            (StatusCode::CONFLICT, _) => Ok(false),
            (status, body) => Err(object.refused(&Method::POST, &Failure::refused(status, body))),
        }
    }

    /// Changes texts of a version of a stored object; the others stay. Returns the new version; `None` if it was changed or
    /// removed meanwhile.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn change_stored(
        &self,
        object: Stored,
        texts: &BTreeMap<String, String>,
        version: u64,
    ) -> Result<Option<StoredContent>, StoredError> {
        let data = match object.kind {
            StoredKind::Secret => {
                let encoded =
                    |(key, text): (&String, &String)| (key.clone(), STANDARD.encode(text));
                json!(texts.iter().map(encoded).collect::<BTreeMap<_, _>>())
            }
            StoredKind::ConfigMap => json!(texts),
        };
        let body = json!({ "metadata": { "resourceVersion": version.to_string() }, "data": data });
        let path = self.stored_path(object, true);
        match self.asked(object, Method::PATCH, &path, Some(body)).await? {
            (StatusCode::OK, body) => object.answered(&body).map(Some),
            (StatusCode::CONFLICT | StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(object.refused(&Method::PATCH, &Failure::refused(status, body))),
        }
    }

    fn stored_path(&self, object: Stored, named: bool) -> String {
        let plural = object.plural();
        let name = if named { format!("/{}", object.name) } else { String::new() };
        format!("/api/v1/namespaces/{}/{plural}{name}", self.namespace())
    }

    async fn asked(
        &self,
        object: Stored,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, String), StoredError> {
        let body = body.map(|body| body.to_string().into_bytes());
        let answer = self.ask(method.clone(), path, body, PATIENCE).await;
        answer.map_err(|failure| object.refused(&method, &failure))
    }
}

// === impl Stored ===

impl Stored {
    fn plural(self) -> &'static str {
        match self.kind {
            StoredKind::Secret => "secrets",
            StoredKind::ConfigMap => "configmaps",
        }
    }

    fn answered(self, json: &str) -> Result<StoredContent, StoredError> {
        self.content(json).map_err(|reason| StoredError::Unreadable { object: self, reason })
    }

    /// What an object has, from its JSON. The error says what is wrong with it.
    pub(crate) fn content(self, json: &str) -> Result<StoredContent, String> {
        let Object { metadata, data } =
            serde_json::from_str(json).map_err(|error| error.to_string())?;
        let version = metadata.version().ok_or("its resourceVersion is no number")?;
        let texts = match self.kind {
            StoredKind::ConfigMap => data,
            StoredKind::Secret => {
                let decoded =
                    data.into_iter().filter_map(|(key, value)| match STANDARD.decode(value) {
                        Ok(bytes) => Some(Ok((key, String::from_utf8(bytes).ok()?))),
                        Err(error) => Some(Err(format!("{key}: {error}"))),
                    });
                decoded.collect::<Result<_, _>>()?
            }
        };
        Ok(StoredContent { texts, version })
    }

    pub(crate) fn refused(self, method: &Method, failure: &Failure) -> StoredError {
        let (verb, right) = match *method {
            Method::GET => ("read", "get"),
            Method::POST => ("create", "create"),
            _ => ("change", "patch"),
        };
        // A right to create cannot be for one name.
        let named = if right == "create" { String::new() } else { format!(" named {}", self.name) };
        let right = format!("its Role the verb {right} on {}{named}", self.plural());
        StoredError::Request(failure.sentence(verb, &format!("the {self}"), &right))
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StoredKind::Secret => "Secret",
            StoredKind::ConfigMap => "ConfigMap",
        };
        write!(f, "{kind} {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Stored = Stored { kind: StoredKind::Secret, name: "clustermesh-ca" };

    #[test]
    fn a_secret_has_texts_in_base64_and_others_are_left_out() {
        let content = SECRET.answered(
            r#"{"metadata":{"name":"clustermesh-ca","resourceVersion":"7"},"data":{"ca.crt":"YQ==","x":"/w=="}}"#,
        );
        let wanted = StoredContent { texts: [("ca.crt".into(), "a".into())].into(), version: 7 };
        assert_eq!(content.unwrap(), wanted);
        for (json, says) in [
            (r#"{"metadata":{"resourceVersion":"7"},"data":{"ca.crt":"?"}}"#, "ca.crt"),
            (r#"{"metadata":{"resourceVersion":""}}"#, "resourceVersion"),
            ("[]", "Secret clustermesh-ca"),
        ] {
            let error = SECRET.answered(json).unwrap_err().to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }

    #[test]
    fn a_missing_right_is_named() {
        let forbidden = Failure::refused(StatusCode::FORBIDDEN, String::new());
        for (method, right) in [
            (Method::GET, "the verb get on secrets named clustermesh-ca"),
            (Method::PATCH, "the verb patch on secrets named clustermesh-ca"),
            (Method::POST, "the verb create on secrets"),
        ] {
            let error = SECRET.refused(&method, &forbidden).to_string();
            assert!(error.ends_with(right), "{error}");
        }
    }
}
