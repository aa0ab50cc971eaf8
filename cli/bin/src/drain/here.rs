//! `drain --from`: drains a peer for the clients of one cluster, in `drained-peers.yaml` of its directory or ConfigMap. The peer does not
//! have to be reachable.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use mesh_files::{Access, write_atomic};
use mesh_model::ClusterName;
use mesh_wire::drained_peers::{DRAINED_PEERS_FILE, DrainedPeers};
use serde_json::json;

use super::{Change, config_map, wait};
use crate::{
    connect::lock,
    contexts,
    outcome::Outcome,
    output::{self, Output},
};

pub(super) fn run(
    change: Change,
    target: &str,
    from: &str,
    (dry_run, limit): (bool, Option<Duration>),
    output: Output,
) -> anyhow::Result<Outcome> {
    let Ok(peer) = ClusterName::new(target) else {
        bail!("{target:?} is not the name of a cluster: --from is for whole clusters");
    };
    let context = contexts::find(from)?;
    let changed = match contexts::cluster_of(&context)? {
        Some(cluster) => config_map::set(&cluster, &context, &peer, change, dry_run)?,
        None => set(&context.directory, &peer, change, dry_run)?,
    };
    let outcome = match limit {
        Some(limit) => wait::until_in_force_here(change, &context, peer.as_str(), limit)?,
        None => Outcome::Done,
    };
    match output {
        Output::Text => {
            output::line(format!("{peer} in {from}: {}", change.done(changed, dry_run)))?
        }
        Output::Json => output::json(
            "Drain",
            json!({
                "cluster": peer.to_string(), "from": from, "drained": change == Change::Drain,
                "changed": changed, "dryRun": dry_run,
            }),
        )?,
    }
    Ok(outcome)
}

/// Changes the file, unless it is a dry run. Returns whether the change makes a difference.
fn set(
    directory: &Path,
    peer: &ClusterName,
    change: Change,
    dry_run: bool,
) -> anyhow::Result<bool> {
    if !directory.is_dir() {
        bail!("{}: there is no such cluster directory", directory.display());
    }
    let _lock = lock(directory)?;
    let (path, mut drained) = read(directory)?;
    let changed = match change {
        Change::Drain if !directory.join("peers").join(peer.as_str()).exists() => {
            bail!(
                "{peer} is not a peer of this cluster: there is no {}/peers/{peer}",
                directory.display()
            )
        }
        Change::Drain => drained.clusters.insert(peer.clone()),
        Change::Undrain => drained.clusters.remove(peer),
    };
    if changed && !dry_run {
        write_atomic(&path, drained.to_yaml()?.as_bytes(), Access::All)
            .with_context(|| path.display().to_string())?;
    }
    Ok(changed)
}

/// The path and the content of the file.
pub(crate) fn read(directory: &Path) -> anyhow::Result<(PathBuf, DrainedPeers)> {
    let path = directory.join(DRAINED_PEERS_FILE);
    let drained = match fs::read_to_string(&path) {
        Ok(text) => DrainedPeers::parse(&text).with_context(|| path.display().to_string())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => DrainedPeers::default(),
        Err(error) => return Err(error).context(path.display().to_string()),
    };
    Ok((path, drained))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_drained_here_until_it_is_undrained() {
        let directory = std::env::temp_dir().join(format!("drain-here-{}", std::process::id()));
        fs::create_dir_all(directory.join("peers")).unwrap();
        fs::write(directory.join("peers/c"), "endpoints: []").unwrap();
        let [c, d] = ["c", "d"].map(|name| ClusterName::new(name).unwrap());
        let preview = |peer: &ClusterName, change| set(&directory, peer, change, true);
        let set = |peer: &ClusterName, change| set(&directory, peer, change, false);
        assert!(set(&d, Change::Drain).unwrap_err().to_string().contains("d is not a peer"));
        assert!(!set(&c, Change::Undrain).unwrap());
        assert!(preview(&c, Change::Drain).unwrap() && preview(&c, Change::Drain).unwrap());
        assert!(set(&c, Change::Drain).unwrap());
        assert!(!set(&c, Change::Drain).unwrap());
        assert_eq!(read(&directory).unwrap().1.clusters, [c.clone()].into());
        // A peer that was disconnected can be undrained too.
        fs::remove_file(directory.join("peers/c")).unwrap();
        assert!(set(&c, Change::Undrain).unwrap());
        assert_eq!(read(&directory).unwrap().1, DrainedPeers::default());
        fs::write(directory.join(DRAINED_PEERS_FILE), "clusters: 3").unwrap();
        assert!(set(&c, Change::Undrain).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
