//! The Secret with a cluster's peers.
//!
//! Each peer's entries have a field manager of their own, so that two commands, or a command and a GitOps controller, never
//! overwrite each other's unseen: the API server refuses, and names the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use http::{Method, StatusCode};
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};
use mesh_model::ClusterName;
use mesh_wire::peering::SECRET;
use serde_json::json;

use crate::{
    connection::Connection,
    failure::Failure,
    stored::{Stored, StoredKind},
};

/// The Secret, to be read and changed.
#[derive(Clone)]
pub struct PeersSecret {
    connection: Connection,
}

/// The Secret as it is in one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretState {
    /// Its entries.
    pub data: BTreeMap<String, Vec<u8>>,
    /// The field managers of each entry.
    pub managers: BTreeMap<String, BTreeSet<String>>,
    /// The version.
    version: String,
}

/// Why the Secret could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PeersSecretError {
    /// There is none.
    #[error(
        "there is no Secret {SECRET} in namespace {namespace}: apply deploy/manifests/apiserver-rbac.yaml"
    )]
    Missing {
        /// The apiserver's namespace.
        namespace: String,
    },
    /// Another field manager has other values.
    #[error(
        "Secret {namespace}/{SECRET} has entries of {peer} that something else manages: {conflicts}. Nothing was changed: remove them there, or give them up there, then try again"
    )]
    Conflict {
        /// The apiserver's namespace.
        namespace: String,
        /// The peer.
        peer: String,
        /// The entries and their managers.
        conflicts: String,
    },
    /// The API server does not answer, or refuses.
    #[error("{0}")]
    Request(String),
}

const PATIENCE: Duration = Duration::from_secs(10);
const OBJECT: Stored = Stored { kind: StoredKind::Secret, name: SECRET };

/// The field manager of a peer's entries.
pub(crate) fn manager(peer: &ClusterName) -> String {
    format!("clustermesh-peer-{peer}")
}

// === impl SecretState ===

impl SecretState {
    fn new(json: &str) -> Result<Self, String> {
        let secret: Secret = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let data = secret.data.unwrap_or_default();
        let mut managers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for ManagedFieldsEntry { manager, fields_v1, .. } in
            secret.metadata.managed_fields.unwrap_or_default()
        {
            let fields = fields_v1.map(|fields| fields.0).unwrap_or_default();
            let entries = fields.get("f:data").and_then(|data| data.as_object());
            for entry in entries.into_iter().flatten().filter_map(|(k, _)| k.strip_prefix("f:")) {
                let manager = manager.clone().unwrap_or_default();
                managers.entry(entry.to_owned()).or_default().insert(manager);
            }
        }
        Ok(Self {
            data: data.into_iter().map(|(name, ByteString(value))| (name, value)).collect(),
            managers,
            version: secret.metadata.resource_version.unwrap_or_default(),
        })
    }

    /// The size of all entries, in bytes, as Kubernetes limits it.
    pub fn bytes(&self) -> usize {
        self.data.values().map(Vec::len).sum()
    }

    /// An entry that is text.
    pub fn text(&self, entry: &str) -> Option<&str> {
        self.data.get(entry).and_then(|value| str::from_utf8(value).ok())
    }

