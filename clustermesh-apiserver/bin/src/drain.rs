//! Requests of an operator to drain the cluster or a node.

use std::{io, path::PathBuf, time::Duration};

use mesh_export::Exporter;
use mesh_files::LockError;
use mesh_source::Drain;
use mesh_source_kube::ConfigMapError;

/// The kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Start a drain.
    Drain,
    /// End a drain.
    Undrain,
}

/// The arguments of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The cluster's name; empty: this one.
    pub(crate) cluster: String,
    /// The node's name; empty: the whole cluster.
    pub(crate) node: String,
    /// Whether to make the change, or only preview it.
    pub(crate) extent: Extent,
}

/// Whether to make a change, or only preview it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Make the change.
    #[default]
    Change,
    /// Only compute the result.
    Preview,
}

/// Whether a request changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// It did.
    Now,
    /// The state was the same before.
    Before,
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotChanged {
    #[error("this is cluster {local}, not {asked}")]
    OtherCluster { local: String, asked: String },
    #[error("cluster {cluster} has no node {node}")]
    NoNode { cluster: String, node: String },
    #[error("the whole cluster {cluster} is drained, including node {node}: undrain the cluster")]
    ByCluster { cluster: String, node: String },
    #[error(
        "node {node} is drained by its annotation clustermesh.dev/drain: remove the annotation from the Node object"
    )]
    ByAnnotation { node: String },
    #[error("the manifests have not been read completely yet, so the nodes are not known")]
    NotRead,
    #[error("{}: {reason}: correct or remove it first", path.display())]
    Broken { path: PathBuf, reason: String },
    #[error(transparent)]
    ConfigMap(#[from] ConfigMapError),
    #[error(
        "the ConfigMap with what is drained changed five times meanwhile: give the command again"
    )]
    Contended,
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// How long to wait for another process that changes `drain.yaml`.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(5);

impl Change {
    /// Applies the request to the content of `drain.yaml`. `complete`: the source was read completely, so `exporter` has
    /// all nodes of `cluster`.
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

/// The state that requests are checked against.
struct Known<'a> {
    cluster: &'a str,
    exporter: &'a Exporter,
    complete: bool,
}

impl Known<'_> {
    /// Refuses to undrain a node that the whole cluster's drain, or an annotation, drains.
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
