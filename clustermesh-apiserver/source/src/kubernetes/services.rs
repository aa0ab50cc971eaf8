//! Services and their endpoint slices.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_model::{
    EndpointSlice, Protocol, ServiceTraffic, SliceEndpoint,
    object::{self, IpFamily, Object, TargetPort},
    service::SlicePort,
};
use serde::Deserialize;

use super::{Metadata, parse_protocol};

#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    metadata: Metadata,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    selector: Option<BTreeMap<String, String>>,
    ports: Vec<ServicePort>,
    publish_not_ready_addresses: bool,
    ip_families: Vec<String>,
    session_affinity: Option<String>,
    session_affinity_config: Option<SessionAffinityConfig>,
    internal_traffic_policy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    port: u16,
    #[serde(default)]
    target_port: Option<IntOrString>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum IntOrString {
    Int(u16),
    String(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slice {
    metadata: Metadata,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<EndpointPort>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    hostname: Option<String>,
    node_name: Option<String>,
    zone: Option<String>,
    hints: Option<Hints>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: Vec<ForZone>,
}

#[derive(Debug, Deserialize)]
struct ForZone {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointPort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i32>,
    app_protocol: Option<String>,
}

/// How long a client comes back to the same pod where its service does not say: three hours, as in Kubernetes.
const SESSION_AFFINITY: u32 = 10_800;

// === impl Service ===

impl Service {
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let Self { metadata, spec } = self;
        let session_affinity = spec.session_affinity()?;
        let internal_traffic_local = spec.internal_traffic_local()?;
        let ip_families = spec.ip_families()?;
        let external_name = spec.kind.as_deref() == Some("ExternalName");
        let mut ips = spec.cluster_ips;
        if let Some(ip) = spec.cluster_ip.filter(|ip| !ip.is_empty() && !ips.contains(ip)) {
            ips.insert(0, ip);
        }
        let headless = ips.first().is_some_and(|ip| ip == "None");
        let cluster_ips: Vec<IpAddr> = match headless || external_name {
            true => Vec::new(),
            false => ips
                .iter()
                .map(|ip| {
                    ip.parse::<IpAddr>().map_err(|_| format!("clusterIP {ip:?} is no IP address"))
                })
                .collect::<Result<_, _>>()?,
        };
        if cluster_ips.is_empty() && !headless && !external_name {
            return Err("it has no clusterIP: without an API server to choose one, write it into the manifest, or `clusterIP: None`".into());
        }
        let mut ports = Vec::new();
        for ServicePort { name, protocol, port, target_port } in spec.ports {
            let protocol = parse_protocol(protocol.as_deref())?;
            let target = match target_port {
                None => TargetPort::Number(port),
                Some(IntOrString::Int(0)) => TargetPort::Number(port),
                Some(IntOrString::Int(number)) => TargetPort::Number(number),
                Some(IntOrString::String(name)) => TargetPort::Name(name),
            };
            ports.push(object::ServicePort {
                name: name.unwrap_or_default(),
                protocol,
                port,
                target,
            });
        }
        Ok(Object::Service(object::Service {
            namespace: metadata.namespace(),
            name: metadata.name,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            selector: spec.selector.unwrap_or_default(),
            cluster_ips: cluster_ips.into_iter().map(|ip| ip.to_canonical()).collect(),
            headless,
            external_name,
            ports,
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
            ip_families,
            session_affinity,
            internal_traffic_local,
        }))
    }
}

impl ServiceSpec {
    /// What an API server would not take is refused here too, by name.
    fn session_affinity(&self) -> Result<Option<u32>, String> {
        match self.session_affinity.as_deref() {
            None | Some("" | "None") => return Ok(None),
            Some("ClientIP") => {}
            Some(other) => {
                return Err(format!("sessionAffinity {other:?}: it is None or ClientIP"));
            }
        }
        let config = self.session_affinity_config.as_ref();
        let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
        let Some(seconds) = seconds else { return Ok(Some(SESSION_AFFINITY)) };
        let valid = u32::try_from(seconds).ok();
        let valid =
            valid.filter(|seconds| (1..=ServiceTraffic::MAX_SESSION_AFFINITY).contains(seconds));
        valid.map(Some).ok_or_else(|| {
            format!(
                "sessionAffinityConfig.clientIP.timeoutSeconds {seconds}: it is 1 to {}",
                ServiceTraffic::MAX_SESSION_AFFINITY
            )
        })
    }

    fn internal_traffic_local(&self) -> Result<bool, String> {
        match self.internal_traffic_policy.as_deref() {
            None | Some("" | "Cluster") => Ok(false),
            Some("Local") => Ok(true),
            Some(other) => Err(format!("internalTrafficPolicy {other:?}: it is Cluster or Local")),
        }
    }

    fn ip_families(&self) -> Result<Vec<IpFamily>, String> {
        let family = |word: &String| match word.as_str() {
            "IPv4" => Ok(IpFamily::V4),
            "IPv6" => Ok(IpFamily::V6),
            other => Err(format!("ipFamilies {other:?}: each is IPv4 or IPv6")),
        };
        self.ip_families.iter().map(family).collect()
    }
}

// === impl Slice ===

impl Slice {
    pub(crate) fn into_object(self) -> Object {
        let Self { metadata, address_type, endpoints, ports } = self;
        Object::EndpointSlice(EndpointSlice {
            namespace: metadata.namespace(),
            name: metadata.name,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            address_type,
            endpoints: endpoints
                .unwrap_or_default()
                .into_iter()
                .map(Endpoint::into_model)
                .collect(),
            ports: ports.unwrap_or_default().into_iter().map(EndpointPort::into_model).collect(),
            ..EndpointSlice::default()
        })
    }
}

impl Endpoint {
    fn into_model(self) -> SliceEndpoint {
        let Self { addresses, conditions, hostname, node_name, zone, hints } = self;
        let Conditions { ready, serving, terminating } = conditions.unwrap_or_default();
        let for_zones = hints.map(|hints| hints.for_zones).unwrap_or_default();
        SliceEndpoint {
            addresses,
            ready,
            serving,
            terminating,
            hostname,
            node: node_name,
            zone,
            for_zones: for_zones.into_iter().map(|zone| zone.name).collect(),
        }
    }
}

impl EndpointPort {
    /// With the defaults that an API server fills in.
    fn into_model(self) -> SlicePort {
        let Self { name, protocol, port, app_protocol } = self;
        SlicePort {
            name: Some(name.unwrap_or_default()),
            protocol: Some(protocol.unwrap_or_else(|| Protocol::Tcp.as_str().into())),
            number: port,
            app_protocol,
        }
    }
}
