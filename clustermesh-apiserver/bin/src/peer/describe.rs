//! What a connection needs to know of a cluster.

use std::{net::SocketAddr, time::SystemTime};

use anyhow::{Context as _, anyhow};
use mesh_certs::{ClusterPki, belong_together};
use mesh_model::ClusterName;
use mesh_source_kube::{SecretState, cluster_uid, etcd_addresses};
use mesh_wire::peering::{Description, EtcdAddresses, PeerEntries, PeersSecret};

use super::Local;

/// Every private key in PEM has this in its first line.
const KEY: &str = "PRIVATE KEY";

impl Local {
    /// What another cluster, or `connect`, needs to know of this one.
    pub(super) async fn describe(&self, include_keys: bool) -> anyhow::Result<Description> {
        let settings = &self.settings;
        let uuid = cluster_uid(&self.connection).await.map_err(|error| anyhow!(error))?;
        let uuid = uuid.parse().with_context(|| format!("the UID of kube-system, {uuid:?}"))?;
        let etcd = etcd_addresses(&self.connection).await.map_err(|error| anyhow!(error))?;
        let configured = settings.endpoints.iter().map(|etcd| {
            let addresses = etcd.iter().map(|address| SocketAddr::from(*address));
            addresses.collect()
        });
        let secret = self.secret.read().await?;
        let (users, _) = self.users_now().await?;
        let drained_peers = self.drained_peers().await?;
        let signer = ClusterPki::new(&self.directory.pki()).ca(SystemTime::now())?;
        Ok(Description {
            version: mesh_admin::version::line().into(),
            namespace: self.connection.namespace().into(),
            name: settings.name.to_string(),
            id: settings.id.get().into(),
            max_connected_clusters: settings.limit.get(),
            pod_cidrs: settings.pod_cidrs.clone(),
            node_cidrs: settings.node_cidrs.clone(),
            service_cidrs: settings.service_cidrs.clone(),
            uuid: Some(uuid),
            ca: self.trusted()?.to_pem(),
            signer: signer.certificate().into(),
            users,
            drained_peers,
            secret: described(&secret, include_keys),
            etcd: EtcdAddresses { configured: configured.collect(), ..etcd },
        })
    }
}

fn described(secret: &SecretState, include_keys: bool) -> PeersSecret {
    let texts = secret.data.keys().filter_map(|name| Some((name.clone(), secret.text(name)?)));
    let entries = texts.filter(|(_, text)| include_keys || !text.contains(KEY));
    let peers: Vec<ClusterName> =
        secret.data.keys().filter_map(|name| ClusterName::new(name).ok()).collect();
    let has_key = |peer: &&ClusterName| {
        let entries = PeerEntries::new(peer);
        let pair = secret.text(&entries.certificate).zip(secret.text(&entries.key));
        pair.is_some_and(|(certificate, key)| belong_together(certificate, key))
    };
    let pending = secret.data.keys().filter_map(|name| {
        let peer = ClusterName::new(name.split_once(".etcd-client.")?.0).ok()?;
        (*name == PeerEntries::new(&peer).next_key).then_some(peer.to_string())
    });
    PeersSecret {
        bytes: secret.bytes(),
        entries: entries.map(|(name, text)| (name, text.to_owned())).collect(),
        keys: peers.iter().filter(has_key).map(ToString::to_string).collect(),
        pending: pending.collect(),
    }
}
