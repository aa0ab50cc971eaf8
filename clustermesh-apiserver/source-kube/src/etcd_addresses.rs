//! Where other clusters may reach the etcds of a cluster: its Service, the nodes of its replicas, and all nodes.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::{
    List,
    api::core::v1::{Node, NodeStatus, Pod, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use mesh_wire::peering::{EtcdAddresses, EtcdService, MAX_NODES, NodeAddresses};
use serde::de::DeserializeOwned;

use crate::connection::Connection;

/// The name of the Service, and the label of the pods.
const NAME: &str = "clustermesh-apiserver";
/// The port at which an etcd is reached at its node's addresses, where the Service does not say.
const PORT: u16 = 12379;
const PATIENCE: Duration = Duration::from_secs(10);
/// Nodes that are read. Some of them are not ready.
const NODES: usize = 500;

/// Asks an API server for them.
///
/// # Errors
/// When it does not answer, or refuses: a sentence.
pub async fn etcd_addresses(connection: &Connection) -> Result<EtcdAddresses, String> {
    let namespace = format!("/api/v1/namespaces/{}", connection.namespace());
    let services = format!("{namespace}/services?fieldSelector=metadata.name%3D{NAME}");
    let service = list::<Service>(connection, "services", &services).await?.pop();
    let spec = service.as_ref().and_then(|service| service.spec.as_ref());
    let port = spec.and_then(|spec| spec.ports.iter().flatten().next());
    let target = port.and_then(|port| match port.target_port {
        Some(IntOrString::Int(port)) => port.try_into().ok(),
        _ => None,
    });
    let replicas = etcd_replicas(connection).await?;
    let nodes = format!("/api/v1/nodes?limit={NODES}");
    let nodes = list::<Node>(connection, "nodes", &nodes).await?;
    Ok(EtcdAddresses {
        configured: Vec::new(),
        service: service
            .as_ref()
            .zip(spec)
            .zip(port)
            .map(|((service, spec), port)| of_service(service, spec, port)),
        replicas,
        port: target.unwrap_or(PORT),
        nodes: nodes.iter().filter_map(of_node).take(MAX_NODES).collect(),
    })
}

/// Asks an API server for the nodes of the replicas: of pods that are not about to end.
///
/// # Errors
/// As [`etcd_addresses`].
pub async fn etcd_replicas(connection: &Connection) -> Result<Vec<NodeAddresses>, String> {
    let namespace = connection.namespace();
    let path = format!(
        "/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io%2Fname%3D{NAME}"
    );
    let pods = list::<Pod>(connection, "pods", &path).await?;
    Ok(pods.iter().filter_map(of_pod).collect())
}

async fn list<T>(connection: &Connection, kind: &str, path: &str) -> Result<Vec<T>, String>
where
    T: DeserializeOwned + k8s_openapi::ListableResource,
{
    let right = format!("its ClusterRole the verb list on {kind}");
    let text = connection.get(path, PATIENCE).await;
    let text = text.map_err(|failure| failure.sentence("list", kind, &right))?;
    let list: List<T> = serde_json::from_str(&text)
        .map_err(|error| format!("the API server: its list of {kind}: {error}"))?;
    Ok(list.items)
}

fn of_service(service: &Service, spec: &ServiceSpec, port: &ServicePort) -> EtcdService {
    let ips = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok());
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    EtcdService {
        kind: spec.type_.clone().unwrap_or_default(),
        port: port.port.try_into().unwrap_or_default(),
        node_port: port.node_port.and_then(|port| port.try_into().ok()),
        // `None` where the Service is headless.
        cluster_ips: ips.collect(),
        load_balancer: ingress.flat_map(|at| at.ip.clone().or(at.hostname.clone())).collect(),
        local: spec.external_traffic_policy.as_deref() == Some("Local"),
    }
}

/// The node of a pod that is not about to end.
fn of_pod(pod: &Pod) -> Option<NodeAddresses> {
    let status = pod.status.as_ref()?;
    let ends = pod.metadata.deletion_timestamp.is_some()
        || ["Failed", "Succeeded"].contains(&status.phase.as_deref().unwrap_or_default());
    let ips = status.host_ips.iter().flatten().filter_map(|host| host.ip.parse().ok());
    let addresses: Vec<IpAddr> = ips.collect();
    let node = pod.spec.as_ref()?.node_name.clone()?;
    (!ends && !addresses.is_empty()).then_some(NodeAddresses { node, addresses })
}

/// A node that is ready.
fn of_node(node: &Node) -> Option<NodeAddresses> {
    let NodeStatus { addresses, conditions, .. } = node.status.as_ref()?;
    let mut conditions = conditions.iter().flatten();
    let ready = conditions.any(|found| found.type_ == "Ready" && found.status == "True");
    let internal = addresses.iter().flatten().filter(|address| address.type_ == "InternalIP");
    let addresses: Vec<IpAddr> =
        internal.filter_map(|address| address.address.parse().ok()).collect();
    let node = node.metadata.name.clone()?;
    (ready && !addresses.is_empty()).then_some(NodeAddresses { node, addresses })
}
