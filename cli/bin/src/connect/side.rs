//! One cluster of a connection, as its directory describes it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use mesh_alloc::read_uuid;
use mesh_certs::ClusterPki;
use mesh_files::{Lock, LockError};
use mesh_model::ClusterName;
use mesh_source::cluster_directory::ClusterDirectory;
use mesh_wire::{peer_file::PeerFile, peering::PeerEntries, users_file::UsersFile};

use crate::connect::facts::Facts;

/// How long to wait for another command that changes the same cluster.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Side {
    /// Keeps other commands from changing the cluster meanwhile.
    _lock: Option<Lock>,
    pub(crate) directory: ClusterDirectory,
    pub(crate) facts: Facts,
    pub(crate) users: UsersFile,
}

/// The files of one peer in a cluster directory.
pub(crate) struct PeerPaths {
    pub(crate) file: PathBuf,
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Locks a cluster directory before its peers are changed.
pub(crate) fn lock(directory: &Path) -> Result<Lock, LockError> {
    Lock::wait(&directory.join(".connect.lock"), PATIENCE)
}

impl Side {
    /// Reads a cluster directory, and locks it if it is to be changed.
    pub(crate) fn read(path: &Path, change: bool) -> anyhow::Result<Self> {
        let directory = ClusterDirectory::new(path);
        let settings = directory.settings()?;
        let lock = change.then(|| lock(path)).transpose()?;
        let users = match fs::read_to_string(directory.users_file()) {
            Ok(text) => UsersFile::parse(&text)
                .with_context(|| directory.users_file().display().to_string())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => UsersFile::default(),
            Err(error) => return Err(error).context(directory.users_file().display().to_string()),
        };
        let file = directory.settings_file();
        let facts = Facts {
            settings,
            uuid: read_uuid(&directory.journal())?,
            peers: read_peers(&directory.peers())?,
            no_endpoints: format!(
                "{} names no `endpoints`: add where its etcd is reached by other clusters",
                file.display()
            ),
            no_ranges: format!(
                "{} names no `podCIDRs` or no `nodeCIDRs`: they are what the cluster may claim",
                file.display()
            ),
        };
        Ok(Self { _lock: lock, directory, facts, users })
    }

    pub(crate) fn name(&self) -> &ClusterName {
        self.facts.name()
    }

    pub(crate) fn pki(&self) -> ClusterPki {
        ClusterPki::new(&self.directory.pki())
    }

    /// The files of a peer.
    pub(crate) fn paths(&self, peer: &ClusterName) -> PeerPaths {
        let folder = self.directory.peers();
        let PeerEntries { file, ca, certificate, key, .. } = PeerEntries::new(peer);
        let [file, ca, certificate, key] =
            [file, ca, certificate, key].map(|name| folder.join(name));
        PeerPaths { file, ca, certificate, key }
    }

    pub(crate) fn peer(&self, name: &ClusterName) -> Option<&PeerFile> {
        self.facts.peer(name)
    }
}

fn read_peers(folder: &Path) -> anyhow::Result<Vec<(ClusterName, PeerFile)>> {
    let mut peers = Vec::new();
    let texts = match mesh_files::texts(folder) {
        Ok(texts) => texts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(peers),
        Err(error) => return Err(error).context(folder.display().to_string()),
    };
    for (file_name, text) in texts {
        let (Ok(name), Ok(text)) = (ClusterName::new(&file_name), text) else { continue };
        if PeerFile::is_one(&text) {
            let path = folder.join(file_name);
            let file = PeerFile::parse(&text).with_context(|| path.display().to_string())?;
            peers.push((name, file));
        }
    }
    Ok(peers)
}
