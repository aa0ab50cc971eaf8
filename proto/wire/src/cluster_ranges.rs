//! The file by which a cluster's apiserver tells its agents the cluster's address ranges, in Kubernetes.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The file's name, beside `local.yaml`.
pub const RANGES_FILE: &str = "ranges.yaml";

/// The content of `ranges.yaml`. Fields may be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterRanges {
    /// The ranges of its pods.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// The ranges of its nodes.
    #[serde(rename = "nodeCIDRs")]
    pub node_cidrs: Vec<IpNet>,
    /// The ranges of its cluster IPs.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<IpNet>,
}

/// Not YAML, or not of this shape.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClusterRangesError(String);

impl ClusterRanges {
    /// Parses the file.
    pub fn parse(text: &str) -> Result<Self, ClusterRangesError> {
        let parsed = serde_saphyr::from_str(text);
        parsed.map_err(|error| ClusterRangesError(error.without_snippet().to_string()))
    }

    /// The file's content.
    pub fn to_yaml(&self) -> Result<String, ClusterRangesError> {
        serde_saphyr::to_string(self).map_err(|error| ClusterRangesError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_the_file() {
        let ranges = ClusterRanges {
            pod_cidrs: vec!["10.1.0.0/16".parse().unwrap(), "fd00:10:1::/48".parse().unwrap()],
            node_cidrs: vec!["172.31.1.0/24".parse().unwrap()],
            service_cidrs: Vec::new(),
        };
        let yaml = ranges.to_yaml().unwrap();
        assert!(yaml.contains("podCIDRs"), "{yaml}");
        assert_eq!(ClusterRanges::parse(&yaml).unwrap(), ranges);
        assert_eq!(ClusterRanges::parse("later: 1").unwrap(), ClusterRanges::default());
        assert!(ClusterRanges::parse("podCIDRs: [ten]").is_err());
    }
}
