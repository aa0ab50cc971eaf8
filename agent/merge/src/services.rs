//! A service's backends as a set that can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_model::{
    ClusterId, ClusterName, GlobalService, Port, PortMap, Protocol, Record, ServiceName,
};

use crate::cluster::ENTRY_BYTES;

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

    /// What it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let places = self.frontends.len() + self.backends.len();
        ENTRY_BYTES + u64::try_from(places * size_of::<Place>()).unwrap_or(u64::MAX)
    }

    /// What was kept of a service, as a record. What was withdrawn is a service without backends.
    pub(crate) fn record(
        &self,
        name: &ServiceName,
        cluster: &ClusterName,
        id: ClusterId,
    ) -> Record {
        let by_address = |places: &BTreeSet<Place>| {
            let mut all = BTreeMap::<IpAddr, PortMap>::new();
            for Place { port_name, port, address } in places {
                all.entry(*address).or_default().insert(port_name.to_string(), *port);
            }
            all
        };
        Record::Service(Box::new(GlobalService {
            cluster: cluster.clone(),
            cluster_id: id,
            name: name.clone(),
            frontends: by_address(&self.frontends),
            backends: by_address(&self.backends),
            hostnames: BTreeMap::new(),
            zones: BTreeMap::new(),
            labels: BTreeMap::new(),
            selector: BTreeMap::new(),
            include_external: true,
            shared: true,
        }))
    }
}
