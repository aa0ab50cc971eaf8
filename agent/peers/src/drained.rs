//! The clusters that an operator drained from the local cluster's side: `drained-peers.yaml`, beside the folder of peer
//! files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use mesh_files::{Moment, Progress, Settling, Stamp, Written};
use mesh_model::ClusterName;
use mesh_wire::drained_peers::{DRAINED_PEERS_FILE, DrainedPeers};

/// The file, and its content that is in use.
#[derive(Debug)]
pub(crate) struct DrainedPeersFile {
    path: PathBuf,
    clusters: BTreeSet<ClusterName>,
    settling: Settling,
}

impl DrainedPeersFile {
    /// The file beside a folder of peer files. Nothing is drained until it is read.
    pub(crate) fn beside(folder: &Path) -> Self {
        let path = folder.with_file_name(DRAINED_PEERS_FILE);
        Self { path, clusters: BTreeSet::new(), settling: Settling::default() }
    }

    /// The folder that it is in.
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Reads it, and returns what is wrong with it. If it cannot be parsed, the former content stays in use. A cluster
    /// is no longer drained only if the file is settled, or gone for a second: clients would go back to a cluster that
    /// is dead. `written`: what a watch of the folder noticed.
    pub(crate) fn look(
        &mut self,
        written: BTreeMap<PathBuf, Written>,
        at: Moment,
    ) -> Option<String> {
        let stamp = fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata)).ok();
        let read = match fs::read_to_string(&self.path) {
            Ok(text) => DrainedPeers::parse(&text).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(DrainedPeers::default()),
            Err(error) => Err(error.to_string()),
        };
        self.settling.note(written);
        let progress = self.settling.look(&self.path, stamp, at);
        self.settling.retain(|path| path == self.path);
        match read {
            Ok(DrainedPeers { clusters }) => {
                if progress == Progress::Settled || clusters.is_superset(&self.clusters) {
                    self.clusters = clusters;
                }
                None
            }
            Err(why) => {
                Some(format!("{}: {why}; what is drained stays as it is", self.path.display()))
            }
        }
    }

    /// The clusters that are to be left alone.
    pub(crate) fn clusters(&self) -> &BTreeSet<ClusterName> {
        &self.clusters
    }

    /// When to read it again, although no event comes.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.settling.next_look()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cluster_comes_back_only_when_the_file_says_so_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = DrainedPeersFile::beside(&folder.path().join("peers"));
        let path = folder.path().join(DRAINED_PEERS_FILE);
        let start = Moment::now();
        let at = |millis: u64| {
            let later = Duration::from_millis(millis);
            Moment { now: start.now + later, wall: start.wall + later }
        };
        let drained = |file: &DrainedPeersFile| -> Vec<String> {
            file.clusters().iter().map(ToString::to_string).collect()
        };
        assert_eq!((file.look(BTreeMap::new(), at(0)), drained(&file).len()), (None, 0));
        // More is drained at once.
        fs::write(&path, "clusters: [b, c]").unwrap();
        assert_eq!(file.look(BTreeMap::new(), at(10)), None);
        assert_eq!(drained(&file), ["b", "c"]);
        // A file that is being rewritten, broken, or gone for a moment.
        fs::write(&path, "clusters: [b]").unwrap();
        assert_eq!(file.look(BTreeMap::new(), at(20)), None);
        fs::write(&path, "").unwrap();
        assert!(file.look(BTreeMap::new(), at(30)).unwrap().contains("stays as it is"));
        fs::remove_file(&path).unwrap();
        assert_eq!(file.look(BTreeMap::new(), at(40)), None);
        assert_eq!(drained(&file), ["b", "c"]);
        assert_eq!(file.next_look(), Some(at(1_040).now));
        // Renamed into its place it is complete.
        fs::write(&path, "clusters: [b]").unwrap();
        let renamed = BTreeMap::from([(path.clone(), Written::Renamed)]);
        assert_eq!((file.look(renamed, at(50)), drained(&file)), (None, vec!["b".into()]));
        // And what stays away is gone.
        fs::remove_file(&path).unwrap();
        assert_eq!((file.look(BTreeMap::new(), at(60)), drained(&file).len()), (None, 1));
        assert_eq!((file.look(BTreeMap::new(), at(1_060)), drained(&file).len()), (None, 0));
    }
}
