//! Settings that hold for all services.

use std::sync::Arc;

use mesh_model::{ClusterId, ServiceName, ServiceTraffic, lb::Settings};

use super::Service;
use crate::{plan::Chosen, traffic_policy::TrafficPolicy};

/// Settings that do not change while an agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The local cluster's ID.
    pub local: ClusterId,
    /// The node that clients are on; `None` if it is not given, and all clients are treated alike.
    pub node: Option<Arc<str>>,
    /// Services that are not global are taken too.
    pub replace_kube_proxy: bool,
}

/// The clusters whose services are all known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SyncStatus {
    /// The local one.
    pub(super) local: bool,
    /// All clusters, and there are no others.
    pub(super) all: bool,
}

// === impl Rules ===

impl Rules {
    /// Whether a service's frontends are in the tables.
    pub(crate) fn takes(&self, service: &Service) -> bool {
        service.policy.as_ref().is_some_and(|policy| self.takes_traffic(&policy.traffic))
    }

    pub(crate) fn takes_traffic(&self, traffic: &ServiceTraffic) -> bool {
        traffic.global || self.replace_kube_proxy
    }

    /// The settings of a service's frontends. One without backends lets connections pass as long as a cluster may still
    /// have a backend.
    pub(super) fn settings(
        &self,
        name: &ServiceName,
        policy: &TrafficPolicy,
        chosen: &Chosen,
        synced: SyncStatus,
    ) -> Settings {
        let traffic = &*policy.traffic;
        let synced = if traffic.global { synced.all } else { synced.local };
        let is_api = name.namespace.as_ref() == "default" && name.name.as_ref() == "kubernetes";
        Settings {
            session_affinity: traffic.session_affinity.unwrap_or(0),
            plain: !traffic.global,
            pass_if_empty: is_api || (chosen.is_empty() && !synced),
        }
    }
}
