//! Whether what the clusters' manifests say has come down to the kernels: from the source to the end, through neither the
//! daemons nor their tables.

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

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Nodes whose kernel was read.
    pub nodes: usize,
    /// Frontends that were compared, each node's for itself.
    pub frontends: usize,
    /// Backends of all these.
    pub backends: usize,
    /// What is not as it should be.
    pub differences: Vec<Difference>,
}

/// A difference between what manifests say and what a node's kernel holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The node's cluster.
    pub cluster: String,
    /// The node.
    pub node: String,
    /// The frontend's address and port; absent where the tables cannot be read.
    pub frontend: Option<SocketAddr>,
    /// Its protocol.
    pub protocol: &'static str,
    /// What is wrong, in words.
    pub what: String,
    /// Backends that should be there.
    pub missing: Vec<SocketAddr>,
    /// Backends that should not.
    pub strange: Vec<SocketAddr>,
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct HistoryError {
    /// The folder.
    path: PathBuf,
    /// Why.
    source: std::io::Error,
}

/// Compares every node's kernel with the manifests of its cluster and of those that it follows.
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

/// The clusters that one has a peer file for.
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
