//! A mesh as a folder: `DIR/<cluster>/` for each cluster.

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
    /// By name.
    pub clusters: BTreeMap<ClusterName, ClusterState>,
    /// Manifests that are in no cluster's folder, or beside the folder that counts, each a sentence.
    pub stray: Vec<String>,
}

/// A cluster of a mesh.
#[derive(Clone, Debug)]
pub struct ClusterState {
    /// What its `cluster.yaml` says, or what follows without one.
    pub settings: ClusterSettings,
    /// What it has.
    pub content: Content,
}

/// What a cluster has.
#[derive(Clone, Debug)]
pub enum Content {
    /// Objects.
    Objects(Objects),
    /// What its etcd holds; of its objects nothing is known.
    Keys(Box<KeysFile>),
}

/// Why a folder is no mesh.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no cluster in it.
    #[error("{}: there is no cluster in it: it should have a folder for each", .0.display())]
    Empty(PathBuf),
    /// A folder is named like no cluster.
    #[error("{}: {source}", path.display())]
    Name {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: InvalidClusterName,
    },
    /// A `cluster.yaml`.
    #[error("{}: {problem}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ClusterDirectoryProblem,
    },
    /// What a cluster has that no `cluster.yaml` describes.
    #[error("the cluster's settings as given: {0}")]
    Given(ClusterDirectoryProblem),
    /// A `cluster.yaml` is of another cluster.
    #[error("{}: name: {found:?} in the folder of {folder}", path.display())]
    OtherName {
        /// The file.
        path: PathBuf,
        /// The name in it.
        found: String,
        /// The folder's.
        folder: ClusterName,
    },
    /// A keys file is of another cluster.
    #[error("{}: cluster.name: {found} in the folder of {folder}", path.display())]
    OtherKeys {
        /// The file.
        path: PathBuf,
        /// The name in it.
        found: ClusterName,
        /// The folder's.
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
    /// Objects.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// A keys file.
    #[error(transparent)]
    Keys(#[from] KeysFileError),
    /// There are more clusters than IDs.
    #[error("{}: more clusters than IDs", .0.display())]
    Ids(PathBuf),
}

/// The setting of the mesh's limit.
const LIMIT: &str = "maxConnectedClusters";

// === impl State ===

impl State {
    /// Reads a folder of clusters.
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
                        "{}: it is no cluster's: put it into the folder of one",
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
        // All clusters of a mesh have one limit: where a few say it, the others have it too.
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
    /// A cluster of which nothing is known but its keys.
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

/// The mesh's limit as a cluster announces it; without a config, as its ID shows.
pub fn limit_of(file: &KeysFile) -> Option<ClusterLimit> {
    match file.config() {
        Some(config) => ClusterLimit::try_from(config.max_connected_clusters).ok(),
        None => {
            (u32::from(file.id.get()) > ClusterLimit::Max255.get()).then_some(ClusterLimit::Max511)
        }
    }
}

/// What a `cluster.yaml` says, which need not name what follows from its place.
fn settings(
    name: &ClusterName,
    id: u64,
    mut given: Map<String, Value>,
) -> Result<ClusterSettings, ClusterDirectoryProblem> {
    given.entry("name").or_insert_with(|| name.as_str().into());
    given.entry("id").or_insert_with(|| id.into());
    // JSON is YAML.
    ClusterSettings::parse(&Value::Object(given).to_string())
}

/// The settings beside a cluster's objects: those of a `cluster.yaml` at the top of their folder, if there is one. What is
/// given here counts in their place; `fallback` are the ID and the limit of a cluster that has none.
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
    /// What an apiserver makes of a cluster's settings.
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
