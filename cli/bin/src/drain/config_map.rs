//! `drained-peers.yaml` of a mesh in Kubernetes: a key of the ConfigMap `clustermesh-drain`, which is changed with the rights
//! of the user.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use mesh_lab::contexts::Context;
use mesh_model::ClusterName;
use mesh_wire::drained_peers::{DRAINED_PEERS_FILE, DrainedPeers};
use serde_json::json;

use super::Change;
use crate::{
    ask::{self, Which},
    kube_exec::Cluster,
};

const NAME: &str = "clustermesh-drain";

/// Changes the ConfigMap, unless it is a dry run. Returns whether the change makes a difference.
pub(super) fn set(
    cluster: &Cluster,
    context: &Context,
    peer: &ClusterName,
    change: Change,
    dry_run: bool,
) -> anyhow::Result<bool> {
    if change == Change::Drain {
        let answers = ask::ask(std::slice::from_ref(context), Which::One(None), ask::peers)?;
        let Some(answer) = answers.answers.first() else {
            bail!("{}", answers.warnings.join("; "))
        };
        if !answer.answer.iter().any(|found| !found.own && found.name == peer.as_str()) {
            bail!("{peer} is not a peer of this cluster: its agents do not follow it");
        }
    }
    let namespace = cluster.namespace().to_owned();
    let found = cluster.request(move |client| async move {
        Api::<ConfigMap>::namespaced(client, &namespace).get(NAME).await
    })?;
    let text = found.data.as_ref().and_then(|data| data.get(DRAINED_PEERS_FILE));
    let place = || format!("ConfigMap {}/{NAME}: {DRAINED_PEERS_FILE}", cluster.namespace());
    let drained = text.map_or(Ok(DrainedPeers::default()), |text| DrainedPeers::parse(text));
    let mut drained = drained.with_context(place)?;
    let changed = match change {
        Change::Drain => drained.clusters.insert(peer.clone()),
        Change::Undrain => drained.clusters.remove(peer),
    };
    if changed && !dry_run {
        // Refused if another command changed it meanwhile.
        let patch = json!({
            "metadata": { "resourceVersion": found.metadata.resource_version },
            "data": BTreeMap::from([(DRAINED_PEERS_FILE, drained.to_yaml()?)]),
        });
        let namespace = cluster.namespace().to_owned();
        cluster.request(move |client| async move {
            let maps = Api::<ConfigMap>::namespaced(client, &namespace);
            maps.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await
        })?;
    }
    Ok(changed)
}
