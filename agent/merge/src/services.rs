//! A service's backends as a set that can be compared.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use mesh_model::{GlobalService, Port, PortMap, Protocol};

/// One port of one address, under one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) port_name: Arc<str>,
    pub(crate) port: Port,
    pub(crate) address: IpAddr,
}

/// A cluster's part of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServicePart {
    /// The cluster's own frontends: only those of our own cluster are used.
    pub(crate) frontends: BTreeSet<Place>,
    /// The cluster's backends; none where it does not share.
    pub(crate) backends: BTreeSet<Place>,
}

impl ServicePart {
    /// What a record says. SCTP is carried between clusters and balanced by nobody.
    pub(crate) fn new(service: &GlobalService) -> Self {
        let mut names = BTreeSet::<Arc<str>>::new();
        let mut places = |address: &IpAddr, ports: &PortMap| -> Vec<Place> {
            let balanced = ports.iter().filter(|(_, port)| port.protocol != Protocol::Sctp);
            balanced
                .map(|(name, port)| {
                    // Thousands of backends have few port names.
                    let port_name = match names.get(name.as_str()) {
                        Some(known) => Arc::clone(known),
                        None => Arc::from(name.as_str()),
                    };
                    names.insert(Arc::clone(&port_name));
                    Place { port_name, port: *port, address: *address }
                })
                .collect()
        };
        let frontends =
            service.frontends.iter().flat_map(|(ip, ports)| places(ip, ports)).collect();
        let shared = service.backends.iter().filter(|_| service.shared);
        let backends = shared.flat_map(|(ip, ports)| places(ip, ports)).collect();
        Self { frontends, backends }
    }

    /// Whether there is nothing of the service.
    pub(crate) fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.backends.is_empty()
    }
}
