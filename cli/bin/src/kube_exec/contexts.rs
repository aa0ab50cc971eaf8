//! The contexts of a kubeconfig, read without asking their clusters.

use std::path::Path;

use anyhow::Context as _;
use kube::config::{Kubeconfig, KubeconfigError};

/// The contexts of a kubeconfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KubeContexts {
    /// The names, in the order of the file.
    pub(crate) names: Vec<String>,
    /// The one that kubectl uses, where there is one.
    pub(crate) current: Option<String>,
}

// === impl KubeContexts ===

impl KubeContexts {
    /// The contexts of a kubeconfig: of this file, else of `$KUBECONFIG`, else of `~/.kube/config`. None if there is no such
    /// file.
    ///
    /// # Errors
    /// The file cannot be read, or is no kubeconfig.
    pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let config = match read(file) {
            Ok(config) => config,
            Err(KubeconfigError::ReadConfig(error, _))
                if file.is_none() && error.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(Self::default());
            }
            Err(KubeconfigError::FindPath) => return Ok(Self::default()),
            Err(error) => return Err(error).context("the kubeconfig"),
        };
        let names = config.contexts.into_iter().map(|context| context.name).collect();
        Ok(Self { names, current: config.current_context.filter(|name| !name.is_empty()) })
    }
}

pub(super) fn read(file: Option<&Path>) -> Result<Kubeconfig, KubeconfigError> {
    match file {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    }
}
