//! Reads a mesh from a folder with a folder for each cluster: `DIR/<cluster>/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use mesh_labels::LabelFilter;
use mesh_model::{ClusterId, ClusterLimit, ClusterName, cluster::InvalidClusterName};
use mesh_source::cluster_directory::{ClusterDirectoryProblem, ClusterSettings};
use serde_json::{Map, Value};

use self::found::{Found, is_manifest};
use crate::{
    cluster::ClusterSetup,
    keys_file::{KeysFile, KeysFileError},
    objects::{Objects, ObjectsError, SETTINGS},
};

mod found;

/// The clusters of a mesh.
#[derive(Clone, Debug)]
pub struct State {
    /// The clusters, by name.
    pub clusters: BTreeMap<ClusterName, ClusterState>,
    /// Messages about manifests that are not read, since they are in no cluster's folder, or beside its `manifests/`.
    pub stray: Vec<String>,
}

/// A cluster of a mesh.
#[derive(Clone, Debug)]
pub struct ClusterState {
    /// The settings in its `cluster.yaml`, or the defaults.
    pub settings: ClusterSettings,
    /// Its objects or keys.
    pub content: Content,
}

/// The contents of a cluster's folder.
#[derive(Clone, Debug)]
pub enum Content {
    /// Objects.
    Objects(Objects),
    /// The keys of its etcd; its objects are not known.
    Keys(Box<KeysFile>),
}

/// Why a folder cannot be read as a mesh.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is no cluster's folder in it.
    #[error("{}: there is no cluster in it: it should have a folder for each", .0.display())]
    Empty(PathBuf),
    /// The name of a folder is not valid for a cluster.
    #[error("{}: {source}", path.display())]
    Name {
        /// The folder.
        path: PathBuf,
        /// What is wrong with the name.
        source: InvalidClusterName,
    },
    /// A `cluster.yaml` is invalid.
    #[error("{}: {problem}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ClusterDirectoryProblem,
    },
    /// The settings given by other means than a `cluster.yaml` are invalid.
    #[error("the cluster's settings as given: {0}")]
    Given(ClusterDirectoryProblem),
    /// A `cluster.yaml` has the name of another cluster.
    #[error("{}: name: {found:?} in the folder of {folder}", path.display())]
    OtherName {
        /// The file.
        path: PathBuf,
        /// The name in it.
        found: String,
        /// The name of the folder.
        folder: ClusterName,
    },
    /// A keys file has the name of another cluster.
    #[error("{}: cluster.name: {found} in the folder of {folder}", path.display())]
    OtherKeys {
        /// The file.
        path: PathBuf,
        /// The name in it.
        found: ClusterName,
        /// The name of the folder.
        folder: ClusterName,
    },
    /// A cluster has both objects and keys.
    #[error("{}: a keys file beside {}: a cluster has either objects or keys", keys.display(), other.display())]
    Both {
        /// The keys file.
        keys: PathBuf,
        /// The other file.
        other: PathBuf,
    },
    /// The objects cannot be read.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The keys file cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysFileError),
    /// There are more clusters than IDs.
    #[error("{}: more clusters than IDs", .0.display())]
    Ids(PathBuf),
}

/// The field of `cluster.yaml` with the limit of clusters in the mesh.
const LIMIT: &str = "maxConnectedClusters";

// === impl State ===

