//! The frontends of the local services: each belongs to one service.

use std::sync::Arc;

use mesh_model::{
    ServiceName,
    lb::{Frontend, ServiceDelta},
};

use super::{Delta, Merge};
use crate::backend_set::BackendId;

impl Merge {
    /// A service has a frontend from now on; where another one has it already, when that lets go of it.
    pub(super) fn add_frontend(&mut self, service: &Arc<ServiceName>, place: &BackendId) {
        let frontend = frontend(place);
        match self.frontends.get(&frontend) {
            Some(holder) if holder == service => return,
            Some(_) => {
                self.waiting.entry(frontend).or_default().insert(Arc::clone(service));
                return;
            }
            None => drop(self.frontends.insert(frontend, Arc::clone(service))),
        }
        let (service, port_name) = (Arc::clone(service), Arc::clone(&place.port_name));
        let added = ServiceDelta::FrontendAdded { service, port_name, frontend };
        self.deltas.push(Delta::Service(added));
    }

    /// Removes a frontend of a service. The service itself may have it under another name, else the first service that
    /// waits for it.
    pub(super) fn remove_frontend(&mut self, service: &Arc<ServiceName>, place: &BackendId) {
        let gone = frontend(place);
        let renamed = self.place_of(service, gone);
        let mut waiting = self.waiting.remove(&gone).unwrap_or_default();
        if renamed.is_none() {
            waiting.remove(service);
        }
        if self.frontends.get(&gone) == Some(service) {
            self.frontends.remove(&gone);
            let removed =
                ServiceDelta::FrontendRemoved { service: Arc::clone(service), frontend: gone };
            self.deltas.push(Delta::Service(removed));
            let next = match renamed {
                Some(place) => Some((Arc::clone(service), place)),
                None => waiting.pop_first().and_then(|next| {
                    let place = self.place_of(&next, gone)?;
                    Some((next, place))
                }),
            };
            if let Some((next, place)) = next {
                self.add_frontend(&next, &place);
            }
        }
        if !waiting.is_empty() {
            self.waiting.insert(gone, waiting);
        }
    }

    /// The port of a local service to which a frontend belongs.
    fn place_of(&self, service: &ServiceName, wanted: Frontend) -> Option<BackendId> {
        let part = self.local()?.services.get(service)?;
        part.frontends().find(|place| frontend(place) == wanted).cloned()
    }
}

pub(super) fn frontend(place: &BackendId) -> Frontend {
    Frontend { address: place.address, port: place.port.number, protocol: place.port.protocol }
}
