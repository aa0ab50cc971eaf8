//! Keys and values as a hostile cluster might write them.

use std::collections::BTreeMap;

use mesh_model::{
    ClusterId, EndpointSlice, SliceEndpoint,
    service::{SERVICE_NAME_LABEL, SlicePort},
};

/// The prefix of all records of a cluster.
pub(super) const STATE: &str = "cilium/state";
pub(super) const HTTP: &str = r#"{"http":{"Protocol":"TCP","Port":8080}}"#;

pub(super) fn address_key(ip: &str) -> String {
    format!("{STATE}/ip/v1/default/{ip}")
}

pub(super) fn service_key(cluster: &str) -> String {
    format!("{STATE}/services/v1/{cluster}/default/echo")
}

pub(super) fn labels(cluster: &str) -> String {
    format!(
        "k8s:app=echo;k8s:io.cilium.k8s.policy.cluster={cluster};k8s:io.kubernetes.pod.namespace=default;"
    )
}

pub(super) fn address_value(ip: &str, identity: u32) -> String {
    format!(
        r#"{{"IP":"{ip}","Mask":null,"HostIP":"172.31.3.1","ID":{identity},"Key":0,"Metadata":""}}"#
    )
}

pub(super) fn node_value(name: &str, cluster: &str, id: u32, ip: &str, range: &str) -> String {
    format!(
        r#"{{"Name":"{name}","Cluster":"{cluster}","IPAddresses":[{{"Type":"InternalIP","IP":"{ip}"}}],"IPv4AllocCIDR":{{"IP":"{range}","Mask":"////AA=="}},"ClusterID":{id},"Source":"custom-resource","Labels":null}}"#
    )
}

pub(super) fn service_value(cluster: &str, id: u32, backends: &[&str], ports: &str) -> String {
    let backends: Vec<String> = backends.iter().map(|ip| format!(r#""{ip}":{ports}"#)).collect();
    format!(
        r#"{{"cluster":"{cluster}","namespace":"default","name":"echo","frontends":{{}},"backends":{{{}}},"labels":{{}},"selector":{{}},"includeExternal":true,"shared":true,"clusterID":{id}}}"#,
        backends.join(",")
    )
}

pub(super) fn slice(cluster: &str, id: u32, addresses: &[&str]) -> EndpointSlice {
    let endpoint =
        |ip: &&str| SliceEndpoint { addresses: vec![ip.to_string()], ..SliceEndpoint::default() };
    EndpointSlice {
        cluster: cluster.into(),
        cluster_id: ClusterId::from_wire(id).expect("an id"),
        namespace: "default".into(),
        name: "echo-1".into(),
        labels: [(SERVICE_NAME_LABEL.into(), "echo".into())].into(),
        annotations: BTreeMap::new(),
        address_type: "IPv4".into(),
        endpoints: addresses.iter().map(endpoint).collect(),
        ports: vec![SlicePort {
            name: Some("http".into()),
            protocol: Some("TCP".into()),
            number: Some(8080),
            app_protocol: None,
        }],
    }
}

/// A frame in which each block decompresses to 131,071 bytes: RLE blocks of one byte (RFC 8878).
pub(super) fn zstd_frame(blocks: u32) -> Vec<u8> {
    // The magic number, neither checksum nor size, and a window of 128 kB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    for block in 1..=blocks {
        let last = u32::from(block == blocks);
        let header = last | 1 << 1 | 131_071 << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}
