//! Where other clusters reach the etcds of a cluster in Kubernetes.

use std::net::{IpAddr, SocketAddr};

use mesh_wire::peering::{EtcdAddresses, EtcdService, NodeAddresses};

use crate::args::AddressKind;

/// A list for each etcd that has addresses of its own. The error says what is missing and what to do.
pub(super) fn endpoints(
    found: &EtcdAddresses,
    kind: AddressKind,
    given: &[SocketAddr],
) -> Result<Vec<Vec<(IpAddr, u16)>>, String> {
    if !given.is_empty() {
        return Ok(given.iter().map(|address| vec![pair(address)]).collect());
    }
    let service = found.service.as_ref();
    let kind = match (kind, service.map(|service| service.kind.as_str())) {
        (AddressKind::Auto, _) if !found.configured.is_empty() => {
            return Ok(found
                .configured
                .iter()
                .map(|etcd| etcd.iter().map(pair).collect())
                .collect());
        }
        (AddressKind::Auto, Some("LoadBalancer")) => AddressKind::LoadBalancer,
        (AddressKind::Auto, Some("NodePort")) => AddressKind::NodePort,
        (AddressKind::Auto, _) => AddressKind::Nodes,
        (kind, _) => kind,
    };
    let of_service = || service.ok_or("there is no Service clustermesh-apiserver");
    Ok(match kind {
        AddressKind::LoadBalancer => load_balancer(of_service()?)?,
        AddressKind::NodePort => node_port(of_service()?, found)?,
        AddressKind::ClusterIp => {
            let EtcdService { port, cluster_ips, .. } = of_service()?;
            let addresses: Vec<_> = cluster_ips.iter().map(|ip| (*ip, *port)).collect();
            some(addresses, "its Service has no cluster IP")?
        }
        AddressKind::Auto | AddressKind::Nodes => {
            let replicas = found.replicas.iter();
            // Each replica's node is an etcd of its own.
            let etcds: Vec<Vec<_>> =
                replicas.map(|node| with_port(std::iter::once(node), found.port)).collect();
            if etcds.is_empty() {
                return Err("no node has a replica of clustermesh-apiserver".into());
            }
            etcds
        }
    })
}

fn load_balancer(service: &EtcdService) -> Result<Vec<Vec<(IpAddr, u16)>>, String> {
    let names = &service.load_balancer;
    if let (None, Some(name)) =
        (names.iter().find_map(|at| at.parse::<IpAddr>().ok()), names.first())
    {
        return Err(format!(
            "the load balancer of its Service has the host name {name} and no address: peers know addresses only"
        ));
    }
    let ips = names.iter().filter_map(|at| at.parse().ok());
    let addresses = ips.map(|ip| (ip, service.port)).collect();
    some(addresses, "the load balancer of its Service has no address yet")
}

fn node_port(
    service: &EtcdService,
    found: &EtcdAddresses,
) -> Result<Vec<Vec<(IpAddr, u16)>>, String> {
    let port = service.node_port.ok_or("its Service has no node port")?;
    // With externalTrafficPolicy: Local, other nodes do not answer.
    let nodes = if service.local { &found.replicas } else { &found.nodes };
    // Any node leads to any replica: none has an address of its own.
    some(with_port(nodes.iter(), port), "no node is ready")
}

fn with_port<'a>(nodes: impl Iterator<Item = &'a NodeAddresses>, port: u16) -> Vec<(IpAddr, u16)> {
    nodes.flat_map(|node| &node.addresses).map(|ip| (*ip, port)).collect()
}

fn some(addresses: Vec<(IpAddr, u16)>, otherwise: &str) -> Result<Vec<Vec<(IpAddr, u16)>>, String> {
    if addresses.is_empty() { Err(otherwise.into()) } else { Ok(vec![addresses]) }
}

