//! From what clusters say about services to what clients connect to.

use mesh_model::{
    ServiceName,
    lb::{Backend, Change, Frontend, Group, ServiceDelta, Settings},
};

/// What is known of all services now, this change included.
pub trait Services {
    /// A service's frontends with the names of their ports.
    fn frontends(&self, service: &ServiceName) -> impl Iterator<Item = (Frontend, &str)>;
    /// A service's backends with the names of the ports that they serve.
    fn backends(&self, service: &ServiceName) -> impl Iterator<Item = (Backend, &str)>;
}

/// What a change to a service means for the tables.
///
/// A frontend leads to the backends that serve a port of its name and protocol, in its family; an unnamed port to unnamed
/// ones (`docs/wire.md`, "Merging").
pub fn decide(delta: &ServiceDelta, services: &impl Services) -> Vec<Change> {
    match delta {
        ServiceDelta::ServiceSet { .. } | ServiceDelta::ServiceRemoved { .. } => Vec::new(),
        ServiceDelta::FrontendAdded { service, port_name, frontend } => {
            let backends =
                services.backends(service).filter(|(_, name)| *name == port_name.as_ref());
            let backends =
                backends.map(|(backend, _)| backend).filter(|backend| suits(frontend, backend));
            let added =
                backends.map(|backend| Change::AddBackend(*frontend, backend, Group::FIRST));
            [Change::SetFrontend(*frontend, Settings::default())].into_iter().chain(added).collect()
        }
        ServiceDelta::FrontendRemoved { frontend, .. } => vec![Change::RemoveFrontend(*frontend)],
        ServiceDelta::BackendSet { service, port_name, backend, .. } => {
            let frontends = leading_to(services, service, port_name, backend);
            frontends.map(|frontend| Change::AddBackend(frontend, *backend, Group::FIRST)).collect()
        }
        ServiceDelta::BackendRemoved { service, port_name, backend } => {
            let frontends = leading_to(services, service, port_name, backend);
            frontends.map(|frontend| Change::RemoveBackend(frontend, *backend)).collect()
        }
    }
}

fn leading_to(
    services: &impl Services,
    service: &ServiceName,
    port_name: &str,
    backend: &Backend,
) -> impl Iterator<Item = Frontend> {
    let frontends = services.frontends(service).filter(move |(_, name)| *name == port_name);
    frontends.map(|(frontend, _)| frontend).filter(move |frontend| suits(frontend, backend))
}

fn suits(frontend: &Frontend, backend: &Backend) -> bool {
    frontend.protocol == backend.protocol && frontend.address.is_ipv4() == backend.address.is_ipv4()
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use mesh_model::{ClusterId, Protocol, lb::BackendState};

    use super::*;

    struct One {
        frontends: Vec<(Frontend, &'static str)>,
        backends: Vec<(Backend, &'static str)>,
    }

    impl Services for One {
        fn frontends(&self, _: &ServiceName) -> impl Iterator<Item = (Frontend, &str)> {
            self.frontends.iter().copied()
        }

        fn backends(&self, _: &ServiceName) -> impl Iterator<Item = (Backend, &str)> {
            self.backends.iter().copied()
        }
    }

    fn frontend(address: &str, port: u16, protocol: Protocol) -> Frontend {
        Frontend { address: address.parse().unwrap(), port, protocol }
    }

    fn backend(address: &str, port: u16, protocol: Protocol) -> Backend {
        let address: IpAddr = address.parse().unwrap();
        Backend { address, port, protocol, cluster: ClusterId::NONE }
    }

    #[test]
    fn ports_meet_by_name_protocol_and_family() {
        use Protocol::{Tcp, Udp};
        let services = One {
            frontends: vec![
                (frontend("10.101.0.1", 80, Tcp), "http"),
                (frontend("fd00:100::1", 80, Tcp), "http"),
                (frontend("10.101.0.1", 53, Udp), "dns"),
                (frontend("10.101.0.1", 9000, Tcp), ""),
            ],
            backends: vec![
                (backend("10.1.1.1", 8080, Tcp), "http"),
                (backend("fd00:10:1::1", 8080, Tcp), "http"),
                (backend("10.1.1.1", 8080, Tcp), "admin"),
                (backend("10.1.1.1", 5353, Udp), "dns"),
                (backend("10.1.1.1", 53, Tcp), "dns"),
                (backend("10.2.1.1", 9000, Tcp), ""),
            ],
        };
        let service = Arc::new(ServiceName::new("shop", "web"));
        for (frontend, name) in services.frontends.clone() {
            let delta = ServiceDelta::FrontendAdded {
                service: Arc::clone(&service),
                port_name: name.into(),
                frontend,
            };
            let expected =
                services.backends.iter().filter(|(b, n)| *n == name && suits(&frontend, b));
            let expected: Vec<Change> = [Change::SetFrontend(frontend, Settings::default())]
                .into_iter()
                .chain(expected.map(|(b, _)| Change::AddBackend(frontend, *b, Group::FIRST)))
                .collect();
            assert_eq!(expected.len(), 2);
            assert_eq!(decide(&delta, &services), expected);
        }
        for ((backend, name), frontends) in
            services.backends.clone().into_iter().zip([1, 1, 0, 1, 0, 1])
        {
            let (service, port_name) = (Arc::clone(&service), Arc::<str>::from(name));
            let added = ServiceDelta::BackendSet {
                service: Arc::clone(&service),
                port_name: Arc::clone(&port_name),
                backend,
                state: BackendState::default(),
            };
            assert_eq!(decide(&added, &services).len(), frontends, "{name} {backend}");
            let removed = ServiceDelta::BackendRemoved { service, port_name, backend };
            let removed = decide(&removed, &services);
            assert!(
                removed
                    .iter()
                    .all(|change| matches!(change, Change::RemoveBackend(_, b) if *b == backend))
            );
            assert_eq!(removed.len(), frontends);
        }
    }
}
