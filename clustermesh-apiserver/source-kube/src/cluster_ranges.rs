//! The address ranges of a cluster's pods and services, as Kubernetes knows them: ServiceCIDR objects, and what kubeadm was
//! given.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use k8s_openapi::{
    List,
    api::{core::v1::ConfigMap, networking::v1::ServiceCIDR},
};
use serde::Deserialize;

use crate::{connection::Connection, failure::Failure};

/// What was found; empty where nothing says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundRanges {
    /// The ranges of pods.
    pub pods: Vec<IpNet>,
    /// The ranges of cluster IPs.
    pub services: Vec<IpNet>,
    /// What could not be read, a sentence each.
    pub problems: Vec<String>,
}

/// kubeadm's configuration, as far as it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClusterConfiguration {
    networking: Networking,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Networking {
    /// Two with a comma between in a dual-stack cluster.
    pod_subnet: String,
    service_subnet: String,
}

const PATIENCE: Duration = Duration::from_secs(5);
/// Since Kubernetes 1.33; there may be several for each family.
const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs?limit=100";
const KUBEADM: &str = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config";
/// A key of kubeadm's ConfigMap.
const CONFIGURATION: &str = "ClusterConfiguration";

/// Asks an API server. What is not there is no problem: a cluster may be older, or be made without kubeadm.
pub async fn cluster_ranges(connection: &Connection) -> FoundRanges {
    let mut found = FoundRanges::default();
    let right = "its ClusterRole the verb list on servicecidrs.networking.k8s.io";
    match connection.get(SERVICE_CIDRS, PATIENCE).await {
        Ok(text) => match of_objects(&text) {
            Ok(services) => found.services = services,
            Err(problem) => found.problems.push(problem),
        },
        Err(failure) if is_absent(&failure) => {}
        Err(failure) => found.problems.push(failure.sentence("list", "servicecidrs", right)),
    }
    let right = "its Role in kube-system the verb get on configmaps named kubeadm-config";
    match connection.get(KUBEADM, PATIENCE).await {
        Ok(text) => match of_kubeadm(&text) {
            Ok((pods, services)) => {
                found.pods = pods;
                if found.services.is_empty() {
                    found.services = services;
                }
            }
            Err(problem) => found.problems.push(problem),
        },
        Err(failure) if is_absent(&failure) => {}
        Err(failure) => found.problems.push(failure.sentence(
            "read",
            "the ConfigMap kube-system/kubeadm-config",
            right,
        )),
    }
    found
}

fn is_absent(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused { code: 404, .. })
}

fn of_objects(text: &str) -> Result<Vec<IpNet>, String> {
    let list: List<ServiceCIDR> = serde_json::from_str(text)
        .map_err(|error| format!("the API server: its list of servicecidrs: {error}"))?;
    let specs = list.items.into_iter().filter_map(|object| object.spec);
    specs.flat_map(|spec| spec.cidrs.unwrap_or_default()).map(|range| parsed(&range)).collect()
}

/// The ranges of pods and of services.
fn of_kubeadm(text: &str) -> Result<(Vec<IpNet>, Vec<IpNet>), String> {
    let at = |what: String| format!("the ConfigMap kube-system/kubeadm-config: {what}");
    let map: ConfigMap = serde_json::from_str(text).map_err(|error| at(error.to_string()))?;
    let Some(text) = map.data.unwrap_or_default().remove(CONFIGURATION) else {
        return Err(at(format!("it has no {CONFIGURATION}")));
    };
    let configuration: ClusterConfiguration =
        serde_saphyr::from_str(&text).map_err(|error| at(format!("{CONFIGURATION}: {error}")))?;
    let ranges = |subnet: &str| {
        let ranges = subnet.split(',').map(str::trim).filter(|range| !range.is_empty());
        ranges.map(parsed).collect::<Result<Vec<_>, _>>().map_err(at)
    };
    let Networking { pod_subnet, service_subnet } = configuration.networking;
    Ok((ranges(&pod_subnet)?, ranges(&service_subnet)?))
}

/// A range; one that is only an address is that address.
fn parsed(text: &str) -> Result<IpNet, String> {
    let range = text.parse::<IpNet>().map(|range| range.trunc());
    let range = range.or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error));
    range.map_err(|error| format!("{text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_objects_and_of_kubeadm() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let list = r#"{"metadata":{},"items":[{"metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/12","fd00:10:96::/112"]}},{"spec":{"cidrs":["10.200.0.0/16"]}}]}"#;
        let wanted: Vec<IpNet> = nets(&["10.96.0.0/12", "fd00:10:96::/112", "10.200.0.0/16"]);
        assert_eq!(of_objects(list), Ok(wanted));
        let map = |text: &str| serde_json::json!({ "data": { CONFIGURATION: text } }).to_string();
        let text = "networking:\n  dnsDomain: cluster.local\n  podSubnet: 10.244.0.0/16, fd00:10:244::/56\n  serviceSubnet: 10.96.0.0/16\n";
        let (pods, services) =
            (nets(&["10.244.0.0/16", "fd00:10:244::/56"]), nets(&["10.96.0.0/16"]));
        assert_eq!(of_kubeadm(&map(text)), Ok((pods, services)));
        assert_eq!(of_kubeadm(&map("kind: ClusterConfiguration")), Ok((vec![], vec![])));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, says) in [
            ("[]", "kubeadm-config: "),
            (r#"{"data":{}}"#, "it has no ClusterConfiguration"),
            (r#"{"data":{"ClusterConfiguration":"networking: {podSubnet: ten}"}}"#, "\"ten\""),
            (r#"{"data":{"ClusterConfiguration":"a: ["}}"#, "ClusterConfiguration: "),
        ] {
            let error = of_kubeadm(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let error = of_objects(r#"{"items":[{"spec":{"cidrs":["10.96.0.0/99"]}}]}"#).unwrap_err();
        assert!(error.contains("10.96.0.0/99"), "{error}");
    }
}
