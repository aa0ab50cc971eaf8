//! Services and their endpoint slices.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_model::{
    EndpointSlice, ServiceTraffic, SliceEndpoint, names,
    object::{self, IpFamily, Object, TargetPort, TrafficDistribution},
    service::{SERVICE_NAME_LABEL, SlicePort},
};
use serde::Deserialize;
use serde_json::Value;

use super::{Metadata, parse_ip, parse_port, parse_protocol};

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
    traffic_distribution: Option<String>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
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
    port: i64,
    #[serde(default)]
    target_port: Option<Value>,
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
    for_zones: Vec<Hint>,
    for_nodes: Vec<Hint>,
}

#[derive(Debug, Deserialize)]
struct Hint {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointPort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i32>,
    app_protocol: Option<String>,
}

/// The default session affinity in seconds: three hours, as in Kubernetes.
const SESSION_AFFINITY: u32 = 10_800;

// === impl Service ===

impl Service {
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let Self { metadata, spec } = self;
        let session_affinity = spec.session_affinity()?;
        let internal_traffic_local = spec.internal_traffic_local()?;
        let traffic_distribution = spec.traffic_distribution()?;
        let ip_families = spec.ip_families()?;
        let external_name = spec.kind.as_deref() == Some("ExternalName");
        let outside_addresses = spec.has_outside_addresses();
        let ports = service_ports(spec.ports)?;
        let mut ips = spec.cluster_ips;
        if let Some(ip) = spec.cluster_ip.filter(|ip| !ip.is_empty() && !ips.contains(ip)) {
            ips.insert(0, ip);
        }
        let headless = ips.first().is_some_and(|ip| ip == "None");
        let cluster_ips: Vec<IpAddr> = match headless || external_name {
            true => Vec::new(),
            false => ips
                .iter()
                .map(|ip| parse_ip(ip, || "spec.clusterIP".into()))
                .collect::<Result<_, _>>()?,
        };
        if cluster_ips.is_empty() && !headless && !external_name {
            return Err("it has no clusterIP: without an API server to choose one, write it into the manifest, or `clusterIP: None`".into());
        }
        if ports.is_empty() && !headless && !external_name {
            return Err("spec.ports: it needs one".into());
        }
        Ok(Object::from(object::Service {
            namespace: metadata.namespace(),
            name: metadata.name,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            selector: spec.selector.unwrap_or_default(),
            cluster_ips,
            headless,
            external_name,
            ports,
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
            ip_families,
            session_affinity,
            internal_traffic_local,
            traffic_distribution,
            outside_addresses,
        }))
    }
}

/// The ports of a service. If there are several, each needs a unique name.
fn service_ports(given: Vec<ServicePort>) -> Result<Vec<object::ServicePort>, String> {
    let several = given.len() > 1;
    let mut ports: Vec<object::ServicePort> = Vec::new();
    for (index, ServicePort { name, protocol, port, target_port }) in (0..).zip(given) {
        let index: usize = index;
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let port = parse_port(port, || field("port"))?;
        let protocol = parse_protocol(protocol.as_deref(), || field("protocol"))?;
        let name = name.unwrap_or_default();
        if name.is_empty() && several {
            return Err(format!("{}: each of several ports needs a name", field("name")));
        }
        if !name.is_empty() {
            names::label(&name).map_err(|why| format!("{} {name:?}: {why}", field("name")))?;
        }
        if ports.iter().any(|other| other.name == name) {
            return Err(format!("{} {name:?}: another port has that name", field("name")));
        }
        if ports.iter().any(|other| (other.port, other.protocol) == (port, protocol)) {
            return Err(format!("{}: {port}/{protocol} occurs twice", field("port")));
        }
        let target = match target_port {
            None => TargetPort::Number(port),
            Some(Value::Number(number)) if number.as_i64() == Some(0) => TargetPort::Number(port),
            Some(Value::Number(number)) => {
                let number = number.as_i64().unwrap_or(-1);
                TargetPort::Number(parse_port(number, || field("targetPort"))?)
            }
            Some(Value::String(name)) if name.is_empty() => TargetPort::Number(port),
            Some(Value::String(name)) => {
                names::port(&name).map_err(|why| {
                    let number =
                        name.parse::<u16>().map(|_| "; a number is written without quotes");
                    format!("{} {name:?}: {why}{}", field("targetPort"), number.unwrap_or_default())
                })?;
                TargetPort::Name(name)
            }
            Some(other) => {
                return Err(format!(
                    "{}: {other} is neither a number nor a name",
                    field("targetPort")
                ));
            }
        };
        ports.push(object::ServicePort { name, protocol, port, target });
    }
    Ok(ports)
}

