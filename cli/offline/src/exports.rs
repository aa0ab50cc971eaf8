//! The backends that a cluster has for a service, and why they are not exported.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_model::{
    EndpointSlice, GlobalService, LocalService, Port, Protocol, Record, RecordKey, ServiceName,
    lb::Condition,
    object::{Kind, Object, ObjectKey},
};
use mesh_wire::{Layout, Peer, Role, decode};

use crate::{cluster::Cluster, importer::LastSeen, keys_file::KeysFile, simulation::Exporter};

/// A backend of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) address: IpAddr,
    /// Its ports by name, of all slices with the address.
    pub(crate) ports: BTreeSet<(String, Port)>,
    pub(crate) node: Option<String>,
    pub(crate) condition: Condition,
    /// The records by which it is exported.
    records: Vec<RecordKey>,
}

/// Why a cluster does not export a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotExported {
    NoService,
    ExternalName,
    ForeignProxy,
    NamespaceNotGlobal,
    NotGlobal,
    NotShared,
}

/// The backends that a cluster has for a service, and the reason why it does not export them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offers {
    pub(crate) offers: BTreeMap<IpAddr, Offer>,
    pub(crate) not_exported: Option<NotExported>,
    /// Whether the cluster has a service of this name.
    pub(crate) has_service: bool,
}

// === impl Offers ===

impl Offers {
    pub(crate) fn of(exporter: &Exporter, service: &ServiceName) -> Self {
        match exporter {
            Exporter::Objects(cluster) => Self::of_objects(cluster, service),
            Exporter::Keys(file) => Self::of_keys(file, service),
        }
    }

    fn of_objects(cluster: &Cluster, service: &ServiceName) -> Self {
        let mut all = Self::default();
        let slices = cluster.objects().values().filter_map(|object| match object {
            Object::EndpointSlice(slice) => Some(slice),
            _ => None,
        });
        for slice in slices.filter(|slice| slice.service().as_ref() == Some(service)) {
            all.add_slice(slice);
        }
        let v1 = RecordKey::Service(service.clone());
        all.offers.values_mut().for_each(|offer| offer.records.push(v1.clone()));
        let key = ObjectKey {
            kind: Kind::Service,
            namespace: (*service.namespace).into(),
            name: (*service.name).into(),
        };
        let object = cluster.objects().get(&key);
        all.has_service = object.is_some();
        all.not_exported = match object {
            Some(Object::Service(object)) if object.external_name => {
                Some(NotExported::ExternalName)
            }
            Some(_) => not_exported(cluster, service),
            None => Some(NotExported::NoService),
        };
        all
    }

    fn of_keys(file: &KeysFile, service: &ServiceName) -> Self {
        let mut all = Self::default();
        let config = file.config();
        let layout = config.as_ref().map_or_else(|| file.layout(), Layout::of);
        let peer = Peer {
            name: file.cluster.clone(),
            role: Role::Remote,
            id: config.map_or(file.id, |config| config.id),
            limit: mesh_model::ClusterLimit::Max511,
            layout,
        };
        for (key, value) in &file.entries {
            match decode(&peer, key.as_bytes(), value) {
                Ok(Some(Record::Service(record))) if record.name == *service => {
                    all.has_service = true;
                    if !record.shared {
                        all.not_exported = Some(NotExported::NotShared);
                    }
                    all.add_service(&record);
                }
                Ok(Some(Record::EndpointSlice(slice)))
                    if slice.service().as_ref() == Some(service) =>
                {
                    all.has_service = true;
                    all.add_slice(&slice);
                }
                _ => {}
            }
        }
        all
    }

