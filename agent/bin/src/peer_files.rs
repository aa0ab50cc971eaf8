//! The folder of peer files.

use std::{collections::BTreeMap, fs, io, path::Path};

use mesh_model::ClusterName;
use mesh_wire::peer_file::PeerFile;

/// What the folder holds: each peer with its file, or with what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct PeerFiles {
    pub(crate) peers: BTreeMap<ClusterName, Result<PeerFile, String>>,
    /// Files that should be peers and have no peer's name.
    pub(crate) problems: Vec<String>,
}

impl PeerFiles {
    /// Reads the folder. One that is not there has no peers; one that cannot be read is an error, which says nothing about
    /// the peers. The own cluster's file is passed over: operators put one identical folder into all clusters.
    pub(crate) fn read(folder: &Path, own: &ClusterName) -> io::Result<Self> {
        let mut files = Self::default();
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with('.') || !path.is_file() {
                continue;
            }
            // What is no text is a key in DER, or somebody's mistake; no peer file.
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if !PeerFile::is_one(&text) {
                continue;
            }
            match ClusterName::new(name) {
                Ok(name) if name == *own => {}
                Ok(name) => {
                    let file =
                        PeerFile::parse(&text).map_err(|e| format!("{}: {e}", path.display()));
                    files.peers.insert(name, file);
                }
                Err(error) => files.problems.push(format!("{}: {error}", path.display())),
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_files_names() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let good = "endpoints: ['https://b.mesh.cilium.io:2379']";
        write("b", good);
        write("a", good);
        write("c", "endpoints: 3");
        write("No_Name", good);
        write("b.etcd-client.crt", "-----BEGIN CERTIFICATE-----");
        write(".b.123", good);
        fs::write(folder.path().join("key.der"), b"\xff\xfe").unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        let files = PeerFiles::read(folder.path(), &ClusterName::new("a").unwrap()).unwrap();
        let found: Vec<_> =
            files.peers.iter().map(|(name, file)| (name.as_str(), file.is_ok())).collect();
        assert_eq!(found, [("b", true), ("c", false)]);
        assert_eq!(files.problems.len(), 1);
        let none = PeerFiles::read(&folder.path().join("nowhere"), &ClusterName::new("a").unwrap())
            .unwrap();
        assert!(none.peers.is_empty());
    }
}