fn pair(address: &SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ips: &[&str]) -> NodeAddresses {
        let addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        NodeAddresses { node: name.into(), addresses }
    }

    fn found(kind: &str) -> EtcdAddresses {
        let service = EtcdService {
            kind: kind.into(),
            port: 2379,
            node_port: Some(32379),
            cluster_ips: vec!["10.96.0.9".parse().unwrap()],
            load_balancer: vec!["192.0.2.9".into()],
            local: false,
        };
        EtcdAddresses {
            configured: Vec::new(),
            service: Some(service).filter(|service| !service.kind.is_empty()),
            replicas: vec![node("n1", &["172.18.0.1", "fc00::1"]), node("n2", &["172.18.0.2"])],
            port: 12379,
            nodes: vec![node("n1", &["172.18.0.1"]), node("n3", &["172.18.0.3"])],
        }
    }

    /// The addresses as text: etcds with `|` between.
    fn shown(endpoints: Result<Vec<Vec<(IpAddr, u16)>>, String>) -> String {
        let of = |etcd: Vec<(IpAddr, u16)>| {
            let addresses = etcd.into_iter().map(|address| SocketAddr::from(address).to_string());
            addresses.collect::<Vec<_>>().join(" ")
        };
        match endpoints {
            Ok(etcds) => etcds.into_iter().map(of).collect::<Vec<_>>().join(" | "),
            Err(error) => error,
        }
    }

    #[test]
    fn addresses_are_as_the_service_is_unless_another_kind_is_asked_for() {
        use AddressKind::{Auto, ClusterIp, LoadBalancer, NodePort, Nodes};
        let nodes = "172.18.0.1:12379 [fc00::1]:12379 | 172.18.0.2:12379";
        for (service, kind, wanted) in [
            ("NodePort", Auto, "172.18.0.1:32379 172.18.0.3:32379"),
            ("LoadBalancer", Auto, "192.0.2.9:2379"),
            // The cluster IP is reached in its own cluster only.
            ("ClusterIP", Auto, nodes),
            ("", Auto, nodes),
            ("NodePort", Nodes, nodes),
            ("NodePort", ClusterIp, "10.96.0.9:2379"),
            ("LoadBalancer", NodePort, "172.18.0.1:32379 172.18.0.3:32379"),
            ("", LoadBalancer, "there is no Service clustermesh-apiserver"),
        ] {
            assert_eq!(shown(endpoints(&found(service), kind, &[])), wanted, "{service} {kind:?}");
        }
        let given = ["192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap()];
        let wanted = "192.0.2.1:1 | [2001:db8::1]:2";
        assert_eq!(shown(endpoints(&found("NodePort"), Auto, &given)), wanted);
        let mut configured = found("NodePort");
        configured.configured = vec![vec![given[0]]];
        assert_eq!(shown(endpoints(&configured, Auto, &[])), "192.0.2.1:1");
        assert_eq!(shown(endpoints(&configured, Nodes, &[])), nodes);
    }

    #[test]
    fn what_is_missing_is_named() {
        let change = |change: fn(&mut EtcdAddresses, &mut EtcdService), kind| {
            let mut found = found("LoadBalancer");
            let mut service = found.service.take().unwrap();
            change(&mut found, &mut service);
            found.service = Some(service);
            shown(endpoints(&found, kind, &[]))
        };
        let auto = AddressKind::Auto;
        assert!(change(|_, s| s.load_balancer.clear(), auto).contains("no address yet"));
        let named = change(|_, s| s.load_balancer = vec!["lb.example".into()], auto);
        assert!(named.contains("lb.example"), "{named}");
        let kind = AddressKind::NodePort;
        assert!(change(|_, s| s.node_port = None, kind).contains("no node port"));
        assert!(change(|found, _| found.nodes.clear(), kind).contains("no node is ready"));
        assert!(change(|_, s| s.local = true, kind).contains("172.18.0.2:32379"));
        let kind = AddressKind::Nodes;
        assert!(change(|found, _| found.replicas.clear(), kind).contains("no node has a replica"));
    }
}
