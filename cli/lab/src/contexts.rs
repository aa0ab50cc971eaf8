//! Contexts: names of clusters, with their directories and the sockets of their daemons.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use mesh_files::{Access, write_atomic};
use serde::{Deserialize, Serialize};

use crate::{error::LabError, names::LabName};

/// A contexts file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contexts {
    /// The contexts, in the order of the file.
    pub contexts: Vec<Context>,
}

/// A context: one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Its name.
    pub name: String,
    /// Its cluster directory.
    pub directory: PathBuf,
    /// The admin socket of its apiserver, that of the first replica.
    pub apiserver: PathBuf,
    /// The admin sockets of the apiserver's other replicas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<PathBuf>,
    /// The admin sockets of its agents.
    pub agents: Vec<AgentSocket>,
    /// The network namespace from which its etcd is reachable; by default that of the calling process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
}

/// An agent's admin socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSocket {
    /// The name of the node.
    pub node: String,
    /// The path of the socket.
    pub socket: PathBuf,
}

impl Contexts {
    /// Reads a contexts file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let invalid = |e: serde_saphyr::Error| {
            io::Error::new(io::ErrorKind::InvalidData, e.without_snippet().to_string())
        };
        serde_saphyr::from_str(&text).map_err(invalid)
    }

    /// Writes a contexts file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_saphyr::to_string(self).map_err(io::Error::other)?;
        write_atomic(path, text.as_bytes(), Access::All)
    }
}

/// The path of a lab's contexts file, whether the lab is up or not.
///
/// # Errors
/// The name is not valid for a lab.
pub fn of_lab(name: &str) -> Result<PathBuf, LabError> {
    Ok(LabName::new(name)?.folder().join("contexts.yaml"))
}
