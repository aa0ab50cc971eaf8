//! Endpoint slices, `cilium/state/endpointslices/v1/<cluster>/<namespace>/<slice>`: a protobuf message in a zstd frame.

use std::{collections::BTreeMap, io::Read as _, net::IpAddr};

use mesh_model::{
    ClusterId, EndpointSlice, Record, ServiceName, SliceEndpoint, service::SlicePort,
};
use prost::{
    Message,
    encoding::{DecodeContext, decode_key, skip_field},
};
use ruzstd::{
    decoding::{FrameDecoder, StreamingDecoder},
    encoding::{CompressionLevel, compress_to_vec},
};

use crate::{
    check::{expect, expect_cluster},
    error::DecodeError,
    excerpt::shown,
    limits,
    peer::Peer,
    zstd_frame,
};

/// The largest window size of a frame, in bytes. The decoder allocates this much memory.
const MAX_WINDOW: u64 = 16 * 1024 * 1024;

#[derive(Clone, PartialEq, Message)]
struct SliceProto {
    #[prost(string, optional, tag = "1")]
    cluster: Option<String>,
    #[prost(uint32, optional, tag = "2")]
    cluster_id: Option<u32>,
    #[prost(string, optional, tag = "3")]
    namespace: Option<String>,
    #[prost(string, optional, tag = "4")]
    name: Option<String>,
    #[prost(message, repeated, tag = "5")]
    labels: Vec<EntryProto>,
    #[prost(message, repeated, tag = "6")]
    annotations: Vec<EntryProto>,
    #[prost(string, optional, tag = "7")]
    address_type: Option<String>,
    #[prost(message, repeated, tag = "8")]
    endpoints: Vec<EndpointProto>,
    #[prost(message, repeated, tag = "9")]
    ports: Vec<PortProto>,
}