impl State {
    /// Reads a folder of clusters. Clusters without an ID get the first free ones.
    pub fn read(folder: &Path) -> Result<Self, StateError> {
        let (mut found, mut stray) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(folder).map_err(at(folder))? {
            let entry = entry.map_err(at(folder))?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if !fs::metadata(&path).map_err(at(&path))?.is_dir() {
                if is_manifest(&path) {
                    stray.push(format!(
                        "{}: it is in no cluster's folder: move it into one",
                        path.display()
                    ));
                }
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = ClusterName::new(&name)
                .map_err(|source| StateError::Name { path: path.clone(), source })?;
            let cluster = Found::read(&path, &name)?;
            stray.extend(cluster.stray()?);
            found.insert(name, cluster);
        }
        stray.sort();
        if found.is_empty() {
            return Err(StateError::Empty(folder.into()));
        }
        let mut clusters = BTreeMap::new();
        // All clusters of a mesh have the same limit, so one that is found counts for those without.
        let limit = found.values().find_map(Found::limit);
        let given: BTreeSet<u64> = found.values().filter_map(Found::id).collect();
        let mut free = (1..=u64::from(u16::MAX)).filter(|id| !given.contains(id));
        for (name, mut cluster) in found {
            if let Some(limit) = cluster.limit().or_else(|| limit.clone()) {
                cluster.settings.entry(LIMIT).or_insert(limit);
            }
            let id = match cluster.id() {
                Some(id) => id,
                None => free.next().ok_or_else(|| StateError::Ids(folder.into()))?,
            };
            let path = cluster.settings_file.clone();
            let settings = settings(&name, id, cluster.settings)
                .map_err(|problem| StateError::Settings { path, problem })?;
            clusters.insert(name, ClusterState { settings, content: cluster.content });
        }
        Ok(Self { clusters, stray })
    }
}

// === impl ClusterState ===

impl ClusterState {
    /// A cluster of which only the keys are known.
    pub fn of_keys(file: KeysFile) -> Result<Self, StateError> {
        let mut given = Map::new();
        if let Some(limit) = limit_of(&file) {
            given.insert(LIMIT.into(), limit.get().into());
        }
        let settings =
            settings(&file.cluster, file.id.get().into(), given).map_err(StateError::Given)?;
        Ok(Self { settings, content: Content::Keys(Box::new(file)) })
    }
}

/// The limit of clusters in the mesh, from the cluster's config; without a config, 511 if its ID requires that.
pub fn limit_of(file: &KeysFile) -> Option<ClusterLimit> {
    match file.config() {
        Some(config) => ClusterLimit::try_from(config.max_connected_clusters).ok(),
        None => {
            (u32::from(file.id.get()) > ClusterLimit::Max255.get()).then_some(ClusterLimit::Max511)
        }
    }
}

/// The settings in a `cluster.yaml`. The name and the ID may be missing.
fn settings(
    name: &ClusterName,
    id: u64,
    mut given: Map<String, Value>,
) -> Result<ClusterSettings, ClusterDirectoryProblem> {
    given.entry("name").or_insert_with(|| name.as_str().into());
    given.entry("id").or_insert_with(|| id.into());
    // JSON is valid YAML.
    ClusterSettings::parse(&Value::Object(given).to_string())
}

/// The settings in the `cluster.yaml` at the top of the folder of a cluster's objects, if there is one. `id` and `limit`
/// override it; `fallback` are the ID and the limit if it has none.
pub fn settings_beside(
    objects: &Path,
    name: &ClusterName,
    id: Option<ClusterId>,
    limit: Option<ClusterLimit>,
    fallback: (ClusterId, ClusterLimit),
) -> Result<ClusterSettings, StateError> {
    let path = objects.join(SETTINGS);
    let mut given = read_settings(&path)?;
    given.insert("name".into(), name.as_str().into());
    if let Some(id) = id {
        given.insert("id".into(), id.get().into());
    }
    if let Some(limit) = limit {
        given.insert(LIMIT.into(), limit.get().into());
    }
    given.entry(LIMIT).or_insert_with(|| fallback.1.get().into());
    settings(name, fallback.0.get().into(), given).map_err(|problem| match path.exists() {
        true => StateError::Settings { path, problem },
        false => StateError::Given(problem),
    })
}

fn read_settings(path: &Path) -> Result<Map<String, Value>, StateError> {
    let problem = |reason| StateError::Settings {
        path: path.into(),
        problem: ClusterDirectoryProblem::Yaml(reason),
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            return Ok(Map::new());
        }
        Err(error) => return Err(at(path)(error)),
    };
    let value: Option<Value> = serde_saphyr::from_str(&text)
        .map_err(|error| problem(error.without_snippet().to_string()))?;
    match value {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(problem("it should be a map, as in `id: 1`".into())),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    |source| StateError::Read { path, source }
}

// === impl ClusterSetup ===

impl ClusterSetup {
    /// The setup of an apiserver with these settings.
    pub fn new(settings: &ClusterSettings, filter: LabelFilter) -> Self {
        Self {
            name: settings.name.clone(),
            id: settings.id,
            limit: settings.limit,
            default_global_namespace: settings.default_global_namespace,
            filter,
        }
    }
}

#[cfg(test)]
mod tests;
