//! The clusters that the agents do not use: the `drained-peers.yaml` in the ConfigMap of drains. Agents mount it, and the user's
//! `drain --from` writes it; here a peer is only taken out of it.

use mesh_wire::drained_peers::{DRAINED_PEERS_FILE, DrainedPeers};

use crate::{
    config_map::{ConfigMap, ConfigMapError, ConfigMapFile, Versioned},
    connection::Connection,
    drain,
};

/// Which clusters are drained, and the version of the ConfigMap that says so.
pub type VersionedDrainedPeers = Versioned<DrainedPeers>;

/// The ConfigMap, to be changed.
#[derive(Clone)]
pub struct DrainedPeersConfigMap {
    connection: Connection,
}

/// The ConfigMap.
static FILE: ConfigMapFile<DrainedPeers> = ConfigMapFile {
    name: drain::FILE.name,
    described: drain::FILE.described,
    key: DRAINED_PEERS_FILE,
    kept: "the drained peers stay as they are",
    parse: |text| {
        let peers = text.map_or_else(|| Ok(DrainedPeers::default()), DrainedPeers::parse);
        peers.map_err(|error| error.to_string())
    },
};

// === impl DrainedPeersConfigMap ===

impl DrainedPeersConfigMap {
    /// The ConfigMap in the apiserver's namespace.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// What it has now. Without the ConfigMap or the file no cluster is drained.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self) -> Result<VersionedDrainedPeers, ConfigMapError> {
        match self.config_map().read().await {
            Err(ConfigMapError::Missing { .. }) => Ok(VersionedDrainedPeers::default()),
            found => found,
        }
    }

    /// Replaces the file in a version of it. Returns the new one; `None` if it was changed before.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn write(
        &self,
        peers: &DrainedPeers,
        version: u64,
    ) -> Result<Option<VersionedDrainedPeers>, ConfigMapError> {
        let text = peers.to_yaml().map_err(|error| ConfigMapError::Yaml(error.to_string()))?;
        self.config_map().write(&text, version).await
    }

    fn config_map(&self) -> ConfigMap<'_, DrainedPeers> {
        ConfigMap { connection: &self.connection, file: &FILE }
    }
}
