//! What has no frontend or is refused, and why, as an explanation lists it.

use mesh_admin::v1::Absence;
use mesh_follow::{ConnectionPhase, Failure};
use mesh_model::{ClusterName, LocalService, Protocol, ServiceName};

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
