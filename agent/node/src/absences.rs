//! What has no frontend or is refused, and why, as an explanation lists it.

use mesh_admin::v1::Absence;
use mesh_follow::{ConnectionPhase, Failure};
use mesh_model::{ClusterName, LocalService, Protocol, ServiceName};

/// How many clusters are named in a sentence.
const NAMED: usize = 4;

/// A cluster of which nothing more is accepted: it is quarantined, or its config does not suit ours. What it reported before
/// stays.
pub fn refused_cluster(
    name: &ClusterName,
    quarantined: Option<&str>,
    failure: Option<Failure>,
) -> Option<Absence> {
    let config = failure.filter(|failure| failure.phase == ConnectionPhase::Config);
    let reason = match (quarantined, config) {
        (Some(why), _) => format!("nothing more of cluster {name} is accepted: {why}"),
        (None, Some(failure)) => format!("cluster {name} is refused: {}", failure.reason),
        (None, None) => return None,
    };
    let (cluster, why) = (name.to_string(), "cluster-refused".into());
    Some(Absence { cluster, why, reason, ..Absence::default() })
}

fn of(cluster: &ClusterName, service: &ServiceName, why: &str, reason: String) -> Absence {
    Absence {
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        cluster: cluster.to_string(),
        why: why.into(),
        reason,
        ..Absence::default()
    }
}

/// The namespace of a service takes no part here.
pub fn namespace_not_global(local: &ClusterName, service: &ServiceName) -> Absence {
    let reason = format!(
        "namespace {} of cluster {local} is not global (clustermesh.cilium.io/global): no other cluster's backends are used",
        service.namespace
    );
    of(local, service, "namespace-not-global", reason)
}

/// Why a service of the local cluster has no backend: no cluster reports endpoints of it. `others` are the other clusters, each
/// with whether it has listed its services in this run.
pub fn without_endpoints(
    local: &ClusterName,
    service: &ServiceName,
    others: &[(&ClusterName, bool)],
) -> String {
    let mut text = format!("{local} has service {service} without endpoints");
    for (has_listed, one, several) in
        [(true, "has none", "have none"), (false, "is not synced yet", "are not synced yet")]
    {
        let names = others.iter().filter(|(_, listed)| *listed == has_listed);
        let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        let clause = match names.as_slice() {
            [] => continue,
            [name] => format!("{name} {one}"),
            few if few.len() <= NAMED => format!("{} {several}", few.join(", ")),
            many => format!("{} other clusters {several}", many.len()),
        };
        text.extend(["; ", &clause]);
    }
    text
}

/// The ports without a frontend of a service that local nodes know.
pub fn leads_nowhere(local: &ClusterName, known: &LocalService) -> Vec<Absence> {
    let service = &known.name;
    if known.foreign_proxy {
        let reason = format!(
            "service {service} of cluster {local} is another proxy's (service.kubernetes.io/service-proxy-name)"
        );
        return vec![of(local, service, "foreign-proxy", reason)];
    }
    if known.cluster_ips.is_empty() {
        let reason = format!(
            "service {service} of cluster {local} has no cluster IP: clients connect to its pods themselves"
        );
        return vec![of(local, service, "headless", reason)];
    }
    let sctp = known.ports.iter().filter(|(_, port)| port.protocol == Protocol::Sctp);
    let of_port = sctp.flat_map(|(name, port)| {
        known.cluster_ips.iter().map(move |ip| Absence {
            port_name: name.clone(),
            address: ip.to_string(),
            port: port.number.into(),
            protocol: port.protocol.to_string(),
            ..of(local, service, "sctp", "SCTP is carried between clusters and not balanced".into())
        })
    });
    of_port.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_model::{Port, ServiceTraffic};

    use super::*;

    fn name(text: &str) -> ClusterName {
        ClusterName::new(text).unwrap()
    }

    fn known(ips: &[&str], protocols: &[(&str, Protocol)], foreign_proxy: bool) -> LocalService {
        let ports = protocols
            .iter()
            .map(|(name, protocol)| ((*name).to_owned(), Port { protocol: *protocol, number: 80 }));
        LocalService {
            name: ServiceName::new("shop", "web"),
            cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ports: ports.collect::<BTreeMap<_, _>>(),
            traffic: ServiceTraffic::default(),
            shared: true,
            publish_not_ready_addresses: false,
            foreign_proxy,
            outside_addresses: false,
        }
    }

    #[test]
    fn what_leads_nowhere_says_why() {
        let both = [("http", Protocol::Tcp), ("signal", Protocol::Sctp)];
        for (service, expected) in [
            (known(&["10.101.0.10"], &both[..1], false), &[][..]),
            (known(&["10.101.0.10"], &both, false), &["sctp 10.101.0.10 80"]),
            (
                known(&["10.101.0.10", "fd00::1"], &both, false),
                &["sctp 10.101.0.10 80", "sctp fd00::1 80"],
            ),
            (known(&[], &both, false), &["headless  0"]),
            (known(&["10.101.0.10"], &both, true), &["foreign-proxy  0"]),
        ] {
            let found = leads_nowhere(&name("a"), &service).into_iter();
            let found: Vec<String> =
                found.map(|one| format!("{} {} {}", one.why, one.address, one.port)).collect();
            assert_eq!(found, expected, "{service:?}");
        }
    }

    #[test]
    fn a_service_without_endpoints_says_which_clusters_have_none() {
        let service = ServiceName::new("other", "web");
        let all: Vec<ClusterName> = ["b", "c", "d", "e", "f"].map(name).into();
        let of = |count: usize, listed: usize| {
            let others = all.iter().enumerate().map(|(index, name)| (name, index < listed));
            let others: Vec<_> = others.take(count).collect();
            let text = without_endpoints(&name("a"), &service, &others);
            text.strip_prefix("a has service other/web without endpoints").unwrap().to_owned()
        };
        assert_eq!(of(0, 0), "");
        assert_eq!(of(1, 1), "; b has none");
        assert_eq!(of(2, 2), "; b, c have none");
        assert_eq!(of(2, 1), "; b has none; c is not synced yet");
        assert_eq!(of(5, 5), "; 5 other clusters have none");
        assert_eq!(of(5, 1), "; b has none; c, d, e, f are not synced yet");
    }

    #[test]
    fn a_cluster_is_refused_that_is_quarantined_or_whose_config_does_not_suit() {
        let of = |quarantined: Option<&str>, phase: Option<ConnectionPhase>| {
            let failure = phase.map(|phase| Failure::new(phase, "the cluster has no ID"));
            refused_cluster(&name("b"), quarantined, failure).map(|found| {
                assert_eq!((found.cluster.as_str(), found.why.as_str()), ("b", "cluster-refused"));
                found.reason
            })
        };
        let config = Some(ConnectionPhase::Config);
        assert_eq!(of(None, None), None);
        // Not to be reached is not to be refused.
        assert_eq!(of(None, Some(ConnectionPhase::Tls)), None);
        assert_eq!(of(None, config).unwrap(), "cluster b is refused: the cluster has no ID");
        assert_eq!(
            of(Some("too many keys"), config).unwrap(),
            "nothing more of cluster b is accepted: too many keys"
        );
    }
}
