//! The first line of a snapshot's content: the cluster, its identities and its addresses.
//!
//! There may be many addresses, so they are not in the form of records, which takes ten times as much. An agent of an
//! earlier release leaves out what it does not know here, and one that reads its file finds no addresses.

use std::{borrow::Cow, collections::HashMap, net::IpAddr};

use ipnet::IpNet;
use mesh_model::{
    ClusterId, ClusterName, EndpointAddress, Identity, KnownAddress, KnownIdentities, Record,
    RecordKey, excerpt,
};
use mesh_wire::{Key, Layout, Peer, decode, encode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Serialize, Deserialize)]
pub(crate) struct Head<'a> {
    pub(crate) cluster: Cow<'a, str>,
    pub(crate) id: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uuid: Option<Uuid>,
    /// Identities with their labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    identities: Vec<(u32, Cow<'a, str>)>,
    /// The hosts of addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<IpAddr>,
    /// Addresses, each with its identity, and its host counted from 1, or 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<(String, u32, usize)>,
    /// Addresses that another cluster had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    second: Vec<IpAddr>,
}

// === impl Head ===

impl<'a> Head<'a> {
    pub(crate) fn new(
        cluster: &'a ClusterName,
        id: ClusterId,
        uuid: Option<Uuid>,
        known: &'a KnownIdentities,
    ) -> Self {
        let KnownIdentities { identities, addresses, second } = known;
        let identities = identities.iter().map(|(id, labels)| (id.get(), Cow::from(&**labels)));
        let (mut hosts, mut indices) = (Vec::new(), HashMap::new());
        let mut index = |host: IpAddr| {
            *indices.entry(host).or_insert_with(|| {
                hosts.push(host);
                hosts.len()
            })
        };
        let addresses = addresses.iter().map(|KnownAddress { net, identity, host }| {
            let address = match net.prefix_len() == net.max_prefix_len() {
                true => net.addr().to_string(),
                false => net.to_string(),
            };
            (address, identity.get(), host.map_or(0, &mut index))
        });
        let addresses = addresses.collect();
        Self {
            cluster: cluster.as_str().into(),
            id: id.get().into(),
            uuid,
            identities: identities.collect(),
            hosts,
            addresses,
            second: second.clone(),
        }
    }

    /// The identities and addresses that the cluster may report.
    pub(crate) fn known(self, peer: &Peer, reject: &mut impl FnMut(String)) -> KnownIdentities {
        let Self { identities, hosts, addresses, second, .. } = self;
        // They are decoded as the records that they were: so they are checked like any others.
        let check = |record: RecordKey, value: &[u8]| {
            let key = Key::of_record(Layout::State, &peer.name, record).to_string();
            decode(peer, key.as_bytes(), value).map_err(|rejected| rejected.to_string())
        };
        let mut known = KnownIdentities { second, ..KnownIdentities::default() };
        for (id, labels) in identities {
            let key = RecordKey::Identity(Identity::new(id));
            match check(key, labels.as_bytes()) {
                Ok(Some(Record::Identity(identity, labels))) => {
                    known.identities.push((identity, labels.to_string().into()));
                }
                Ok(_) => {}
                Err(rejected) => reject(rejected),
            }
        }
        let mut checked: HashMap<u32, Option<String>> = HashMap::new();
        for (address, id, host) in addresses {
            let one = address.parse().map(|ip: IpAddr| ip.to_canonical().into());
            let net: Result<IpNet, _> = one.or_else(|_| address.parse());
            let Ok(net) = net.map(|net| net.trunc()) else {
                reject(format!("{}: no address", excerpt(&address, 64)));
                continue;
            };
            let identity = Identity::new(id);
            // Whether it may be one of the cluster's depends on nothing else.
            let refused = checked.entry(id).or_insert_with(|| {
                let record = Record::Address(Box::new(record(net, identity)));
                check(record.key(), &encode(&record)).err()
            });
            if let Some(refused) = refused {
                reject(refused.clone());
                continue;
            }
            let host = host.checked_sub(1).and_then(|host| hosts.get(host)).copied();
            known.addresses.push(KnownAddress { net, identity, host });
        }
        known
    }
}

fn record(net: IpNet, identity: Identity) -> EndpointAddress {
    EndpointAddress {
        net,
        host: None,
        identity,
        encryption_key: 0,
        metadata: String::new(),
        namespace: String::new(),
        pod: String::new(),
        service_account: String::new(),
        named_ports: Vec::new(),
    }
}
