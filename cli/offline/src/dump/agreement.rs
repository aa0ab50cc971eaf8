//! Compares services v1 with endpoint slices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_model::{
    ClusterName, EndpointSlice, ExportMode, Port, Protocol, Record, RecordKey, ServiceName,
    service::SERVICE_NAME_LABEL,
};
use mesh_wire::{Key, Layout, Prefix};

use super::{ClusterInKeys, Deviation};

/// The backends of a service in its slices: the ports that services v1 may have for each address.
type Backends = BTreeMap<IpAddr, BTreeSet<(String, Port)>>;

impl ClusterInKeys {
    /// Differences between the two formats, for a cluster that exports both.
    pub(super) fn disagreements(&self, name: &ClusterName, layout: Layout) -> Vec<Deviation> {
        let mode = self.config.as_ref().map(|config| &config.export_mode);
        if mode != Some(&ExportMode::ServicesAndEndpointSlices) {
            return Vec::new();
        }
        let forms = [Prefix::Services, Prefix::EndpointSlices];
        if layout == Layout::Cache && !forms.into_iter().all(|form| self.has_form(form)) {
            // A copy has only one of the two formats.
            return Vec::new();
        }
        let mut of_slices = BTreeMap::<ServiceName, Backends>::new();
        let mut found = Vec::new();
        for record in self.records.values() {
            let Record::EndpointSlice(slice) = record else { continue };
            let Some(service) = slice.labels.get(SERVICE_NAME_LABEL) else {
                found.push(Deviation {
                    key: Key::of_record(layout, name, record.key()).to_string(),
                    reason: format!("it has no label {SERVICE_NAME_LABEL}: it is of no service"),
                });
                continue;
            };
            let service = ServiceName::new(&slice.namespace, service);
            add(of_slices.entry(service).or_default(), slice);
        }
        let names: BTreeSet<ServiceName> =
            self.services().chain(of_slices.keys().cloned()).collect();
        for service in names {
            let record = RecordKey::Service(service.clone());
            let key = Key::of_record(layout, name, record.clone()).to_string();
            let slices = of_slices.remove(&service).unwrap_or_default();
            let mut say = |reason: String| {
                let reason = format!("service and slices disagree: {reason}");
                found.push(Deviation { key: key.clone(), reason });
            };
            let Some(Record::Service(v1)) = self.records.get(&record) else {
                say("there are slices, and no service".into());
                continue;
            };
            for address in slices.keys().filter(|address| !v1.backends.contains_key(*address)) {
                say(format!("{address} is in a slice only"));
            }
            for (address, ports) in &v1.backends {
                match slices.get(address) {
                    None => say(format!("{address} is in the service only")),
                    Some(sliced) => {
                        let differs = |(port_name, port): &(&String, &Port)| {
                            !sliced.contains(&((*port_name).clone(), **port))
                        };
                        for (port_name, port) in ports.iter().filter(differs) {
                            let Port { protocol, number } = port;
                            say(format!(
                                "{address} has port {port_name:?} {number}/{protocol} in the service only"
                            ));
                        }
                        let unknown =
                            sliced.iter().filter(|(name, port)| ports.get(name) != Some(port));
                        for (port_name, Port { protocol, number }) in unknown {
                            say(format!(
                                "{address} has port {port_name:?} {number}/{protocol} in a slice only"
                            ));
                        }
                    }
                }
            }
        }
        found
    }

    fn services(&self) -> impl Iterator<Item = ServiceName> {
        self.records.keys().filter_map(|key| match key {
            RecordKey::Service(name) => Some(name.clone()),
            _ => None,
        })
    }
}

/// Adds the backends of a slice that a service v1 lists too.
fn add(backends: &mut Backends, slice: &EndpointSlice) {
    let ports = slice.ports.iter().filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or(Protocol::Tcp.as_str()).parse().ok()?;
        let number = u16::try_from(port.number?).ok()?;
        Some((port.name.clone().unwrap_or_default(), Port { protocol, number }))
    });
    let ports: BTreeSet<(String, Port)> = ports.collect();
    for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.is_listed()) {
        for address in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
            backends.entry(address.to_canonical()).or_default().extend(ports.iter().cloned());
        }
    }
}
