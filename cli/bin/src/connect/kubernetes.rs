//! Connections of clusters that kubeconfig contexts name.
//!
//! The work is done by `clustermesh-apiserver peer` in a pod of each cluster; this only carries requests, certificates and
//! peer files from one to the other, and decides what is missing. No private key passes through here unless it is asked for.

mod addresses;
mod follow;
mod peer_commands;
mod side;

use std::time::SystemTime;

use anyhow::bail;
use k8s_openapi::{ByteString, api::core::v1::Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use mesh_model::ClusterName;
use mesh_wire::peering::{Description, Removed, SECRET};
use serde_json::{Value, json};

use follow::{Follow, plan};
use peer_commands::{InPod, PeerCommands, ask};
use side::KubeSide;

use crate::{
    args::{AddressKind, ConnectArgs, ConnectionMode, DisconnectArgs},
    connect::check::check,
    kube_exec::{Cluster, Component},
    outcome::{Outcome, note, warn},
    output::{self, Format, Output},
};

/// The annotation of agents' pods by which their kubelets look for changes at once. They do within 90 s by themselves.
const HURRY: &str = "clustermesh.dev/peers-changed";

/// Connects two clusters. Returns their names, and whether anything was changed.
pub(super) fn connect(
    args: &ConnectArgs,
    clusters: (Cluster, Cluster),
    output: Output,
) -> anyhow::Result<([String; 2], bool)> {
    let (one, other) = (InPod::new(clusters.0), InPod::new(clusters.1));
    let (names, shown, changed) = {
        let source =
            KubeSide::read(&one, args.addresses_from, &args.source_endpoint, "--source-endpoint")?;
        let destination = KubeSide::read(
            &other,
            args.addresses_from,
            &args.destination_endpoint,
            "--destination-endpoint",
        )?;
        if source.facts.uuid == destination.facts.uuid {
            bail!("{} and {} are the same cluster", one.context(), other.context());
        }
        check(&source.facts, &destination.facts, args.replace)?;
        let mut follows = vec![plan(&source, &destination)?];
        if args.connection_mode == ConnectionMode::Bidirectional {
            follows.push(plan(&destination, &source)?);
        }
        let shown: Vec<String> = follows.iter().flat_map(Follow::steps).collect();
        if !args.dry_run {
            follows.iter().try_for_each(Follow::carry_out)?;
        }
        let changed = !shown.is_empty() && !args.dry_run;
        ([source.name().to_string(), destination.name().to_string()], shown, changed)
    };
    if changed {
        [&one, &other].into_iter().for_each(|side| hurry(&side.cluster));
    }
    match output {
        Output::Json if output::is(Format::Yaml) => {
            shown.iter().for_each(|step| note(step));
            for side in [&one, &other] {
                output::line(document(side, args.include_keys)?)?;
            }
        }
        Output::Json | Output::Text => super::show("Connect", &shown, args.dry_run, output)?,
    }
    Ok((names, changed))
}

/// Disconnects two clusters. If only one is at hand, it gives up the other.
pub(super) fn disconnect(
    args: &DisconnectArgs,
    clusters: (anyhow::Result<Cluster>, anyhow::Result<Cluster>),
    output: Output,
) -> anyhow::Result<Outcome> {
    let (one, other) = (args.pair.context(), args.pair.destination_context.as_str());
    let at = |cluster: anyhow::Result<Cluster>| cluster.map(InPod::new);
    let ends = (at(clusters.0), at(clusters.1));
    let side = |(at, described)| KubeSide::new(at, described, AddressKind::Auto, &[], "");
    let (steps, gone) = match (at_hand(&ends.0), at_hand(&ends.1)) {
        (Ok(here), Ok(there)) => {
            let (here, there) = (side(here)?, side(there)?);
            let names = (here.name().clone(), there.name().clone());
            let steps =
                [leave(&here, &names.1, args.dry_run)?, leave(&there, &names.0, args.dry_run)?];
            (steps.concat(), None)
        }
        (Ok(here), Err(why)) => {
            (leave_gone(&side(here)?, other, &why, args.dry_run)?, Some((one, other, why)))
        }
        (Err(why), Ok(there)) => {
            (leave_gone(&side(there)?, one, &why, args.dry_run)?, Some((other, one, why)))
        }
        (Err(why), Err(_)) => return Err(why),
    };
    super::show("Disconnect", &steps, args.dry_run, output)?;
    if !args.dry_run && !steps.is_empty() {
        let at_hand = [&ends.0, &ends.1].into_iter().flatten();
        at_hand.for_each(|side| hurry(&side.cluster));
    }
    Ok(match gone {
        None => Outcome::Done,
        Some((here, gone, why)) => {
            warn(format!(
                "{gone} is not at hand ({why:#}): if it still exists, run `clustermesh disconnect --context {gone} --destination-context {here}` where it is"
            ));
            Outcome::NotReady
        }
    })
}

/// What a cluster says of itself.
pub(crate) fn described(cluster: &Cluster) -> anyhow::Result<Description> {
    ask(&InPod::new(cluster.clone()), &["describe"])
}

/// Gives a cluster that follows another a new certificate for that one's etcd, and the CAs that the other trusts now. The rest
/// of its peer file stays.
pub(crate) fn renew_credentials(follower: &Cluster, followed: &Cluster) -> anyhow::Result<()> {
    let (source, destination) = (InPod::new(follower.clone()), InPod::new(followed.clone()));
    let read = |at| KubeSide::read(at, AddressKind::Auto, &[], "");
    Follow::renewal(&read(&source)?, &read(&destination)?)?.carry_out()?;
    hurry(follower);
    Ok(())
}

/// Removes a peer from a cluster. Returns the steps.
fn leave(side: &KubeSide<'_>, peer: &ClusterName, dry_run: bool) -> anyhow::Result<Vec<String>> {
    let (name, namespace) = (side.name(), &side.described.namespace);
    let mut steps = Vec::new();
    if side.has_entries(peer) {
        steps.push(format!("{name}: remove peer {peer} (Secret {namespace}/{SECRET})"));
    }
    if side.has_user(peer) {
        steps.push(format!(
            "{name}: remove user remote-{peer} (ConfigMap {namespace}/clustermesh-users)"
        ));
    }
    if side.drains(peer) {
        steps.push(format!(
            "{name}: take {peer} out of the drained peers (ConfigMap {namespace}/clustermesh-drain)"
        ));
    }
    if dry_run || steps.is_empty() {
        return Ok(steps);
    }
    let removed: Removed = ask(side.at, &["remove", "--user", "--peer", peer.as_str()])?;
    for (entry, managers) in removed.kept {
        warn(format!(
            "{}: Secret {namespace}/{SECRET} keeps {entry}, which {} manages: remove it there",
            side.at.context(),
            managers.join(" and ")
        ));
    }
    Ok(steps)
}

/// The same where the peer's cluster is not at hand. `gone` is its name.
fn leave_gone(
    side: &KubeSide<'_>,
    gone: &str,
    why: &anyhow::Error,
    dry_run: bool,
) -> anyhow::Result<Vec<String>> {
    let peer = ClusterName::new(gone).ok().filter(|peer| side.has(peer));
    let Some(peer) = peer else {
        let peers: Vec<&str> = side.facts.peers.iter().map(|(peer, _)| peer.as_str()).collect();
        let peers = if peers.is_empty() { "none".into() } else { peers.join(", ") };
        bail!(
            "{gone} is not at hand: {why:#}. {} has no peer of that name (it has: {peers}); to remove a peer there, give its name as --destination-context",
            side.at.context()
        )
    };
    leave(side, &peer, dry_run)
}

/// Asks a cluster that may not be at hand.
fn at_hand(end: &anyhow::Result<InPod>) -> anyhow::Result<(&dyn PeerCommands, Description)> {
    match end {
        Ok(end) => Ok((end, ask(end, &["describe"])?)),
        Err(why) => bail!("{why:#}"),
    }
}

/// Has the kubelets of a cluster's agents look at the Secret at once. If the user may not, they look by themselves.
fn hurry(cluster: &Cluster) {
    let patched = || -> anyhow::Result<()> {
        let agents = cluster.pods(Component::Agent)?;
        let agents = agents.into_iter().filter(|agent| agent.unusable.is_none());
        let names: Vec<String> = agents.map(|agent| agent.name).collect();
        let now = mesh_certs::rfc_3339(SystemTime::now());
        let namespace = cluster.namespace().to_owned();
        cluster.request(move |client| async move {
            let pods = Api::<Pod>::namespaced(client, &namespace);
            let patch = json!({ "metadata": { "annotations": { HURRY: now } } });
            for name in names {
                pods.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
            }
            Ok(())
        })
    };
    if let Err(why) = patched() {
        note(&format!(
            "{}: its agents see the change within 90 s; sooner with the right to patch pods ({why:#})",
            cluster.context()
        ));
    }
}

/// The Secret of a cluster, as YAML.
fn document(at: &dyn PeerCommands, include_keys: bool) -> anyhow::Result<String> {
    let flags: &[&str] = if include_keys { &["--include-keys"] } else { &[] };
    let described: Description = ask(at, &[&["describe"], flags].concat())?;
    let data = described.secret.entries.into_iter();
    let data: serde_json::Map<String, Value> = data
        .map(|(name, text)| Ok((name, serde_json::to_value(ByteString(text.into_bytes()))?)))
        .collect::<Result<_, serde_json::Error>>()?;
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": SECRET, "namespace": described.namespace },
        "data": data,
    });
    let yaml = serde_saphyr::to_string(&secret)?;
    Ok(format!("---\n# cluster {} (context {})\n{}", described.name, at.context(), yaml.trim_end()))
}

#[cfg(test)]
mod tests;
