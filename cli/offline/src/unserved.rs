//! Services without a frontend and refused records, each with the reason: explanations of frontends do not show them.

use mesh_model::{
    ClusterName, LocalService, Protocol, Record, RecordKey, ServiceName,
    lb::Frontend,
    object::{Kind, Object, ObjectKey},
};
use mesh_wire::{DecodeError, Key};

use crate::{
    cluster::Cluster,
    explained::{ExplainedBackend, SCTP, ServiceQuery},
    exports::{NotExported, Offers},
    simulation::{Exporter, Simulation},
};

/// A service, or a port of it, without a frontend; or a refused record or cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Unserved {
    /// The service; `None` if it is not known, or if all services are affected.
    pub service: Option<ServiceName>,
    /// The name of its port, or empty.
    pub port_name: String,
    /// The address to which clients would connect.
    pub frontend: Option<Frontend>,
    /// The cluster of the service or record.
    pub cluster: ClusterName,
    /// The refused key in etcd.
    pub key: Option<String>,
    /// The reason, as a word that does not change.
    pub word: &'static str,
    /// The reason, as a sentence.
    pub reason: String,
    /// The known backends of the service.
    pub backends: Vec<ExplainedBackend>,
}

// === impl Simulation ===

impl Simulation {
    /// What the importing cluster refuses of others: whole clusters, and the records of the wanted service, or of all
    /// services. Slices of host names are not among them: other versions may write them, and no agent can use them.
    pub fn refused(&self, wanted: Option<&ServiceQuery>) -> Vec<Unserved> {
        let mut all = Vec::new();
        for name in self.exporters.keys() {
            let Some(last_seen) = self.importer.last_seen(name) else { continue };
            let refused = |word, key: Option<&str>, reason: &str| Unserved {
                key: key.map(ToOwned::to_owned),
                word,
                reason: reason.to_owned(),
                ..Unserved::of(name)
            };
            if let Some(why) = &last_seen.refusal {
                all.push(refused(
                    "cluster-refused",
                    None,
                    &format!("cluster {name} is refused: {why}"),
                ));
            }
            let wants = |service: &Option<ServiceName>| {
                wanted.is_none_or(|wanted| service.as_ref() == Some(&wanted.service))
            };
            for record in last_seen.refused.values().filter(|record| wants(&record.service)) {
                let reason = format!("refused: {}", record.reason);
                let service = record.service.clone();
                all.push(Unserved { service, ..refused("refused", Some(&record.key), &reason) });
            }
            for (key, why) in &last_seen.rejected {
                let names = matches!(why, DecodeError::Word { field: "addressType", text } if text == "FQDN");
                let (service, may_be) = about(key);
                let may_be_wanted = wanted.is_none_or(|wanted| may_be(&wanted.service));
                if !names && may_be_wanted {
                    let reason = format!("refused: {why}");
                    all.push(Unserved { service, ..refused("refused", Some(key), &reason) });
                }
            }
        }
        all
    }

    /// All that the importing cluster refuses, each with the reason: whole clusters, records, and keys.
    pub fn refusals(&self) -> Vec<String> {
        let mut all = Vec::new();
        for name in self.exporters.keys() {
            let Some(last_seen) = self.importer.last_seen(name) else { continue };
            all.extend(
                last_seen.refusal.iter().map(|why| format!("cluster {name} is refused: {why}")),
            );
            let refused = last_seen.refused.values();
            all.extend(refused.map(|r| format!("cluster {name}: refused: {}", r.reason)));
            let rejected = last_seen.rejected.iter();
            all.extend(rejected.map(|(key, why)| format!("cluster {name}: {key}: {why}")));
        }
        all
    }

    /// Services, or ports of them, of the importing cluster that have no frontend. With `wanted`, only that service.
    pub fn without_frontend(&self, wanted: Option<&ServiceQuery>) -> Vec<Unserved> {
        let mut all = match (wanted, self.exporters.get(self.local())) {
            (Some(wanted), _) => self.unserved(&wanted.service, Some(wanted)),
            (None, Some(Exporter::Objects(cluster))) => {
                let services = cluster.objects().keys().filter(|key| key.kind == Kind::Service);
                let names = services.map(|key| ServiceName::new(&key.namespace, &key.name));
                names.flat_map(|name| self.unserved(&name, None)).collect()
            }
            (None, _) => Vec::new(),
        };
        all.extend(self.refused_objects(wanted));
        all
    }

    /// Services of which a cluster has nothing because their objects are invalid.
    fn refused_objects(&self, wanted: Option<&ServiceQuery>) -> impl Iterator<Item = Unserved> {
        let refused = self.refused_services.iter().filter(move |((cluster, service), _)| {
            wanted.is_none_or(|wanted| wanted.service == *service)
                && !self.clusters_with(service).contains(&cluster)
        });
        refused.map(|((cluster, service), problem)| Unserved {
            service: Some(service.clone()),
            word: "object-refused",
            reason: format!("the Service of cluster {cluster} is refused: {problem}"),
            ..Unserved::of(cluster)
        })
    }

