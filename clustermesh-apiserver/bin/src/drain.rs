//! Draining the cluster or a node, on an operator's word: in `drain.yaml`, which all replicas read and any restart finds.

use std::{io, path::PathBuf, time::Duration};

use mesh_export::DrainState;
use mesh_files::{Access, Lock, LockError, write_atomic};
use mesh_source::{Drain, DrainError};

use crate::cluster::Cluster;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Clients are to leave.
    Drain,
    /// They may come back.
    Undrain,
}

/// Of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The cluster that is meant; empty: this one.
    pub(crate) cluster: String,
    /// A node of it; empty: all of it.
    pub(crate) node: String,
}

/// Whether it took anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// It is so now.
    Now,
    /// It was so before.
    Before,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotChanged {
    #[error("this is cluster {own}, and not {asked}")]
    OtherCluster { own: String, asked: String },
    #[error("cluster {cluster} has no node {node}")]
    NoNode { cluster: String, node: String },
    #[error("all of cluster {cluster} is drained, node {node} with it: undrain the cluster")]
    ByCluster { cluster: String, node: String },
    #[error(
        "node {node} is drained by its annotation clustermesh.dev/drain: take it from the Node object"
    )]
    ByAnnotation { node: String },
    #[error("the manifests were not read yet: which nodes there are is not known")]
    NotRead,
    #[error("{}: {reason}: mend or remove it first", path.display())]
    Broken { path: PathBuf, reason: String },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// How long somebody else may be changing it.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cluster {
    /// Changes `drain.yaml`, and reads it. Blocks the thread.
    pub(crate) fn change_drain(
        &self,
        change: Change,
        asked: &Asked,
    ) -> Result<(Changed, DrainState), NotChanged> {
        let own = self.settings.name.to_string();
        let Asked { cluster, node } = asked;
        if !cluster.is_empty() && *cluster != own {
            return Err(NotChanged::OtherCluster { own, asked: cluster.clone() });
        }
        let path = self.directory.drain_file();
        // Other replicas write it too.
        let _lock = Lock::wait(&self.directory.drain_lock(), PATIENCE)?;
        let mut drain = Drain::read(&path)
            .map_err(|reason| NotChanged::Broken { path: path.clone(), reason })?;
        let before = drain.clone();
        match (change, node.as_str()) {
            (Change::Drain, "") => drain.cluster = true,
            (Change::Undrain, "") => drain.cluster = false,
            (Change::Drain, node) => {
                self.check_node(node)?;
                drain.nodes.insert(node.to_owned());
            }
            (Change::Undrain, node) => {
                self.check_drained_by_file(node, &drain)?;
                if !drain.nodes.remove(node) {
                    self.check_node(node)?;
                }
            }
        }
        if drain != before {
            let write = |source| NotChanged::Write { path: path.clone(), source };
            let invalid = |error: DrainError| io::Error::other(error);
            let text = drain.to_yaml().map_err(invalid).map_err(write)?;
            write_atomic(&path, text.as_bytes(), Access::All).map_err(write)?;
        }
        // The watch would, a moment later: whoever asked is told what is so now.
        self.scan();
        let state = self.with_exporter(|exporter| exporter.drain_state());
        let changed = if drain == before { Changed::Before } else { Changed::Now };
        Ok((changed, state))
    }

    /// What something else drains, the file cannot undrain.
    fn check_drained_by_file(&self, node: &str, drain: &Drain) -> Result<(), NotChanged> {
        let node = node.to_owned();
        if drain.cluster {
            return Err(NotChanged::ByCluster { cluster: self.settings.name.to_string(), node });
        }
        let state = self.with_exporter(|exporter| exporter.drain_state());
        match state.nodes.iter().any(|drained| drained.name == node && drained.by_annotation) {
            true => Err(NotChanged::ByAnnotation { node }),
            false => Ok(()),
        }
    }

    fn check_node(&self, node: &str) -> Result<(), NotChanged> {
        if !self.source_state().1 {
            return Err(NotChanged::NotRead);
        }
        if self.with_exporter(|exporter| exporter.has_node(node)) {
            return Ok(());
        }
        let cluster = self.settings.name.to_string();
        Err(NotChanged::NoNode { cluster, node: node.into() })
    }
}
