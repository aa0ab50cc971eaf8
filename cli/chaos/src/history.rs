//! Compares the manifests of all clusters with the contents of all kernels, without the daemons' state and tables in
//! between.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mesh_dump::{Destination, Dump, DumpError, Services};
use mesh_lab::{ClusterState, LabState};
use mesh_wire::peer_file::PeerFile;
use serde::Serialize;

use crate::expected::{Manifests, expected};

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Nodes whose kernel was read, or could not be.
    pub nodes: usize,
    /// Frontends that were compared, counted on each node.
    pub frontends: usize,
    /// Backends of the frontends that are as they should be.
    pub backends: usize,
    /// Where a kernel and the manifests differ.
    pub differences: Vec<Difference>,
}

/// A difference between the manifests and a node's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The name of the node's cluster.
    pub cluster: String,
    /// The name of the node.
    pub node: String,
    /// The frontend's address and port; `None` if the node's tables cannot be read.
    pub frontend: Option<SocketAddr>,
    /// The frontend's protocol, `TCP` or `UDP`; empty if the tables cannot be read.
    pub protocol: &'static str,
    /// What is wrong, for a reader.
    pub what: String,
    /// Backends that the kernel lacks.
    pub missing: Vec<SocketAddr>,
    /// Backends that the kernel has and should not have.
    pub strange: Vec<SocketAddr>,
}

/// A folder of a cluster that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct HistoryError {
    /// The folder.
    path: PathBuf,
    /// The system's error.
    source: std::io::Error,
}

/// Compares every node's kernel with the manifests of its cluster and of the clusters that this one follows.
pub fn check(lab: &LabState) -> Result<History, HistoryError> {
    let mut manifests = BTreeMap::new();
    for cluster in &lab.clusters {
        let folder = cluster.directory.join("manifests");
        let read = Manifests::read(&folder);
        let read = read.map_err(|source| HistoryError { path: folder, source })?;
        manifests.insert(cluster.name.as_str(), (u16::from(cluster.id), read));
    }
    let of = |name: &str| manifests.get(name).map(|(id, manifests)| (*id, manifests));
    let mut history = History::default();
    for cluster in &lab.clusters {
        let Some(local) = of(&cluster.name) else { continue };
        let followed: Vec<_> = followed(cluster)?.iter().filter_map(|name| of(name)).collect();
        for node in &cluster.nodes {
            let wanted = expected(local, &followed, &node.name);
            let found = read_kernel(&lab.pins(&cluster.name, &node.name));
            history.compare((&cluster.name, &node.name), &wanted, found);
        }
    }
    Ok(history)
}

/// The clusters of which a cluster has a peer file.
fn followed(cluster: &ClusterState) -> Result<Vec<String>, HistoryError> {
    let folder = cluster.directory.join("peers");
    let error = |source| HistoryError { path: folder.clone(), source };
    let texts = mesh_files::texts(&folder).map_err(error)?.into_iter();
    let peers = texts.filter(|(_, text)| text.as_ref().is_ok_and(|text| PeerFile::is_one(text)));
    Ok(peers.map(|(name, _)| name).collect())
}

fn read_kernel(pins: &Path) -> Result<Services, DumpError> {
    Dump::open(pins)?.services()
}

impl History {
    fn compare(
        &mut self,
        (cluster, node): (&str, &str),
        wanted: &Services,
        found: Result<Services, DumpError>,
    ) {
        self.nodes += 1;
        let difference = |frontend, what: String| Difference {
            cluster: cluster.into(),
            node: node.into(),
            frontend,
            protocol: "",
            what,
            missing: Vec::new(),
            strange: Vec::new(),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.differences.push(difference(None, error.to_string()));
                return;
            }
        };
        let frontends: BTreeSet<_> = wanted.keys().chain(found.keys()).copied().collect();
        for key @ (frontend, protocol) in frontends {
            self.frontends += 1;
            let (should, does) = (wanted.get(&key), found.get(&key));
            let what = match (should, does) {
                (Some(_), None) => "the frontend is missing",
                (None, Some(_)) => "the frontend should not be there",
                (should, does) if should == does => {
                    self.backends += does.map_or(0, BTreeSet::len);
                    continue;
                }
                _ => "other backends",
            };
            let nothing = BTreeSet::new();
            let (should, does) = (should.unwrap_or(&nothing), does.unwrap_or(&nothing));
            let only = |one: &BTreeSet<Destination>, other: &BTreeSet<Destination>| {
                one.difference(other).map(|destination| destination.address).collect()
            };
            self.differences.push(Difference {
                protocol: if protocol == 6 { "TCP" } else { "UDP" },
                missing: only(should, does),
                strange: only(does, should),
                ..difference(Some(frontend), what.into())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_says_what_is_missing_and_what_is_strange() {
        let frontend = |last: u8| (SocketAddr::from(([10, 101, 0, last], 80)), 6);
        let destination = |last: u8| Destination {
            address: SocketAddr::from(([10, 1, 1, last], 8080)),
            cluster: 1,
        };
        let wanted = Services::from([
            (frontend(1), BTreeSet::from([destination(1), destination(2)])),
            (frontend(2), BTreeSet::new()),
            (frontend(4), BTreeSet::from([destination(4)])),
        ]);
        let found = Services::from([
            (frontend(1), BTreeSet::from([destination(2), destination(3)])),
            (frontend(3), BTreeSet::new()),
            (frontend(4), BTreeSet::from([destination(4)])),
        ]);
        let mut history = History::default();
        history.compare(("a", "n1"), &wanted, Ok(found));
        let shown: Vec<String> = history
            .differences
            .iter()
            .map(|d| format!("{} {} {:?} {:?}", d.frontend.unwrap(), d.what, d.missing, d.strange))
            .collect();
        assert_eq!(
            shown,
            [
                "10.101.0.1:80 other backends [10.1.1.1:8080] [10.1.1.3:8080]",
                "10.101.0.2:80 the frontend is missing [] []",
                "10.101.0.3:80 the frontend should not be there [] []",
            ]
        );
        assert_eq!((history.nodes, history.frontends, history.backends), (1, 4, 1));
    }
}