    fn unserved(&self, service: &ServiceName, wanted: Option<&ServiceQuery>) -> Vec<Unserved> {
        let local = self.local();
        let whole = |word: &'static str, reason: String| {
            let backends = self.offered(service, word, &reason);
            let service = Some(service.clone());
            vec![Unserved { service, word, reason, backends, ..Unserved::of(local) }]
        };
        if !self.clusters_with(service).contains(&local) {
            if self.refused_services.contains_key(&(local.clone(), service.clone())) {
                return Vec::new();
            }
            let having = self.clusters_with(service);
            let names: Vec<&str> = having.iter().map(|name| name.as_str()).collect();
            let reason = match names.as_slice() {
                [] => format!("there is no service {service} in any cluster"),
                some => format!(
                    "cluster {local} has no service {service}, so it does not use that of {}",
                    some.join(", ")
                ),
            };
            return whole(NotExported::NoService.as_str(), reason);
        }
        let mut all = match self.exporters.get(local) {
            Some(Exporter::Objects(cluster)) => match local_service(cluster, service) {
                Local::ExternalName => {
                    let why = NotExported::ExternalName;
                    return whole(why.as_str(), why.sentence(local.as_str(), service));
                }
                Local::Known(known) if known.foreign_proxy => {
                    let why = NotExported::ForeignProxy;
                    return whole(why.as_str(), why.sentence(local.as_str(), service));
                }
                Local::Known(known) if known.cluster_ips.is_empty() => {
                    let reason = format!(
                        "service {service} of cluster {local} has no cluster IP: clients connect to its pods themselves"
                    );
                    return whole("headless", reason);
                }
                Local::Known(known) => self.sctp(&known, wanted),
                Local::Unknown => Vec::new(),
            },
            _ => Vec::new(),
        };
        if all.is_empty()
            && self.explain(Some(wanted.unwrap_or(&ServiceQuery::of(service)))).is_empty()
        {
            let port = match wanted {
                Some(ServiceQuery { port: Some(port), protocol: Some(protocol), .. }) => {
                    format!("no frontend with a port {port}/{protocol}")
                }
                Some(ServiceQuery { port: Some(port), .. }) => {
                    format!("no frontend with a port {port}")
                }
                _ => "no frontend".into(),
            };
            let reason = format!("service {service} of cluster {local} has {port}");
            let service = Some(service.clone());
            all.push(Unserved { service, word: "no-frontend", reason, ..Unserved::of(local) });
        }
        all
    }

    /// The ports of SCTP of a service, which are not balanced.
    fn sctp(&self, service: &LocalService, wanted: Option<&ServiceQuery>) -> Vec<Unserved> {
        let ports = service.ports.iter().filter(|(name, port)| {
            port.protocol == Protocol::Sctp
                && wanted.is_none_or(|wanted| wanted.has_port(name, port.number, port.protocol))
        });
        let of_port = ports.flat_map(|(name, port)| {
            service.cluster_ips.iter().map(move |ip| {
                let backends = self.offered(&service.name, "sctp", SCTP).into_iter();
                Unserved {
                    service: Some(service.name.clone()),
                    port_name: name.clone(),
                    frontend: Some(Frontend {
                        address: *ip,
                        port: port.number,
                        protocol: port.protocol,
                    }),
                    word: "sctp",
                    reason: SCTP.into(),
                    backends: backends
                        .filter(|backend| backend.address.is_ipv4() == ip.is_ipv4())
                        .collect(),
                    ..Unserved::of(self.local())
                }
            })
        });
        of_port.collect()
    }

    /// The backends of a service in all clusters, all with the same reason.
    fn offered(
        &self,
        service: &ServiceName,
        word: &'static str,
        why: &str,
    ) -> Vec<ExplainedBackend> {
        let of_cluster = self.exporters.iter().flat_map(|(name, exporter)| {
            let offers = Offers::of(exporter, service).offers.into_values();
            offers.map(|offer| {
                ExplainedBackend::left_out(name, &offer, offer.ports.first(), word, why.to_owned())
            })
        });
        of_cluster.collect()
    }
}

// === impl Unserved ===

impl Unserved {
    fn of(cluster: &ClusterName) -> Self {
        Self {
            service: None,
            port_name: String::new(),
            frontend: None,
            cluster: cluster.clone(),
            key: None,
            word: "",
            reason: String::new(),
            backends: Vec::new(),
        }
    }
}

/// What the nodes of a cluster know of its service.
enum Local {
    ExternalName,
    Known(Box<LocalService>),
    /// Nothing: its object is rejected.
    Unknown,
}

fn local_service(cluster: &Cluster, service: &ServiceName) -> Local {
    let key = ObjectKey {
        kind: Kind::Service,
        namespace: (*service.namespace).into(),
        name: (*service.name).into(),
    };
    match (cluster.objects().get(&key), cluster.local(RecordKey::LocalService(service.clone()))) {
        (Some(Object::Service(object)), _) if object.external_name => Local::ExternalName,
        (_, Some(Record::LocalService(known))) => Local::Known(known),
        _ => Local::Unknown,
    }
}

/// The service of a key, and whether the key may be of another service: that of a slice does not name its service.
fn about(key: &str) -> (Option<ServiceName>, impl Fn(&ServiceName) -> bool) {
    let record = match Key::parse(key.as_bytes()) {
        Ok(Key::Record { record, .. }) => Some(record),
        _ => None,
    };
    let service = match &record {
        Some(RecordKey::Service(name) | RecordKey::LocalService(name)) => Some(name.clone()),
        _ => None,
    };
    let known = service.clone();
    let may_be = move |wanted: &ServiceName| match &record {
        Some(RecordKey::EndpointSlice(slice) | RecordKey::LocalEndpointSlice(slice)) => {
            slice.namespace == wanted.namespace
        }
        _ => known.as_ref() == Some(wanted),
    };
    (service, may_be)
}
