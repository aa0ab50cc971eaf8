//! The file that makes a cluster's agents stop using other clusters, even if those cannot be reached.

use std::collections::BTreeSet;

use mesh_model::ClusterName;
use serde::{Deserialize, Serialize};

/// The file's name in the cluster directory.
pub const DRAINED_PEERS_FILE: &str = "drained-peers.yaml";

/// The content of `drained-peers.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainedPeers {
    /// Clusters whose backends are used only if nothing else answers.
    pub clusters: BTreeSet<ClusterName>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DrainedPeersError {
    /// Not YAML, or not of this shape.
    #[error("{0}")]
    Yaml(String),
    /// A name that no cluster can have.
    #[error("{0:?} is not a cluster name")]
    Name(String),
    /// The file is empty.
    #[error("it is empty; to drain no cluster remove it, or write `clusters: []`")]
    Empty,
}

/// The YAML of the file. Unknown fields are errors: with a misspelt field the cluster would not be drained.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Yaml {
    clusters: Vec<String>,
}

impl DrainedPeers {
    /// Parses the file. An empty file is an error.
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

    /// The file's content.
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
    fn invalid_files_are_refused() {
        for (text, says) in [
            ("", "it is empty"),
            ("cluster: [c]", "cluster"),
            ("clusters: c", "expected sequence"),
            ("clusters: [C/]", "\"C/\" is not a cluster name"),
        ] {
            let error = DrainedPeers::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
