//! The cluster's address ranges: those that flags name, or else those that the cluster's apiserver wrote into `ranges.yaml` beside
//! `local.yaml`.
//!
//! A run goes on with the ranges it began with. If others are written, it ends, so that it is started again with them: that is
//! once, after the installation, and when a cluster gets another range.

use std::{
    fs,
    future::pending,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use mesh_wire::cluster_ranges::{ClusterRanges, RANGES_FILE};
use tokio::time::sleep;

/// How often the file is read. A kubelet brings a change after a minute.
const EVERY: Duration = Duration::from_secs(5);

/// The ranges that are taken from the file.
#[derive(Clone, Debug)]
pub struct FileRanges {
    file: PathBuf,
    /// Those that no flag names.
    wanted: [bool; 3],
    taken: [Vec<IpNet>; 3],
}

// === impl FileRanges ===

impl FileRanges {
    /// Fills in what no flag names: the ranges of pods, nodes and services. `local_file`: `local.yaml`.
    pub fn take(local_file: &Path, mut flags: [&mut Vec<IpNet>; 3]) -> Self {
        let mut ranges = Self {
            file: local_file.with_file_name(RANGES_FILE),
            wanted: flags.each_ref().map(|flag| flag.is_empty()),
            taken: Default::default(),
        };
        ranges.taken = ranges.read();
        for (flag, taken) in flags.iter_mut().zip(&ranges.taken) {
            flag.extend(taken);
        }
        if ranges.taken.iter().any(|taken| !taken.is_empty()) {
            let taken = ranges.taken.iter().flatten().map(ToString::to_string);
            let taken = taken.collect::<Vec<_>>().join(", ");
            tracing::info!(file = %ranges.file.display(), ranges = taken, "ranges of the cluster are taken from a file");
        }
        ranges
    }

    /// Ends when the file has other ranges. Those that it no longer names stay.
    pub async fn changed(&self) {
        if !self.wanted.contains(&true) {
            return pending().await;
        }
        while !self.differs(&self.read()) {
            sleep(EVERY).await;
        }
    }

    fn differs(&self, found: &[Vec<IpNet>; 3]) -> bool {
        found.iter().zip(&self.taken).any(|(found, taken)| !found.is_empty() && found != taken)
    }

    /// The ranges in the file that are wanted; none if it is not there.
    fn read(&self) -> [Vec<IpNet>; 3] {
        let Ok(text) = fs::read_to_string(&self.file) else { return Default::default() };
        let ClusterRanges { pod_cidrs, node_cidrs, service_cidrs } = ClusterRanges::parse(&text)
            .unwrap_or_else(|error| {
                tracing::warn!(file = %self.file.display(), %error, "the ranges cannot be read");
                ClusterRanges::default()
            });
        let [pods, nodes, services] = self.wanted;
        let only = |wanted: bool, ranges: Vec<IpNet>| if wanted { ranges } else { Vec::new() };
        [only(pods, pod_cidrs), only(nodes, node_cidrs), only(services, service_cidrs)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_before_the_file_and_a_change_of_the_others_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("local.yaml");
        let write = |text: &str| fs::write(folder.path().join(RANGES_FILE), text).unwrap();
        let nets = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        // A flag names the range of nodes.
        let take = || {
            let (mut pods, mut nodes, mut services) = (vec![], nets("172.31.1.0/24"), vec![]);
            let ranges = FileRanges::take(&local, [&mut pods, &mut nodes, &mut services]);
            (ranges, pods, nodes)
        };

        let (ranges, pods, _) = take();
        assert!(pods.is_empty() && !ranges.differs(&ranges.read()));
        write("podCIDRs: [10.1.0.0/16]\nnodeCIDRs: [172.30.0.0/16]\nserviceCIDRs: []\n");
        assert!(ranges.differs(&ranges.read()), "they came later");

        let (ranges, pods, nodes) = take();
        assert_eq!((pods, nodes), (nets("10.1.0.0/16"), nets("172.31.1.0/24")));
        for (text, differs) in [
            ("podCIDRs: [10.1.0.0/16]\nnodeCIDRs: [172.29.0.0/16]\n", false),
            ("podCIDRs: []\n", false),
            ("podCIDRs: [ten]\n", false),
            ("podCIDRs: [10.9.0.0/16]\n", true),
        ] {
            write(text);
            assert_eq!(ranges.differs(&ranges.read()), differs, "{text}");
        }
    }
}