impl ServiceSpec {
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

    fn traffic_distribution(&self) -> Result<Option<TrafficDistribution>, String> {
        match self.traffic_distribution.as_deref() {
            None => Ok(None),
            Some("PreferClose" | "PreferSameZone") => Ok(Some(TrafficDistribution::SameZone)),
            Some("PreferSameNode") => Ok(Some(TrafficDistribution::SameNode)),
            Some(other) => Err(format!(
                "trafficDistribution {other:?}: it is PreferSameZone, PreferSameNode or PreferClose"
            )),
        }
    }

    fn has_outside_addresses(&self) -> bool {
        let kind = self.kind.as_deref().unwrap_or_default();
        matches!(kind, "NodePort" | "LoadBalancer")
            || self.external_ips.as_ref().is_some_and(|ips| !ips.is_empty())
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
    pub(crate) fn into_object(self) -> Result<Object, String> {
        let Self { metadata, address_type, endpoints, ports } = self;
        let labels = metadata.labels.clone().unwrap_or_default();
        match address_type.as_str() {
            "IPv4" | "IPv6" | "FQDN" => {}
            "" => return Err("it has no addressType: it is IPv4, IPv6 or FQDN".into()),
            other => return Err(format!("addressType {other:?}: it is IPv4, IPv6 or FQDN")),
        }
        if labels.get(SERVICE_NAME_LABEL).is_none_or(String::is_empty) {
            return Err(format!(
                "metadata.labels: without {SERVICE_NAME_LABEL} it belongs to no service"
            ));
        }
        let mut known: Vec<SlicePort> = Vec::new();
        for (index, port) in (0..).zip(ports.unwrap_or_default()) {
            let index: usize = index;
            // Unlike in a Service, one of several ports may be unnamed, as in an API server.
            port.add_to(&mut known, || format!("ports[{index}]"))?;
        }
        let endpoints = endpoints.unwrap_or_default();
        if let Some(index) = endpoints.iter().position(|endpoint| endpoint.addresses.is_empty()) {
            return Err(format!("endpoints[{index}].addresses: it needs one"));
        }
        Ok(Object::from(EndpointSlice {
            namespace: metadata.namespace(),
            name: metadata.name,
            labels,
            annotations: metadata.annotations.unwrap_or_default(),
            address_type,
            endpoints: endpoints.into_iter().map(Endpoint::into_model).collect(),
            ports: known,
            ..EndpointSlice::default()
        }))
    }
}

impl Endpoint {
    fn into_model(self) -> SliceEndpoint {
        let Self { addresses, conditions, hostname, node_name, zone, hints } = self;
        let Conditions { ready, serving, terminating } = conditions.unwrap_or_default();
        let Hints { for_zones, for_nodes } = hints.unwrap_or_default();
        let names = |hints: Vec<Hint>| hints.into_iter().map(|hint| hint.name).collect();
        SliceEndpoint {
            addresses,
            ready,
            serving,
            terminating,
            hostname,
            node: node_name,
            zone,
            for_zones: names(for_zones),
            for_nodes: names(for_nodes),
        }
    }
}

impl EndpointPort {
    /// The port with an API server's defaults. Without a number it means all ports.
    fn into_model(self, field: impl Fn() -> String) -> Result<SlicePort, String> {
        let Self { name, protocol, port, app_protocol } = self;
        if let Some(port) = port {
            parse_port(port.into(), || format!("{}.port", field()))?;
        }
        let protocol = parse_protocol(protocol.as_deref(), || format!("{}.protocol", field()))?;
        let name = name.unwrap_or_default();
        if !name.is_empty() {
            names::label(&name).map_err(|why| format!("{}.name {name:?}: {why}", field()))?;
        }
        Ok(SlicePort {
            name: Some(name),
            protocol: Some(protocol.as_str().into()),
            number: port,
            app_protocol,
        })
    }

    /// Adds the port to others. Its name must be unique.
    pub(super) fn add_to(
        self,
        known: &mut Vec<SlicePort>,
        field: impl Fn() -> String,
    ) -> Result<(), String> {
        let port = self.into_model(&field)?;
        if known.iter().any(|other| other.name == port.name) {
            let name = port.name.unwrap_or_default();
            return Err(format!("{}.name {name:?}: another port has that name", field()));
        }
        known.push(port);
        Ok(())
    }

    pub(super) fn is_named(&self) -> bool {
        self.name.as_ref().is_some_and(|name| !name.is_empty())
    }
}
