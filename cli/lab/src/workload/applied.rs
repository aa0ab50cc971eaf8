//! The objects that were applied to a cluster, without pods. Each manifest has a file, and each object is in one file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use mesh_files::{Access, write_atomic};
use mesh_model::object::Kind;
use serde_json::{Value, json};

use crate::error::LabError;

/// The identity of an object: its kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectId {
    kind: String,
    namespace: String,
    name: String,
}

/// What an apply changed of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was created.
    Created,
    /// It existed and was changed.
    Configured,
    /// It existed and was not changed.
    Unchanged,
    /// It was deleted.
    Deleted,
}

/// The files of a cluster.
#[derive(Debug)]
pub(super) struct AppliedFiles {
    folder: PathBuf,
    /// The objects in each file, by the name of the manifest.
    files: BTreeMap<String, Vec<Value>>,
}

impl AppliedFiles {
    /// Reads the files in a folder.
    pub(super) fn read(folder: &Path) -> Result<Self, LabError> {
        let mut files = BTreeMap::new();
        let names = fs::read_dir(folder).map_err(LabError::io(folder))?.flatten();
        for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
            let source = name.strip_prefix("applied-").and_then(|name| name.strip_suffix(".json"));
            let Some(source) = source else { continue };
            let path = folder.join(&name);
            let text = fs::read(&path).map_err(LabError::io(&path))?;
            let list: Value = serde_json::from_slice(&text)
                .map_err(|e| LabError::State { path, reason: e.to_string() })?;
            let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            files.insert(source.to_owned(), items);
        }
        Ok(Self { folder: folder.into(), files })
    }

    /// Puts objects into a manifest's file, and removes them from other files. With `prune`, all other objects of the file
    /// are deleted.
    pub(super) fn put(
        &mut self,
        source: &str,
        objects: Vec<Value>,
        prune: bool,
    ) -> Result<Vec<(ObjectId, Change)>, LabError> {
        let mut changes = Vec::new();
        for object in &objects {
            let id = ObjectId::of(object);
            let before = self.files.values().flatten().find(|other| ObjectId::of(other) == id);
            let change = match before {
                None => Change::Created,
                Some(before) if before == object => Change::Unchanged,
                Some(_) => Change::Configured,
            };
            changes.push((id, change));
        }
        let is_put = |object: &Value| changes.iter().any(|(id, _)| *id == ObjectId::of(object));
        let mut kept = self.files.remove(source).unwrap_or_default();
        kept.retain(|object| !is_put(object));
        let gone: Vec<ObjectId> = if prune {
            kept.drain(..).map(|object| ObjectId::of(&object)).collect()
        } else {
            vec![]
        };
        kept.extend(objects);
        // An object is written to the new file before it is removed from the old one, so that it always exists.
        self.write(source, &kept)?;
        let others: Vec<String> = self.files.keys().cloned().collect();
        for other in others {
            self.remove_from(&other, is_put)?;
        }
        self.files.insert(source.to_owned(), kept);
        changes.extend(gone.into_iter().map(|id| (id, Change::Deleted)));
        Ok(changes)
    }

    /// Deletes objects, whatever file they are in.
    pub(super) fn delete(&mut self, ids: &[ObjectId]) -> Result<Vec<ObjectId>, LabError> {
        let sources: Vec<String> = self.files.keys().cloned().collect();
        let mut deleted = Vec::new();
        for source in sources {
            deleted
                .extend(self.remove_from(&source, |object| ids.contains(&ObjectId::of(object)))?);
        }
        Ok(deleted)
    }

    fn remove_from(
        &mut self,
        source: &str,
        is_gone: impl Fn(&Value) -> bool,
    ) -> Result<Vec<ObjectId>, LabError> {
        let objects = self.files.get(source).cloned().unwrap_or_default();
        let (gone, kept): (Vec<Value>, Vec<Value>) =
            objects.into_iter().partition(|object| is_gone(object));
        if !gone.is_empty() {
            self.write(source, &kept)?;
            self.files.insert(source.to_owned(), kept);
        }
        Ok(gone.iter().map(ObjectId::of).collect())
    }

    fn write(&self, source: &str, items: &[Value]) -> Result<(), LabError> {
        let path = self.folder.join(format!("applied-{source}.json"));
        // An empty file is kept: an apiserver reports a folder without files as an error.
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        let text =
            serde_json::to_vec_pretty(&list).map_err(|e| LabError::Manifest(e.to_string()))?;
        write_atomic(&path, &text, Access::All).map_err(LabError::io(path))
    }
}

// === impl ObjectId ===

impl ObjectId {
    pub(super) fn of(object: &Value) -> Self {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let kind = text("/kind").unwrap_or_default().to_owned();
        let known = Kind::ALL.into_iter().find(|known| known.as_str() == kind);
        let namespace = match known.is_none_or(Kind::is_namespaced) {
            true => text("/metadata/namespace").unwrap_or("default"),
            false => "",
        };
        let name = text("/metadata/name").unwrap_or_default().into();
        Self { kind, namespace: namespace.into(), name }
    }
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, namespace, name } = self;
        match namespace.is_empty() {
            true => write!(f, "{kind} {name}"),
            false => write!(f, "{kind} {namespace}/{name}"),
        }
    }
}

impl Change {
    /// The change in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn service(name: &str, weights: &str) -> Value {
        json!({ "kind": "Service", "metadata": { "name": name, "annotations": { "weights": weights } } })
    }

    fn words(changes: Result<Vec<(ObjectId, Change)>, LabError>) -> Vec<String> {
        let changes = changes.unwrap().into_iter();
        changes.map(|(id, change)| format!("{id} {}", change.as_str())).collect()
    }

    /// The last apply of an object replaces the previous one, also one of another file.
    #[test]
    fn an_object_is_its_kind_namespace_and_name() {
        let folder = tempfile::tempdir().unwrap();
        let files = || AppliedFiles::read(folder.path()).unwrap();
        let put = |source: &str, objects: &[Value], prune| {
            words(files().put(source, objects.to_vec(), prune))
        };
        let (web, other) = (service("web", ""), service("web", "a=90,b=10"));
        assert_eq!(put("shop", from_ref(&web), true), ["Service default/web created"]);
        assert_eq!(put("shop", from_ref(&web), true), ["Service default/web unchanged"]);
        assert_eq!(put("shopw", from_ref(&other), true), ["Service default/web configured"]);
        assert_eq!(
            files().files,
            BTreeMap::from([("shop".to_owned(), vec![]), ("shopw".to_owned(), vec![other])])
        );

        assert_eq!(put("shopw", &[service("db", "")], false), ["Service default/db created"]);
        assert_eq!(files().files["shopw"].len(), 2, "what is not pruned stays");
        let pruned = put("shopw", &[service("db", "")], true);
        assert_eq!(pruned, ["Service default/db unchanged", "Service default/web deleted"]);
        let deleted = files().delete(&[ObjectId::of(&service("db", "x"))]).unwrap();
        assert_eq!(deleted, [ObjectId::of(&service("db", ""))]);
        assert!(files().files.values().all(Vec::is_empty));
    }
}