/// An entry of a map. prost's maps are not used because they omit empty values, which Go writes.
#[derive(Clone, PartialEq, Message)]
struct EntryProto {
    #[prost(string, optional, tag = "1")]
    key: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct EndpointProto {
    #[prost(string, repeated, tag = "1")]
    addresses: Vec<String>,
    #[prost(message, optional, tag = "2")]
    conditions: Option<ConditionsProto>,
    #[prost(string, optional, tag = "3")]
    hostname: Option<String>,
    #[prost(string, optional, tag = "6")]
    node: Option<String>,
    #[prost(string, optional, tag = "7")]
    zone: Option<String>,
    #[prost(message, optional, tag = "8")]
    hints: Option<HintsProto>,
}

#[derive(Clone, PartialEq, Message)]
struct ConditionsProto {
    #[prost(bool, optional, tag = "1")]
    ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    terminating: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct HintsProto {
    #[prost(message, repeated, tag = "1")]
    for_zones: Vec<ForZoneProto>,
}

#[derive(Clone, PartialEq, Message)]
struct ForZoneProto {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct PortProto {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    protocol: Option<String>,
    #[prost(int32, optional, tag = "3")]
    number: Option<i32>,
    #[prost(string, optional, tag = "4")]
    app_protocol: Option<String>,
}

pub(crate) fn encode(slice: &EndpointSlice) -> Vec<u8> {
    let message = to_proto(slice).encode_to_vec();
    compress_to_vec(message.as_slice(), CompressionLevel::Fastest)
}

/// Decodes a value. `bytes` is raised to the decompressed size.
pub(crate) fn decode(
    peer: &Peer,
    key: &ServiceName,
    value: &[u8],
    bytes: &mut usize,
) -> Result<Record, DecodeError> {
    let slice = read_counting(value, bytes)?;
    expect_cluster(peer, &slice.cluster, slice.cluster_id.get().into())?;
    expect("namespace", slice.namespace.as_str(), &key.namespace)?;
    expect("name", slice.name.as_str(), &key.name)?;
    check_addresses(&slice)?;
    Ok(Record::EndpointSlice(Box::new(slice)))
}

/// Decodes a value for output. Does not compare it with its key, and does not check the addresses.
pub fn read(value: &[u8]) -> Result<EndpointSlice, DecodeError> {
    read_counting(value, &mut 0)
}

fn read_counting(value: &[u8], bytes: &mut usize) -> Result<EndpointSlice, DecodeError> {
    let message = decompress(value)?;
    *bytes = (*bytes).max(message.len());
    check_repeated(&message)?;
    let slice = from_proto(SliceProto::decode(message.as_slice())?)?;
    limits::slice(&slice)?;
    Ok(slice)
}

fn decompress(value: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let unpacked = zstd_frame::most_unpacked(value);
    let unpacked = unpacked.map_err(|error| DecodeError::Zstd(error.to_string()))?;
    // Refuse a value that is too large before decompressing it.
    limits::SERVICE_VALUE.check(unpacked)?;
    // The decoder's own messages would not help an operator.
    let damaged = || DecodeError::Zstd("the frame is damaged or too large".into());
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    let stream = StreamingDecoder::new_with_decoder(value, decoder).map_err(|_| damaged())?;
    let mut message = Vec::new();
    let limit = u64::try_from(limits::SERVICE_VALUE.most()).unwrap_or(u64::MAX) + 1;
    stream.take(limit).read_to_end(&mut message).map_err(|_| damaged())?;
    limits::SERVICE_VALUE.check(message.len())?;
    Ok(message)
}

/// Limits the number of top-level fields, without decoding them.
fn check_repeated(mut message: &[u8]) -> Result<(), DecodeError> {
    let mut fields = BTreeMap::<u32, usize>::new();
    while !message.is_empty() {
        let (field, wire_type) = decode_key(&mut message)?;
        skip_field(wire_type, field, &mut message, DecodeContext::default())?;
        let count = fields.entry(field).or_default();
        *count += 1;
        limits::REPEATED.check((*count).max(fields.len()))?;
    }
    Ok(())
}

pub(crate) fn check_addresses(slice: &EndpointSlice) -> Result<(), DecodeError> {
    let v4 = match slice.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        other => {
            return Err(DecodeError::Word { field: "addressType", text: shown(other) });
        }
    };
    for text in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
        let address: Option<IpAddr> = text.parse().ok();
        if address.is_none_or(|address| address.is_ipv4() != v4) {
            return Err(DecodeError::Address {
                field: "addresses",
                text: shown(text),
                reason: "not an address of the slice's type",
            });
        }
    }
    Ok(())
}

fn entries(map: &BTreeMap<String, String>) -> Vec<EntryProto> {
    map.iter().map(|(k, v)| EntryProto { key: Some(k.clone()), value: Some(v.clone()) }).collect()
}

fn map(entries: Vec<EntryProto>) -> BTreeMap<String, String> {
    entries.into_iter().map(|e| (e.key.unwrap_or_default(), e.value.unwrap_or_default())).collect()
}

fn to_proto(slice: &EndpointSlice) -> SliceProto {
    let EndpointSlice {
        cluster,
        cluster_id,
        namespace,
        name,
        labels,
        annotations,
        address_type,
        endpoints,
        ports,
    } = slice;
    SliceProto {
        cluster: Some(cluster.clone()),
        cluster_id: Some(cluster_id.get().into()),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        labels: entries(labels),
        annotations: entries(annotations),
        address_type: Some(address_type.clone()),
        endpoints: endpoints.iter().map(endpoint_to_proto).collect(),
        ports: ports
            .iter()
            .cloned()
            .map(|SlicePort { name, protocol, number, app_protocol }| PortProto {
                name,
                protocol,
                number,
                app_protocol,
            })
            .collect(),
    }
}

fn endpoint_to_proto(endpoint: &SliceEndpoint) -> EndpointProto {
    let SliceEndpoint {
        addresses,
        ready,
        serving,
        terminating,
        hostname,
        node,
        zone,
        for_zones,
        // Hints for nodes are of no use to other clusters, and Cilium's protobuf message does not have them.
        for_nodes: _,
    } = endpoint.clone();
    let for_zones: Vec<_> =
        for_zones.into_iter().map(|name| ForZoneProto { name: Some(name) }).collect();
    EndpointProto {
        addresses,
        conditions: Some(ConditionsProto { ready, serving, terminating }),
        hostname,
        node,
        zone,
        hints: (!for_zones.is_empty()).then_some(HintsProto { for_zones }),
    }
}

fn from_proto(proto: SliceProto) -> Result<EndpointSlice, DecodeError> {
    let id = proto.cluster_id.unwrap_or_default();
    Ok(EndpointSlice {
        cluster: proto.cluster.unwrap_or_default(),
        cluster_id: ClusterId::from_wire(id).ok_or(DecodeError::ClusterId { id })?,
        namespace: proto.namespace.unwrap_or_default(),
        name: proto.name.unwrap_or_default(),
        labels: map(proto.labels),
        annotations: map(proto.annotations),
        address_type: proto.address_type.unwrap_or_default(),
        endpoints: proto.endpoints.into_iter().map(endpoint_from_proto).collect(),
        ports: proto
            .ports
            .into_iter()
            .map(|PortProto { name, protocol, number, app_protocol }| SlicePort {
                name,
                protocol,
                number,
                app_protocol,
            })
            .collect(),
    })
}

fn endpoint_from_proto(proto: EndpointProto) -> SliceEndpoint {
    let EndpointProto { addresses, conditions, hostname, node, zone, hints } = proto;
    let ConditionsProto { ready, serving, terminating } = conditions.unwrap_or_default();
    let for_zones = hints.map(|h| h.for_zones).unwrap_or_default();
    SliceEndpoint {
        addresses,
        ready,
        serving,
        terminating,
        hostname,
        node,
        zone,
        for_zones: for_zones.into_iter().filter_map(|z| z.name).collect(),
        for_nodes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;
    use crate::Role;

    fn alpha() -> Peer {
        crate::local::tests::alpha(Role::Remote)
    }

    #[test]
    fn encoded_protobuf_equals_the_recorded_one() {
        for frame in [
            "KLUv/QQAJQQABAcKBWFscGhhEAcaBHNob3AiCmhlYWRsZXNzLTEqJgoaa3ViZXJuZXRlcy5pby9zZXJ2aWNlLW5hbWUSCCoiCh4uEgA6BElQdjRCFgoKMTAuNjcuMS40MBICCAEaBGRiLTAxMUoMCgJkYhIDVENQGLgqBgCgENh5vigCppK3pyPbXgUFyYGu8w==",
            "KLUv/QQA5QQAckkjJEBRNs98BG/9pN06VWE1Os16LIi7rApk1OlUr4khSAzey4lTCI+BAwWZLFPL2ZJdkFTH1i9OsInTDbb6F1s2wfoXJ8exwiZOyalTR4NK3q2wjI6KyAnD+TnDsge1em+ZD3Bx9JSr255bZBflPj/evgqoPI2AMDjvlgWe6YY8qt5jElpmcfIRONfSsMt0BAAgiJzGL2WD5ypmArDFZQ==",
        ] {
            let message = decompress(&STANDARD.decode(frame).unwrap()).unwrap();
            let slice = from_proto(SliceProto::decode(message.as_slice()).unwrap()).unwrap();
            assert_eq!(to_proto(&slice).encode_to_vec(), message);
        }
    }

    #[test]
    fn compression_bombs_are_refused() {
        let zeros = vec![0; limits::SERVICE_VALUE.most() + 1];
        let zeros = compress_to_vec(zeros.as_slice(), CompressionLevel::Fastest);
        assert!(zeros.len() < 10_000);
        assert!(matches!(decompress(&zeros), Err(DecodeError::TooLarge { .. })));

        // An empty endpoint has two bytes on the wire, and hundreds when it is decoded.
        let endpoints =
            compress_to_vec([0x42, 0x00].repeat(2_000).as_slice(), CompressionLevel::Fastest);
        let error =
            decode(&alpha(), &ServiceName::new("shop", "web"), &endpoints, &mut 0).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { what: "repeated fields", .. }), "{error}");
    }
}
