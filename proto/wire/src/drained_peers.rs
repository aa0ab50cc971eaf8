//! The file by which a cluster's agents leave other clusters alone, whether those can be reached or not.

use std::collections::BTreeSet;

use mesh_model::ClusterName;
use serde::{Deserialize, Serialize};

/// What the file is called, in the cluster directory.
pub const DRAINED_PEERS_FILE: &str = "drained-peers.yaml";

/// `drained-peers.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainedPeers {
    /// Clusters whose backends are used only where nothing else answers.
    pub clusters: BTreeSet<ClusterName>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DrainedPeersError {
    /// Not YAML, or not of this shape.
    #[error("{0}")]
    Yaml(String),
    /// A name that no cluster can have.
    #[error("{0:?} is no cluster's name")]
    Name(String),
    /// Nothing is in it.
    #[error("it is empty; to drain no cluster remove it, or write `clusters: []`")]
    Empty,
}

/// As it is written. A word that is misspelt is an error: it would leave a cluster undrained.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Yaml {
    clusters: Vec<String>,
}

impl DrainedPeers {
    /// Reads the file.
    pub fn parse(text: &str) -> Result<Self, DrainedPeersError> {
        if text.trim().is_empty() {
            return Err(DrainedPeersError::Empty);
        }
        let yaml: Yaml = serde_saphyr::from_str(text)
            .map_err(|e| DrainedPeersError::Yaml(e.without_snippet().to_string()))?;
        let name =
            |name: String| ClusterName::new(&name).map_err(|_| DrainedPeersError::Name(name));
        Ok(Self { clusters: yaml.clusters.into_iter().map(name).collect::<Result<_, _>>()? })
    }

    /// Writes the file.
    pub fn to_yaml(&self) -> Result<String, DrainedPeersError> {
        let yaml = Yaml { clusters: self.clusters.iter().map(ToString::to_string).collect() };
        serde_saphyr::to_string(&yaml).map_err(|e| DrainedPeersError::Yaml(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let file = DrainedPeers::parse("clusters: [c, b]").unwrap();
        assert_eq!(file.clusters.len(), 2);
        assert_eq!(DrainedPeers::parse(&file.to_yaml().unwrap()).unwrap(), file);
        let none = DrainedPeers::default();
        assert_eq!(DrainedPeers::parse(&none.to_yaml().unwrap()).unwrap(), none);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, says) in [
            ("", "it is empty"),
            ("cluster: [c]", "cluster"),
            ("clusters: c", "expected sequence"),
            ("clusters: [C/]", "\"C/\" is no cluster's name"),
        ] {
            let error = DrainedPeers::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
