//! Draining the cluster or a node, because an operator asks for it.

use std::{io, path::PathBuf, time::Duration};

use mesh_export::Exporter;
use mesh_files::LockError;
use mesh_source::Drain;

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
    /// Whether it is done.
    pub(crate) extent: Extent,
}

/// How far a change goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Extent {
    /// It is made.
    #[default]
    Change,
    /// Only what it would come to is of interest.
    Preview,
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
    #[error("this is cluster {local}, and not {asked}")]
    OtherCluster { local: String, asked: String },
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
    #[error("{}: {reason}: correct or remove it first", path.display())]
    Broken { path: PathBuf, reason: String },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// How long another process may be changing what is drained.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(5);

impl Change {
    /// Makes the change in what is drained by request, in `cluster`. `exporter` knows its nodes once all was read.
    pub(crate) fn apply(
        self,
        asked: &Asked,
        cluster: &str,
        exporter: &Exporter,
        complete: bool,
        drain: &mut Drain,
    ) -> Result<(), NotChanged> {
        let known = Known { cluster, exporter, complete };
        match (self, asked.node.as_str()) {
            (Self::Drain, "") => drain.cluster = true,
            (Self::Undrain, "") => drain.cluster = false,
            (Self::Drain, node) => {
                known.check_node(node)?;
                drain.nodes.insert(node.to_owned());
            }
            (Self::Undrain, node) => {
                known.check_drained_by_request(node, drain)?;
                if !drain.nodes.remove(node) {
                    known.check_node(node)?;
                }
            }
        }
        Ok(())
    }
}

/// What is known of the cluster.
struct Known<'a> {
    cluster: &'a str,
    exporter: &'a Exporter,
    complete: bool,
}

impl Known<'_> {
    /// What something else drains, a request cannot undrain.
    fn check_drained_by_request(&self, node: &str, drain: &Drain) -> Result<(), NotChanged> {
        let node = node.to_owned();
        if drain.cluster {
            return Err(NotChanged::ByCluster { cluster: self.cluster.to_owned(), node });
        }
        let state = self.exporter.drain_state();
        match state.nodes.iter().any(|drained| drained.name == node && drained.by_annotation) {
            true => Err(NotChanged::ByAnnotation { node }),
            false => Ok(()),
        }
    }

    fn check_node(&self, node: &str) -> Result<(), NotChanged> {
        if !self.complete {
            return Err(NotChanged::NotRead);
        }
        match self.exporter.has_node(node) {
            true => Ok(()),
            false => {
                Err(NotChanged::NoNode { cluster: self.cluster.to_owned(), node: node.into() })
            }
        }
    }
}