    /// The entries that the field manager of a peer has.
    pub fn of_peer(&self, peer: &ClusterName) -> BTreeMap<String, Vec<u8>> {
        let manager = manager(peer);
        let is_its = |name: &str| self.managers.get(name).is_some_and(|all| all.contains(&manager));
        let entries = self.data.iter().filter(|(name, _)| is_its(name));
        entries.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

// === impl PeersSecret ===

impl PeersSecret {
    /// The Secret in the apiserver's namespace.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// What it has now.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn read(&self) -> Result<SecretState, PeersSecretError> {
        let answer = self.connection.ask(Method::GET, &self.path(), None, PATIENCE).await;
        match answer.map_err(|failure| request(&Method::GET, &failure))? {
            (StatusCode::OK, body) => state(&body),
            (StatusCode::NOT_FOUND, _) => Err(self.missing()),
            (status, body) => Err(request(&Method::GET, &Failure::refused(status, body))),
        }
    }

    /// Makes these the entries of a peer, by server-side apply: those that its field manager had and that are not among them
    /// are removed. Returns the Secret as it is then; `None` if it is not the version `before` any more.
    ///
    /// # Errors
    /// When another field manager has other values, or the API server does not answer or refuses.
    pub async fn apply(
        &self,
        peer: &ClusterName,
        entries: &BTreeMap<String, Vec<u8>>,
        before: &SecretState,
    ) -> Result<Option<SecretState>, PeersSecretError> {
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": SECRET, "resourceVersion": before.version },
        });
        // An empty map would be a field of this manager.
        if let (Some(object), false) = (object.as_object_mut(), entries.is_empty()) {
            let entry =
                |(name, value): (&String, &Vec<u8>)| (name.clone(), ByteString(value.clone()));
            let data: BTreeMap<String, ByteString> = entries.iter().map(entry).collect();
            object.insert("data".into(), json!(data));
        }
        let path = format!("{}?fieldManager={}", self.path(), manager(peer));
        let answer = self.connection.apply(&path, object.to_string().into_bytes(), PATIENCE).await;
        let (status, body) = answer.map_err(|failure| request(&Method::PATCH, &failure))?;
        let failure = match status {
            StatusCode::OK => return state(&body).map(Some),
            StatusCode::NOT_FOUND => return Err(self.missing()),
            status => Failure::refused(status, body),
        };
        if status != StatusCode::CONFLICT {
            return Err(request(&Method::PATCH, &failure));
        }
        let details = failure.status().and_then(|status| status.details);
        let causes = details.into_iter().flat_map(|details| details.causes);
        let conflicts = causes.filter(|cause| cause.reason == "FieldManagerConflict");
        let conflicts = conflicts.map(|cause| format!("{} ({})", cause.field, cause.message));
        let conflicts: Vec<String> = conflicts.collect();
        match conflicts.is_empty() {
            // Another version: another command was faster.
            true => Ok(None),
            false => Err(PeersSecretError::Conflict {
                namespace: self.connection.namespace().into(),
                peer: peer.to_string(),
                conflicts: conflicts.join(", "),
            }),
        }
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets/{SECRET}", self.connection.namespace())
    }

    fn missing(&self) -> PeersSecretError {
        PeersSecretError::Missing { namespace: self.connection.namespace().into() }
    }
}

fn state(body: &str) -> Result<SecretState, PeersSecretError> {
    SecretState::new(body)
        .map_err(|error| PeersSecretError::Request(format!("the API server: its Secret: {error}")))
}

fn request(method: &Method, failure: &Failure) -> PeersSecretError {
    PeersSecretError::Request(OBJECT.refused(method, failure).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_managers() {
        let json = r#"{"metadata":{"name":"clustermesh-peers","resourceVersion":"7","managedFields":[
            {"manager":"clustermesh-peer-b","operation":"Apply","fieldsV1":{"f:data":{"f:b":{},"f:b.etcd-client.key":{}}}},
            {"manager":"flux","operation":"Apply","fieldsV1":{"f:data":{"f:b":{}},"f:type":{}}},
            {"manager":"kubectl","fieldsV1":{"f:data":{".":{},"f:c":{}}}}]},
            "data":{"b":"eA==","b.etcd-client.key":"eHk=","c":"/w=="}}"#;
        let state = SecretState::new(json).unwrap();
        assert_eq!((state.bytes(), state.text("b"), state.text("c")), (4, Some("x"), None));
        let b = ClusterName::new("b").unwrap();
        assert_eq!(state.of_peer(&b).keys().collect::<Vec<_>>(), ["b", "b.etcd-client.key"]);
        assert_eq!(state.of_peer(&ClusterName::new("c").unwrap()).len(), 0);
        let of_b = state.managers["b"].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(of_b, ["clustermesh-peer-b", "flux"]);
        assert_eq!(SecretState::new(r#"{"metadata":{}}"#).unwrap(), SecretState::default());
    }
}
