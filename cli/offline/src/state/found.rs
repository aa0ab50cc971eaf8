//! The folder of one cluster.

use std::{
    fmt,
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};

use mesh_model::ClusterName;
use mesh_source::{Format, MAX_FILE, decode};
use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{Content, LIMIT, StateError, at, limit_of, read_settings};
use crate::{
    keys_file::KeysFile,
    objects::{DRAIN, Objects, SETTINGS, list, read_drain, read_error},
};

/// The contents of a cluster's folder, before it has an ID.
pub(super) struct Found {
    folder: PathBuf,
    pub(super) settings_file: PathBuf,
    pub(super) settings: Map<String, Value>,
    pub(super) content: Content,
}

/// The folder with the objects in a cluster directory; the other files there belong to daemons.
const MANIFESTS: &str = "manifests";

// === impl Found ===

impl Found {
    pub(super) fn read(folder: &Path, name: &ClusterName) -> Result<Self, StateError> {
        let settings_file = folder.join(SETTINGS);
        let settings = read_settings(&settings_file)?;
        if let Some(found) = settings.get("name").filter(|found| **found != name.as_str()) {
            let found = found.as_str().map_or_else(|| found.to_string(), ToOwned::to_owned);
            let folder = name.clone();
            return Err(StateError::OtherName { path: settings_file, found, folder });
        }
        let mut files = Vec::new();
        let manifests = folder.join(MANIFESTS);
        let is_directory = fs::metadata(&manifests).is_ok_and(|metadata| metadata.is_dir());
        list(if is_directory { &manifests } else { folder }, &mut files)?;
        files.retain(|file| *file != settings_file && *file != folder.join(DRAIN));
        files.sort();
        let mut keys = None;
        for file in &files {
            if is_keys_file(file)? {
                keys = Some(file.clone());
            }
        }
        let content = match keys {
            None => {
                let drain = read_drain(folder)?;
                Content::Objects(Objects { drain, ..Objects::read_files(&files)? })
            }
            Some(keys) => {
                if let Some(other) = files.iter().find(|file| **file != keys) {
                    return Err(StateError::Both { keys, other: other.clone() });
                }
                let file = KeysFile::read(&keys)?;
                if file.cluster != *name {
                    let (found, folder) = (file.cluster, name.clone());
                    return Err(StateError::OtherKeys { path: keys, found, folder });
                }
                Content::Keys(Box::new(file))
            }
        };
        let folder = folder.to_owned();
        Ok(Self { folder, settings_file, settings, content })
    }

    /// Manifests at the top of a cluster's folder that has its objects in `manifests/`: they are not read.
    pub(super) fn stray(&self) -> Result<Vec<String>, StateError> {
        let Self { folder, settings_file, .. } = self;
        let mut all = Vec::new();
        if !fs::metadata(folder.join(MANIFESTS)).is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(all);
        }
        for entry in fs::read_dir(folder).map_err(at(folder))? {
            let path = entry.map_err(at(folder))?.path();
            let is_known = path == *settings_file || path == folder.join(DRAIN);
            if !is_known && is_manifest(&path) {
                all.push(format!(
                    "{}: it is not read: the objects of this cluster are in {MANIFESTS}/",
                    path.display()
                ));
            }
        }
        Ok(all)
    }

    /// The limit in the settings or keys.
    pub(super) fn limit(&self) -> Option<Value> {
        let announced = || match &self.content {
            Content::Keys(file) => limit_of(file).map(|limit| limit.get().into()),
            Content::Objects(_) => None,
        };
        self.settings.get(LIMIT).cloned().or_else(announced)
    }

    /// The ID in the settings or keys.
    pub(super) fn id(&self) -> Option<u64> {
        let keys = match &self.content {
            Content::Keys(file) => Some(u64::from(file.id.get())),
            Content::Objects(_) => None,
        };
        match self.settings.get("id") {
            // An invalid ID becomes 0, which is reported when the settings are parsed.
            Some(id) => id.as_u64().or(Some(0)),
            None => keys,
        }
    }
}

/// Whether a file is a keys file: a JSON object with `cluster` and without `kind`.
fn is_keys_file(file: &Path) -> Result<bool, StateError> {
    if file.extension().is_none_or(|extension| extension != "json") {
        return Ok(false);
    }
    let reader = BufReader::new(File::open(file).map_err(read_error(file))?);
    let mut is_one = false;
    // A file that cannot be read to that field has no keys; what is wrong with it is said when it is read for its objects.
    let _ = serde_json::Deserializer::from_reader(reader).deserialize_map(Head(&mut is_one));
    Ok(is_one)
}

/// The first fields of a JSON object.
struct Head<'a>(&'a mut bool);

impl<'de> Visitor<'de> for Head<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(field) = fields.next_key::<String>()? {
            match field.as_str() {
                "cluster" | "entries" | "source" => {
                    *self.0 = true;
                    return Ok(());
                }
                "apiVersion" | "kind" | "items" | "metadata" => return Ok(()),
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a file has objects: a list of events may be beside them.
pub(super) fn is_manifest(path: &Path) -> bool {
    let Some(format) = Format::of(path) else { return false };
    let is_small =
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_FILE);
    let decoded = match fs::read_to_string(path) {
        Ok(text) if is_small => decode(format, &text),
        _ => return false,
    };
    !(decoded.objects.is_empty() && decoded.passed_over.is_empty())
        || decoded.rejected.iter().any(|problem| problem.key.is_some())
}
