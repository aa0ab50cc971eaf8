//! The cluster directory: the cluster's configuration, manifests, certificates and peer files.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterLimit, ClusterName,
    cluster::{InvalidClusterId, InvalidClusterLimit, InvalidClusterName},
};
use serde::{Deserialize, Serialize};

/// A cluster directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDirectory {
    path: PathBuf,
}

/// The content of `cluster.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// The cluster's name.
    pub name: ClusterName,
    /// Its ID.
    pub id: ClusterId,
    /// The maximum number of clusters in the mesh.
    pub limit: ClusterLimit,
    /// The ranges of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// The ranges of its cluster IPs.
    pub service_cidrs: Vec<IpNet>,
    /// The ranges of its nodes.
    pub node_cidrs: Vec<IpNet>,
    /// The addresses at which other clusters reach its etcds, one list for each etcd.
    pub endpoints: Vec<Vec<(IpAddr, u16)>>,
    /// Whether namespaces without the annotation `clustermesh.cilium.io/global` are part of the mesh.
    pub default_global_namespace: bool,
}

/// The YAML of the file. Unknown fields are errors: without a misspelt range, a peer could claim addresses in that range.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClusterYaml {
    name: String,
    id: u32,
    #[serde(default = "default_limit")]
    max_connected_clusters: u32,
    #[serde(rename = "podCIDRs", default)]
    pod_cidrs: Vec<IpNet>,
    #[serde(rename = "serviceCIDRs", default)]
    service_cidrs: Vec<IpNet>,
    #[serde(rename = "nodeCIDRs", default)]
    node_cidrs: Vec<IpNet>,
    #[serde(default)]
    endpoints: EndpointsYaml,
    #[serde(default = "yes")]
    default_global_namespace: bool,
}

/// The addresses of the only etcd, or a list for each replica's etcd.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum EndpointsYaml {
    Etcd(Vec<String>),
    Replicas(Vec<Vec<String>>),
}

impl Default for EndpointsYaml {
    fn default() -> Self {
        Self::Etcd(Vec::new())
    }
}

/// Why a cluster directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct ClusterDirectoryError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: ClusterDirectoryProblem,
}

