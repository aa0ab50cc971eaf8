//! The recorded contents of a cluster's etcd, and their conversion to another cluster's.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use mesh_model::{
    ClusterConfig, ClusterId, ClusterLimit, ClusterName, EndpointAddress, EndpointSlice,
    GlobalService, Identity, Labels, Node, Record, SliceEndpoint,
    identity::{CLUSTER_LABEL, Label},
    node::FamilyPair,
};
use mesh_wire::{Key, Layout, Peer, Role, cluster_config, decode, encode};
use uuid::Uuid;

use crate::error::RecordingError;

/// The keys and values in a cluster's etcd that a peer may read.
#[derive(Clone, Debug)]
pub struct Recording {
    peer: Peer,
    config: ClusterConfig,
    entries: BTreeMap<String, Vec<u8>>,
}

/// The cluster that a recording is converted to.
#[derive(Clone, Debug)]
pub struct Become<'a> {
    /// The cluster's name.
    pub name: &'a ClusterName,
    /// Its ID.
    pub id: ClusterId,
    /// Pairs of address ranges of equal length: addresses in the first one are replaced by those in the second one.
    pub ranges: &'a [(IpNet, IpNet)],
}

// === impl Recording ===

impl Recording {
    /// A recording of the cluster `name`, whose keys have the layout that a cluster exports for itself.
    pub fn new(
        name: &ClusterName,
        entries: BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, RecordingError> {
        let key = Key::ClusterConfig(name.clone()).to_string();
        let config = entries.get(&key).ok_or_else(|| RecordingError::NoConfig(key.clone()))?;
        let config = cluster_config::decode(config)
            .map_err(|source| RecordingError::Config { key, source })?;
        let limit = ClusterLimit::try_from(config.max_connected_clusters)?;
        let peer = Peer {
            name: name.clone(),
            role: Role::Remote,
            id: config.id,
            limit,
            layout: Layout::State,
        };
        Ok(Self { peer, config, entries })
    }

    /// The same keys and values, as the other cluster's apiserver would have written them. Timestamps are not changed.
    pub fn of_cluster(
        &self,
        other: &Become<'_>,
    ) -> Result<BTreeMap<String, Vec<u8>>, RecordingError> {
        self.entries.iter().map(|(key, value)| self.entry(other, key, value)).collect()
    }

    fn entry(
        &self,
        other: &Become<'_>,
        key: &str,
        value: &[u8],
    ) -> Result<(String, Vec<u8>), RecordingError> {
        let is_same = *other.name == self.peer.name && other.id == self.peer.id;
        if is_same && other.ranges.is_empty() {
            return Ok((key.to_owned(), value.to_vec()));
        }
        let parsed = Key::parse(key.as_bytes())?;
        Ok(match parsed {
            Key::ClusterConfig(_) => {
                // Each cluster has its UUID, which is the same in each run.
                let uuid = self.config.uuid.map(|_| Uuid::from_u128(other.id.get().into()));
                let config = ClusterConfig { id: other.id, uuid, ..self.config.clone() };
                (
                    Key::ClusterConfig(other.name.clone()).to_string(),
                    cluster_config::encode(&config),
                )
            }
            Key::Canary(_, prefix) => {
                (Key::Canary(other.name.clone(), prefix).to_string(), value.to_vec())
            }
            Key::Record { .. } => match decode(&self.peer, key.as_bytes(), value)? {
                Some(record) => {
                    let record = self.record(other, record);
                    let key = Key::of_record(self.peer.layout, other.name, record.key());
                    (key.to_string(), encode(&record))
                }
                None => (key.to_owned(), value.to_vec()),
            },
            Key::Heartbeat
            | Key::Position
            | Key::Drain
            | Key::LocalPosition
            | Key::LocalDrain
            | Key::Other => (key.to_owned(), value.to_vec()),
        })
    }

    fn record(&self, other: &Become<'_>, record: Record) -> Record {
        let (cluster, cluster_id) = (other.name.clone(), other.id);
        match record {
            Record::Node(node) => Record::Node(Box::new(other.node(*node))),
            Record::Identity(identity, labels) => {
                Record::Identity(self.identity(other, identity), other.labels(&labels))
            }
            Record::Address(address) => Record::Address(Box::new(EndpointAddress {
                net: other.net(address.net),
                host: address.host.map(|ip| other.ip(ip)),
                identity: self.identity(other, address.identity),
                ..*address
            })),
            Record::Service(service) => {
                let service = *service;
                Record::Service(Box::new(GlobalService {
                    cluster,
                    cluster_id,
                    frontends: other.keys(service.frontends),
                    backends: other.keys(service.backends),
                    hostnames: other.keys(service.hostnames),
                    zones: other.keys(service.zones),
                    ..service
                }))
            }
            Record::EndpointSlice(slice) => {
                let slice = *slice;
                let endpoints = slice.endpoints.into_iter().map(|one| other.endpoint(one));
                Record::EndpointSlice(Box::new(EndpointSlice {
                    cluster: cluster.to_string(),
                    cluster_id,
                    endpoints: endpoints.collect(),
                    ..slice
                }))
            }
            // Peers may not read these: they are for the nodes of the cluster.
            local @ (Record::Namespace(_)
            | Record::Pod(_)
            | Record::LocalService(_)
            | Record::LocalEndpointSlice(_)
            | Record::Policy(_)) => local,
        }
    }

    /// An ID in the recorded cluster's range becomes the one at the same offset in the other's. Reserved IDs are the same
    /// everywhere.
    fn identity(&self, other: &Become<'_>, identity: Identity) -> Identity {
        let (from, to) =
            (self.peer.limit.identities(self.peer.id), self.peer.limit.identities(other.id));
        match identity.get().checked_sub(*from.start()) {
            Some(offset) if from.contains(&identity.get()) => Identity::new(to.start() + offset),
            _ => identity,
        }
    }
}

// === impl Become ===

impl Become<'_> {
    fn node(&self, mut node: Node) -> Node {
        node.addresses.iter_mut().for_each(|address| address.ip = self.ip(address.ip));
        let pair = |pair: FamilyPair| FamilyPair {
            v4: pair.v4.map(|ip| self.ip(ip)),
            v6: pair.v6.map(|ip| self.ip(ip)),
        };
        Node {
            cluster: self.name.clone(),
            cluster_id: self.id,
            pod_cidrs: node.pod_cidrs.into_iter().map(|net| self.net(net)).collect(),
            health_ips: pair(node.health_ips),
            ingress_ips: pair(node.ingress_ips),
            ..node
        }
    }

