//! `peer`: this cluster's part of a connection, where its keys are.
//!
//! `clustermesh connect` runs these commands in the apiserver's pod, one after another, in both clusters. A private key is made
//! in the cluster that uses it, and stays there; requests and certificates travel. Each command changes one object of the API
//! server at once, and may be given again: a connection that was stopped between any two goes on.

mod credentials;
mod describe;
mod users;

use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, bail, ensure};
use mesh_model::ClusterName;
use mesh_source::cluster_directory::{ClusterDirectory, ClusterSettings};
use mesh_source_kube::{
    ConfigMapError, Connection, DrainedPeersConfigMap, PeersSecret, UsersConfigMap,
};
use mesh_wire::peering::{PeerEntries, Removed};
use serde::{Serialize, de::DeserializeOwned};

use crate::args::{PeerArgs, PeerCommand};

/// The local cluster.
struct Local {
    directory: ClusterDirectory,
    settings: ClusterSettings,
    connection: Connection,
    secret: PeersSecret,
    users: UsersConfigMap,
    drained: DrainedPeersConfigMap,
}

/// How often a change is tried while others change the same object.
const CONTENDED: usize = 10;
/// The largest input: a peer file and some certificates are less.
const INPUT: u64 = 2 * 1024 * 1024;

/// Runs one of the commands.
pub(crate) fn run(args: PeerArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(answer(args))
}

async fn answer(args: PeerArgs) -> anyhow::Result<()> {
    let directory = ClusterDirectory::new(&args.config_dir);
    let settings = directory.settings()?;
    let connection = Connection::open(&args.api.choice()).await?;
    let secret = PeersSecret::new(connection.clone());
    let users = UsersConfigMap::new(connection.clone());
    let drained = DrainedPeersConfigMap::new(connection.clone());
    let local = Local { directory, settings, connection, secret, users, drained };
    match args.command {
        PeerCommand::Describe { include_keys } => print(&local.describe(include_keys).await?),
        PeerCommand::Request { peer } => print(&local.request(&local.peer(&peer)?).await?),
        PeerCommand::Sign => {
            let request: mesh_wire::peering::SignRequest = input()?;
            print(&local.sign(&local.peer(&request.peer)?, request.request.as_deref()).await?)
        }
        PeerCommand::Accept => {
            let acceptance: mesh_wire::peering::Acceptance = input()?;
            let peer = local.peer(&acceptance.peer)?;
            print(&local.accept(&peer, acceptance).await?)
        }
        PeerCommand::Remove { peer, user } => {
            let peer = local.peer(&peer)?;
            let removed = local.remove(&peer).await?;
            let user = user && local.remove_user(&peer).await?;
            let drained = local.undrain(&peer).await?;
            print(&Removed { user, drained, ..removed })
        }
    }
}

// === impl Local ===

impl Local {
    /// The name of another cluster.
    fn peer(&self, name: &str) -> anyhow::Result<ClusterName> {
        let peer = ClusterName::new(name)?;
        ensure!(peer != self.settings.name, "{peer} is this cluster");
        Ok(peer)
    }

    /// Gives up what this cluster needs to follow a peer.
    async fn remove(&self, peer: &ClusterName) -> anyhow::Result<Removed> {
        let entries = PeerEntries::new(peer);
        for _ in 0..CONTENDED {
            let before = self.secret.read().await?;
            let has = |entry: &str| before.data.contains_key(entry);
            let after = match before.of_peer(peer).is_empty() {
                true => before.clone(),
                false => match self.secret.apply(peer, &Default::default(), &before).await? {
                    Some(after) => after,
                    None => continue,
                },
            };
            let all = entries.all().into_iter().filter(|entry| has(entry));
            let (kept, gone): (Vec<&str>, Vec<&str>) =
                all.partition(|entry| after.data.contains_key(*entry));
            let kept = kept.into_iter().map(|entry| {
                let managers = after.managers.get(entry).into_iter().flatten().cloned().collect();
                (entry.to_owned(), managers)
            });
            let gone = gone.into_iter().map(str::to_owned).collect();
            return Ok(Removed { entries: gone, kept: kept.collect(), ..Removed::default() });
        }
        contended("Secret clustermesh-peers")
    }

    /// The names of the drained peers. A file that is not valid drains as before, and is nothing that a connection needs.
    async fn drained_peers(&self) -> anyhow::Result<Vec<String>> {
        match self.drained.read().await {
            Ok(found) => Ok(found.value.clusters.iter().map(ToString::to_string).collect()),
            Err(ConfigMapError::Invalid { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a peer out of the drained ones: if one of that name is connected later, it must not be drained. Returns whether it
    /// was.
    async fn undrain(&self, peer: &ClusterName) -> anyhow::Result<bool> {
        for _ in 0..CONTENDED {
            let found = self.drained.read().await?;
            let mut peers = found.value;
            if !peers.clusters.remove(peer) {
                return Ok(false);
            }
            if self.drained.write(&peers, found.version).await?.is_some() {
                return Ok(true);
            }
        }
        contended("ConfigMap clustermesh-drain")
    }
}

fn contended<T>(object: &str) -> anyhow::Result<T> {
    bail!("the {object} changed {CONTENDED} times meanwhile: give the command again")
}

fn input<T: DeserializeOwned>() -> anyhow::Result<T> {
    // One value: the other end may keep its side open, as a connection to a pod does.
    let mut input = serde_json::Deserializer::from_reader(io::stdin().lock().take(INPUT));
    T::deserialize(&mut input).context("standard input")
}

fn print(answer: &impl Serialize) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{}", serde_json::to_string(answer)?)?)
}
