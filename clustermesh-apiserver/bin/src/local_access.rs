//! How the cluster's agents reach its etcds, and the cluster's ranges: the ConfigMap `clustermesh-local`, which pods of agents
//! mount.
//!
//! Agents read no Kubernetes API. So the apiserver writes here the file that is `local.yaml` in a cluster directory, with the
//! nodes on which its replicas run.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, anyhow};
use mesh_source_kube::{Connection, Stored, StoredKind, etcd_replicas};
use mesh_wire::{
    cluster_ranges::{ClusterRanges, RANGES_FILE},
    peer_file::{HostAlias, PeerFile},
};

/// The ConfigMap, with the keys `local.yaml` and `ranges.yaml`.
const LOCAL: Stored = Stored { kind: StoredKind::ConfigMap, name: "clustermesh-local" };
const KEY: &str = "local.yaml";
/// Where pods of agents mount the ConfigMap, together with the Secret of the same name.
const MOUNT: &str = "/etc/clustermesh";
/// The port of an etcd on its node.
pub(crate) const PORT: u16 = 12379;

/// What [`publish`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The file was as it should be, or another replica changed it meanwhile.
    Nothing,
    /// The file is written.
    Changed,
    /// No pod of the apiserver is shown with its node yet. The file stays.
    NoPods,
}

/// Writes the files, if they are not as they should be.
pub(crate) async fn publish(api: &Connection, ranges: &ClusterRanges) -> anyhow::Result<Published> {
    let replicas = etcd_replicas(api).await.map_err(|error| anyhow!(error))?;
    let nodes = replicas.into_iter().map(|node| node.addresses).collect();
    let Some(file) = local_file(nodes) else { return Ok(Published::NoPods) };
    let found = api.stored(LOCAL).await?;
    let content =
        found.with_context(|| format!("there is no {LOCAL}: apply the manifests again"))?;
    let wanted = [(KEY, file.to_yaml()?), (RANGES_FILE, ranges.to_yaml()?)];
    let differs = |(key, text): &(&str, String)| content.texts.get(*key) != Some(text);
    let texts = wanted.into_iter().filter(differs).map(|(key, text)| (key.to_owned(), text));
    let texts: BTreeMap<String, String> = texts.collect();
    if texts.is_empty() {
        return Ok(Published::Nothing);
    }
    Ok(match api.change_stored(LOCAL, &texts, content.version).await? {
        Some(_) => Published::Changed,
        None => Published::Nothing,
    })
}

/// The file for replicas on these nodes; `None` without any. Each has a host name of its own, so that an agent that cannot use
/// one goes on with another. A name follows from an address: it stays when other replicas come and go.
fn local_file(nodes: Vec<Vec<IpAddr>>) -> Option<PeerFile> {
    let named = nodes.into_iter().filter_map(|mut ips| {
        ips.sort_unstable();
        ips.dedup();
        let name = ips.first()?.to_string().replace(['.', ':'], "-");
        Some((format!("node-{name}.mesh.cilium.io"), ips))
    });
    let named: BTreeMap<_, _> = named.collect();
    if named.is_empty() {
        return None;
    }
    let file = |name: &str| Some(format!("{MOUNT}/{name}").into());
    Some(PeerFile {
        endpoints: named.keys().map(|name| format!("https://{name}:{PORT}")).collect(),
        trusted_ca_file: file("ca.crt"),
        cert_file: file("local.crt"),
        key_file: file("local.key"),
        host_aliases: named
            .into_iter()
            .map(|(hostname, ips)| HostAlias { hostname, ips })
            .collect(),
        clustermesh: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replica_has_a_name_that_stays() {
        let node = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let [one, two] = [node(&["172.30.1.1", "fd00:172:30::1:1"]), node(&["172.30.1.2"])];
        let both = local_file(vec![two.clone(), one.clone()]).unwrap();
        assert_eq!(
            both.endpoints,
            [
                "https://node-172-30-1-1.mesh.cilium.io:12379",
                "https://node-172-30-1-2.mesh.cilium.io:12379"
            ]
        );
        assert_eq!(both.alias("node-172-30-1-1.mesh.cilium.io"), Some(one.as_slice()));
        assert_eq!(PeerFile::parse(&both.to_yaml().unwrap()).unwrap(), both);
        let one = local_file(vec![one.clone(), one]).unwrap();
        assert_eq!(one.endpoints, both.endpoints[..1]);
        assert_eq!(local_file(vec![]), None);
        assert_eq!(local_file(vec![node(&[])]), None);
    }
}