    fn add_slice(&mut self, slice: &EndpointSlice) {
        let ports: BTreeSet<(String, Port)> = slice
            .ports
            .iter()
            .filter_map(|port| Some((port.name.clone().unwrap_or_default(), port.port()?)))
            .collect();
        let record = RecordKey::EndpointSlice(ServiceName::new(&slice.namespace, &slice.name));
        for endpoint in &slice.endpoints {
            for address in endpoint.ips() {
                let offer = self.offer(address);
                offer.ports.extend(ports.iter().cloned());
                offer.node = offer.node.take().or_else(|| endpoint.node.clone());
                offer.condition = endpoint.condition();
                offer.records.push(record.clone());
            }
        }
    }

    fn add_service(&mut self, service: &GlobalService) {
        for (address, ports) in &service.backends {
            let offer = self.offer(*address);
            offer.ports.extend(ports.iter().map(|(name, port)| (name.clone(), *port)));
            offer.records.push(RecordKey::Service(service.name.clone()));
        }
    }

    fn offer(&mut self, address: IpAddr) -> &mut Offer {
        self.offers.entry(address).or_insert_with(|| Offer {
            address,
            ports: BTreeSet::new(),
            node: None,
            condition: Condition::default(),
            records: Vec::new(),
        })
    }
}

// === impl Offer ===

impl Offer {
    /// Why the importing cluster refuses a record with this backend.
    pub(crate) fn refused<'a>(&self, last_seen: &'a LastSeen) -> Option<&'a str> {
        self.records
            .iter()
            .find_map(|key| last_seen.refused.get(key))
            .map(|refused| refused.reason.as_str())
    }

    /// Its port with a name and protocol, or any other port.
    pub(crate) fn port(&self, name: &str, protocol: Protocol) -> Option<&(String, Port)> {
        let fits = |(known, port): &&(String, Port)| known == name && port.protocol == protocol;
        self.ports.iter().find(fits).or_else(|| self.ports.first())
    }
}

// === impl NotExported ===

impl NotExported {
    /// The reason as a word that does not change.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoService => "no-service",
            Self::ExternalName => "external-name",
            Self::ForeignProxy => "foreign-proxy",
            Self::NamespaceNotGlobal => "namespace-not-global",
            Self::NotGlobal => "service-not-global",
            Self::NotShared => "not-shared",
        }
    }

    /// The reason as a sentence.
    pub(crate) fn sentence(self, cluster: &str, service: &ServiceName) -> String {
        let namespace = &service.namespace;
        match self {
            Self::NoService => format!("cluster {cluster} has no service {service}"),
            Self::ExternalName => {
                format!("service {service} of cluster {cluster} is an ExternalName")
            }
            Self::ForeignProxy => format!(
                "service {service} of cluster {cluster} is another proxy's (service.kubernetes.io/service-proxy-name)"
            ),
            Self::NamespaceNotGlobal => format!(
                "namespace {namespace} of cluster {cluster} is not global (clustermesh.cilium.io/global)"
            ),
            Self::NotGlobal => format!(
                "service {service} of cluster {cluster} is not global (service.cilium.io/global)"
            ),
            Self::NotShared => format!(
                "service {service} of cluster {cluster} is not shared (service.cilium.io/shared)"
            ),
        }
    }
}

/// Why a cluster does not export a service that it has, by the record that its nodes read.
fn not_exported(cluster: &Cluster, service: &ServiceName) -> Option<NotExported> {
    let local = local_service(cluster, service)?;
    let takes_part = cluster.takes_part(&service.namespace);
    match () {
        () if local.foreign_proxy => Some(NotExported::ForeignProxy),
        () if !takes_part => Some(NotExported::NamespaceNotGlobal),
        () if !local.traffic.global => Some(NotExported::NotGlobal),
        () if !local.shared => Some(NotExported::NotShared),
        () => None,
    }
}

/// The record of a service that the nodes of a cluster read.
fn local_service(cluster: &Cluster, service: &ServiceName) -> Option<LocalService> {
    match cluster.local(RecordKey::LocalService(service.clone()))? {
        Record::LocalService(local) => Some(*local),
        _ => None,
    }
}