/// What is wrong with a `cluster.yaml`.
#[derive(Debug, thiserror::Error)]
pub enum ClusterDirectoryProblem {
    /// It cannot be read.
    #[error("{0}; is this a cluster directory?")]
    Read(#[from] io::Error),
    /// Not YAML, or not of this shape.
    #[error("{0}")]
    Yaml(String),
    /// The cluster's name is invalid.
    #[error(transparent)]
    Name(#[from] InvalidClusterName),
    /// The cluster's ID is invalid.
    #[error(transparent)]
    Id(#[from] InvalidClusterId),
    /// The name is `default`.
    #[error("the name {UNNAMED:?} is that of clusters without a name: choose another one")]
    Unnamed,
    /// The maximum number of clusters is invalid.
    #[error(transparent)]
    Limit(#[from] InvalidClusterLimit),
    /// An endpoint is invalid.
    #[error(
        "endpoint {0:?} is not an address and port, as in 192.0.2.1:2379 or [2001:db8::1]:2379"
    )]
    Endpoint(String),
}

/// The name of Cilium's clusters without a configured name. A mesh must not have two of them.
const UNNAMED: &str = "default";

fn default_limit() -> u32 {
    ClusterLimit::default().get()
}

fn yes() -> bool {
    true
}

impl ClusterDirectory {
    /// The directory at a path. Does no IO.
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `cluster.yaml`.
    pub fn settings_file(&self) -> PathBuf {
        self.path.join("cluster.yaml")
    }

    /// The folder of manifests.
    pub fn manifests(&self) -> PathBuf {
        self.path.join("manifests")
    }

    /// The folder with the CA and the certificates of the cluster's processes.
    pub fn pki(&self) -> PathBuf {
        self.path.join("pki")
    }

    /// The folder with a file for each peer, and the credentials for the peers' etcds.
    pub fn peers(&self) -> PathBuf {
        self.path.join("peers")
    }

    /// The file with the other clusters that may read the cluster's etcd.
    pub fn users_file(&self) -> PathBuf {
        self.path.join("users.yaml")
    }

    /// The file with what is drained. It may be missing.
    pub fn drain_file(&self) -> PathBuf {
        self.path.join("drain.yaml")
    }

    /// The lock for changes of `drain.yaml`.
    pub fn drain_lock(&self) -> PathBuf {
        self.path.join("state/drain.lock")
    }

    /// The journal of identity IDs.
    pub fn journal(&self) -> PathBuf {
        self.path.join("state/identities.journal")
    }

    /// Reads `cluster.yaml`.
    pub fn settings(&self) -> Result<ClusterSettings, ClusterDirectoryError> {
        let path = self.settings_file();
        let read = fs::read_to_string(&path).map_err(ClusterDirectoryProblem::from);
        read.and_then(|text| ClusterSettings::parse(&text))
            .map_err(|problem| ClusterDirectoryError { path, problem })
    }
}

impl ClusterSettings {
    /// Parses the text of a `cluster.yaml`.
    pub fn parse(text: &str) -> Result<Self, ClusterDirectoryProblem> {
        let yaml: ClusterYaml = serde_saphyr::from_str(text)
            .map_err(|e| ClusterDirectoryProblem::Yaml(e.without_snippet().to_string()))?;
        let limit = ClusterLimit::try_from(yaml.max_connected_clusters)?;
        let replicas = match yaml.endpoints {
            EndpointsYaml::Etcd(addresses) => vec![addresses],
            EndpointsYaml::Replicas(replicas) => replicas,
        };
        let replicas = replicas.iter().filter(|addresses| !addresses.is_empty());
        let endpoints = replicas.map(|addresses| addresses.iter().map(|a| endpoint(a)).collect());
        if yaml.name == UNNAMED {
            return Err(ClusterDirectoryProblem::Unnamed);
        }
        Ok(Self {
            name: ClusterName::new(&yaml.name)?,
            id: ClusterId::new(yaml.id, limit)?,
            limit,
            pod_cidrs: yaml.pod_cidrs.iter().map(IpNet::trunc).collect(),
            service_cidrs: yaml.service_cidrs.iter().map(IpNet::trunc).collect(),
            node_cidrs: yaml.node_cidrs.iter().map(IpNet::trunc).collect(),
            endpoints: endpoints.collect::<Result<_, _>>()?,
            default_global_namespace: yaml.default_global_namespace,
        })
    }

    /// The text of a `cluster.yaml`.
    pub fn to_yaml(&self) -> Result<String, ClusterDirectoryProblem> {
        let of = |addresses: &Vec<(IpAddr, u16)>| -> Vec<String> {
            addresses.iter().map(|address| SocketAddr::from(*address).to_string()).collect()
        };
        let endpoints = match self.endpoints.as_slice() {
            [] => EndpointsYaml::default(),
            [etcd] => EndpointsYaml::Etcd(of(etcd)),
            replicas => EndpointsYaml::Replicas(replicas.iter().map(of).collect()),
        };
        let yaml = ClusterYaml {
            name: self.name.to_string(),
            id: self.id.get().into(),
            max_connected_clusters: self.limit.get(),
            pod_cidrs: self.pod_cidrs.clone(),
            service_cidrs: self.service_cidrs.clone(),
            node_cidrs: self.node_cidrs.clone(),
            endpoints,
            default_global_namespace: self.default_global_namespace,
        };
        serde_saphyr::to_string(&yaml).map_err(|e| ClusterDirectoryProblem::Yaml(e.to_string()))
    }
}

fn endpoint(text: &str) -> Result<(IpAddr, u16), ClusterDirectoryProblem> {
    let address = text.parse::<SocketAddr>();
    address
        .map(|address| (address.ip(), address.port()))
        .map_err(|_| ClusterDirectoryProblem::Endpoint(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let text = "name: a\nid: 1\npodCIDRs: [10.1.0.0/16, 'fd00:10:1::/48']\nserviceCIDRs: [10.101.0.0/16]\nnodeCIDRs: [172.31.1.0/24]\nendpoints: ['172.31.1.1:2379', '[fd00:172::101]:2379']\n";
        let settings = ClusterSettings::parse(text).unwrap();
        let etcds = |settings: &ClusterSettings| -> Vec<usize> {
            settings.endpoints.iter().map(Vec::len).collect()
        };
        assert_eq!((settings.pod_cidrs.len(), etcds(&settings)), (2, vec![2]));
        assert!(settings.default_global_namespace);
        assert_eq!(ClusterSettings::parse(&settings.to_yaml().unwrap()).unwrap(), settings);

        let text = "name: a\nid: 1\nendpoints:\n- ['172.31.1.1:2379', '[fd00:172::101]:2379']\n- ['172.31.1.2:2379']\n";
        let replicas = ClusterSettings::parse(text).unwrap();
        assert_eq!(etcds(&replicas), [2, 1]);
        assert_eq!(ClusterSettings::parse(&replicas.to_yaml().unwrap()).unwrap(), replicas);
        let none = ClusterSettings::parse("name: a\nid: 1\n").unwrap();
        assert_eq!(etcds(&none), Vec::<usize>::new());
        assert_eq!(ClusterSettings::parse(&none.to_yaml().unwrap()).unwrap(), none);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("name: a\nid: 0", "0 is not a cluster ID"),
            ("name: default\nid: 1", "choose another one"),
            ("name: a\nid: 256", "256 is not a cluster ID"),
            ("name: A\nid: 1", "\"A\" is not a cluster name"),
            ("name: a\nid: 1\nmaxConnectedClusters: 256", "256 is not a limit"),
            ("name: a\nid: 1\npodCIDR: []", "podCIDR"),
            ("name: a\nid: 1\nendpoints: [a:1]", "endpoint \"a:1\""),
            ("id: 1", "name"),
        ] {
            let error = ClusterSettings::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let error = ClusterDirectory::new(Path::new("/nonexistent")).settings().unwrap_err();
        assert!(error.to_string().contains("/nonexistent/cluster.yaml"));
    }
}
