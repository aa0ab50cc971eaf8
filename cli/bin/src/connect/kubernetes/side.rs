//! One cluster of a connection, as its apiserver describes it.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use mesh_model::{ClusterId, ClusterLimit, ClusterName};
use mesh_source::cluster_directory::ClusterSettings;
use mesh_wire::{
    peer_file::PeerFile,
    peering::{Description, PEER_SIZE, PeerEntries, SECRET, SECRET_LIMIT},
    users_file::remote_user,
};

use super::{
    addresses::endpoints,
    peer_commands::{PeerCommands, ask},
};
use crate::{args::AddressKind, connect::facts::Facts};

pub(super) struct KubeSide<'a> {
    pub(super) at: &'a dyn PeerCommands,
    pub(super) described: Description,
    pub(super) facts: Facts,
}

// === impl KubeSide ===

impl<'a> KubeSide<'a> {
    /// Asks a cluster. `given`: addresses of its etcd that take the place of those that it says.
    pub(super) fn read(
        at: &'a dyn PeerCommands,
        kind: AddressKind,
        given: &[SocketAddr],
        flag: &str,
    ) -> anyhow::Result<Self> {
        Self::new(at, ask(at, &["describe"])?, kind, given, flag)
    }

    /// A cluster that was asked.
    pub(super) fn new(
        at: &'a dyn PeerCommands,
        described: Description,
        kind: AddressKind,
        given: &[SocketAddr],
        flag: &str,
    ) -> anyhow::Result<Self> {
        let facts = facts(at.context(), &described, kind, given, flag);
        let facts = facts.with_context(|| at.context().to_owned())?;
        Ok(Self { at, described, facts })
    }

    pub(super) fn name(&self) -> &ClusterName {
        self.facts.name()
    }

    /// Whether it has anything of a peer.
    pub(super) fn has(&self, peer: &ClusterName) -> bool {
        self.has_entries(peer) || self.has_user(peer) || self.drains(peer)
    }

    /// Whether its Secret has entries of a peer.
    pub(super) fn has_entries(&self, peer: &ClusterName) -> bool {
        let secret = &self.described.secret;
        let is_its = |name: &&str| secret.entries.contains_key(*name);
        let named = |names: &[String]| names.iter().any(|name| name == peer.as_str());
        PeerEntries::new(peer).all().iter().any(is_its)
            || named(&secret.keys)
            || named(&secret.pending)
    }

    /// Whether a peer may read its etcd.
    pub(super) fn has_user(&self, peer: &ClusterName) -> bool {
        let user = remote_user(peer);
        self.described.users.users.iter().any(|other| other.name == user)
    }

    /// Whether its agents do not use a cluster of that name.
    pub(super) fn drains(&self, peer: &ClusterName) -> bool {
        self.described.drained_peers.iter().any(|other| other == peer.as_str())
    }

    /// Refuses another peer if its Secret has no room for it.
    pub(super) fn has_room(&self, peer: &ClusterName) -> anyhow::Result<()> {
        let secret = &self.described.secret;
        if !self.has_entries(peer) && secret.bytes + PEER_SIZE > SECRET_LIMIT {
            bail!(
                "{}: the Secret {}/{SECRET} is full: {} of {SECRET_LIMIT} bytes are used, and Kubernetes allows no more: about 255 peers. Disconnect a cluster first",
                self.at.context(),
                self.described.namespace,
                secret.bytes
            );
        }
        Ok(())
    }
}

fn facts(
    context: &str,
    described: &Description,
    kind: AddressKind,
    given: &[SocketAddr],
    flag: &str,
) -> anyhow::Result<Facts> {
    let Description { name, namespace, secret, .. } = described;
    let limit = ClusterLimit::try_from(described.max_connected_clusters)?;
    let found = endpoints(&described.etcd, kind, given);
    let why = found.as_ref().err().cloned().unwrap_or_default();
    let truncated = |ranges: &[IpNet]| ranges.iter().map(IpNet::trunc).collect();
    let mut peers = Vec::new();
    for (file_name, text) in &secret.entries {
        let Ok(peer) = ClusterName::new(file_name) else { continue };
        if PeerFile::is_one(text) {
            let file = PeerFile::parse(text);
            peers.push((peer, file.with_context(|| format!("Secret {SECRET}: {file_name}"))?));
        }
    }
    Ok(Facts {
        settings: ClusterSettings {
            name: ClusterName::new(name)?,
            id: ClusterId::new(described.id, limit)?,
            limit,
            pod_cidrs: truncated(&described.pod_cidrs),
            service_cidrs: truncated(&described.service_cidrs),
            node_cidrs: truncated(&described.node_cidrs),
            endpoints: found.unwrap_or_default(),
            default_global_namespace: true,
        },
        uuid: described.uuid,
        peers,
        no_endpoints: format!(
            "{context}: no address is known at which other clusters reach its etcd: {why}. Choose others with --addresses-from, or name some with {flag} ADDRESS:PORT"
        ),
        no_ranges: format!(
            "{context}: the ranges of pods or nodes of {name} are not known: they are what the cluster may claim. Set CLUSTERMESH_POD_CIDR and CLUSTERMESH_NODE_CIDR in ConfigMap {namespace}/clustermesh-config, and restart clustermesh-apiserver and clustermesh-agent"
        ),
    })
}