    fn endpoint(&self, endpoint: SliceEndpoint) -> SliceEndpoint {
        let moved = |text: String| text.parse().map_or(text, |ip| self.ip(ip).to_string());
        let addresses = endpoint.addresses.into_iter().map(moved).collect();
        SliceEndpoint { addresses, ..endpoint }
    }

    fn labels(&self, labels: &Labels) -> Labels {
        let label = |(source, key, value): (&str, &str, &str)| {
            let value = if key == CLUSTER_LABEL { self.name.as_str() } else { value };
            Label { source: source.into(), key: key.into(), value: value.into() }
        };
        labels.iter().map(label).collect()
    }

    fn keys<T>(&self, all: BTreeMap<IpAddr, T>) -> BTreeMap<IpAddr, T> {
        all.into_iter().map(|(ip, of)| (self.ip(ip), of)).collect()
    }

    fn net(&self, net: IpNet) -> IpNet {
        IpNet::new(self.ip(net.addr()), net.prefix_len()).unwrap_or(net)
    }

    /// Converts an address in the first range of a pair to the same offset in the second one.
    fn ip(&self, ip: IpAddr) -> IpAddr {
        let range = self.ranges.iter().find(|(from, _)| from.contains(&ip));
        match (ip, range) {
            (IpAddr::V4(ip), Some((IpNet::V4(from), IpNet::V4(to)))) => {
                let host = ip.to_bits() & from.hostmask().to_bits();
                std::net::Ipv4Addr::from_bits(to.network().to_bits() | host).into()
            }
            (IpAddr::V6(ip), Some((IpNet::V6(from), IpNet::V6(to)))) => {
                let host = ip.to_bits() & from.hostmask().to_bits();
                std::net::Ipv6Addr::from_bits(to.network().to_bits() | host).into()
            }
            _ => ip,
        }
    }
}

#[cfg(test)]
mod tests;
