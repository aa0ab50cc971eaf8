//! Records of the lab's first cluster, as its apiserver would write them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use mesh_model::{
    ClusterId, ClusterLimit, ClusterName, EndpointAddress, EndpointSlice, Identity, Labels, Record,
    SliceEndpoint,
    service::{SERVICE_NAME_LABEL, SlicePort},
};
use mesh_wire::{Key, Layout, encode};

use crate::error::BenchError;

/// Keys with their values.
pub(crate) type Entries = Vec<(String, Vec<u8>)>;

/// Endpoints with the same identity.
const TOGETHER: u32 = 50;
/// The first identity that is used; the cluster's ID is 1.
pub(crate) const FIRST_IDENTITY: u32 = 65_536 + 1_000;

/// Endpoints with their identities.
pub(crate) fn addresses(range: std::ops::Range<u32>) -> Result<Entries, BenchError> {
    let mut entries = Vec::new();
    for n in range {
        let identity = FIRST_IDENTITY + n / TOGETHER;
        if n % TOGETHER == 0 {
            let labels = format!(
                "k8s:app=app-{};k8s:io.cilium.k8s.policy.cluster=a;k8s:io.kubernetes.pod.namespace=default;",
                n / TOGETHER
            );
            entries.push(entry(Record::Identity(Identity::new(identity), Labels::parse(&labels)))?);
        }
        entries.push(address(n, identity)?);
    }
    Ok(entries)
}

pub(crate) fn ip(n: u32) -> IpAddr {
    // In the pod range of the lab's first cluster, fd00:10:1::/48, on the /64 of its second node.
    let first: u128 = Ipv6Addr::new(0xfd00, 0x10, 1, 2, 0, 0, 0, 0).into();
    Ipv6Addr::from(first + 0x100 + u128::from(n)).into()
}

pub(crate) fn address(n: u32, identity: u32) -> Result<(String, Vec<u8>), BenchError> {
    entry(Record::Address(Box::new(endpoint_address(n, identity))))
}

/// An endpoint on node n1 of the cluster.
pub(crate) fn endpoint_address(n: u32, identity: u32) -> EndpointAddress {
    EndpointAddress {
        net: ip(n).into(),
        host: Some(IpAddr::from([172, 31, 1, 1])),
        identity: Identity::new(identity),
        encryption_key: 0,
        metadata: String::new(),
        namespace: "default".into(),
        pod: format!("app-{}-{n}", n / TOGETHER),
        service_account: "default".into(),
        named_ports: Vec::new(),
    }
}

/// A slice of a service, with endpoints on node n1 of the cluster.
pub(crate) fn slice(
    number: u32,
    n: u32,
    backends: impl Iterator<Item = u32>,
) -> Result<(String, Vec<u8>), BenchError> {
    entry(Record::EndpointSlice(Box::new(endpoint_slice(number, n, backends)?)))
}

/// The same before it is encoded.
pub(crate) fn endpoint_slice(
    number: u32,
    n: u32,
    backends: impl Iterator<Item = u32>,
) -> Result<EndpointSlice, BenchError> {
    let (cluster, cluster_id) = cluster()?;
    let endpoint = |n: u32| SliceEndpoint {
        addresses: vec![ip(n).to_string()],
        ready: Some(true),
        serving: Some(true),
        terminating: Some(false),
        node: Some("n1".into()),
        ..SliceEndpoint::default()
    };
    let service = format!("bench-{number}");
    Ok(EndpointSlice {
        cluster: cluster.to_string(),
        cluster_id,
        namespace: "default".into(),
        name: format!("{service}-{n}"),
        labels: BTreeMap::from([(SERVICE_NAME_LABEL.to_owned(), service)]),
        annotations: BTreeMap::new(),
        address_type: "IPv6".into(),
        endpoints: backends.map(endpoint).collect(),
        ports: vec![SlicePort {
            name: Some("http".into()),
            protocol: Some("TCP".into()),
            number: Some(8080),
            app_protocol: None,
        }],
    })
}

/// The cluster whose records these are.
pub(crate) fn cluster() -> Result<(ClusterName, ClusterId), BenchError> {
    let name = ClusterName::new("a").map_err(|e| BenchError::Unexpected(e.to_string()))?;
    let id = ClusterId::new(1, ClusterLimit::Max255);
    Ok((name, id.map_err(|e| BenchError::Unexpected(e.to_string()))?))
}

pub(crate) fn entry(record: Record) -> Result<(String, Vec<u8>), BenchError> {
    let (cluster, _) = cluster()?;
    Ok((Key::of_record(Layout::State, &cluster, record.key()).to_string(), encode(&record)))
}

/// The manifest of a service in the reading cluster.
pub(crate) fn manifest(n: u32) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: bench-{n}
  annotations: {{ service.cilium.io/global: \"true\" }}
spec:
  clusterIP: 'fd00:100:2::{:x}'
  ports: [{{ name: http, port: 80 }}]
",
        0x1000 + n
    )
}

pub(crate) fn size(entries: &Entries) -> u64 {
    let of = |(key, value): &(String, Vec<u8>)| key.len() + value.len();
    entries.iter().map(|entry| u64::try_from(of(entry)).unwrap_or(u64::MAX)).sum()
}
