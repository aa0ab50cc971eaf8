//! What holds for all services.

use std::collections::BTreeMap;

use mesh_model::{ClusterId, ServiceName, ServiceTraffic, lb::Settings};

use super::Service;
use crate::{
    cluster::{ClusterState, ClusterView},
    plan::Chosen,
    scheme::Scheme,
};

/// What does not change while an agent lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The own cluster's number.
    pub own: ClusterId,
    /// Services that are not global are taken too.
    pub replace_kube_proxy: bool,
}

// === impl Rules ===

impl Rules {
    /// Whether a service's frontends are in the tables.
    pub(crate) fn takes(&self, service: &Service) -> bool {
        service.scheme.as_ref().is_some_and(|scheme| self.takes_traffic(&scheme.traffic))
    }

    pub(crate) fn takes_traffic(&self, traffic: &ServiceTraffic) -> bool {
        traffic.global || self.replace_kube_proxy
    }

    /// What a service's frontends are like. One that leads nowhere lets pass as long as somebody may still have a backend.
    pub(crate) fn settings(
        &self,
        name: &ServiceName,
        scheme: &Scheme,
        chosen: &Chosen,
        (clusters, all_known): (&BTreeMap<ClusterId, ClusterView>, bool),
    ) -> Settings {
        let traffic = &*scheme.traffic;
        let heard = |view: &ClusterView| view.sure && view.state != ClusterState::Stale;
        let sure = || match traffic.global {
            true => all_known && clusters.values().all(heard),
            false => clusters.get(&self.own).is_some_and(|view| view.sure),
        };
        let is_api = name.namespace.as_ref() == "default" && name.name.as_ref() == "kubernetes";
        Settings {
            session_affinity: traffic.session_affinity.unwrap_or(0),
            plain: !traffic.global,
            pass_if_empty: is_api || (chosen.is_empty() && !sure()),
        }
    }
}
