//! The forms in which a cluster exports its services.

use mesh_model::{ClusterConfig, ExportMode, RecordKind};

/// A form in which a cluster exports its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceFormat {
    /// One record a service.
    Services,
    /// One record an endpoint slice.
    Slices,
    /// For local nodes: services that are not global too, and their slices.
    Local,
}

// === impl ServiceFormat ===

impl ServiceFormat {
    pub(super) const ALL: [Self; 3] = [Self::Services, Self::Slices, Self::Local];

    /// Its kinds of records. Slices come first, so that no service exists without its backends.
    pub(super) fn kinds(self) -> &'static [RecordKind] {
        match self {
            Self::Services => &[RecordKind::Service],
            Self::Slices => &[RecordKind::EndpointSlice],
            Self::Local => &[RecordKind::LocalEndpointSlice, RecordKind::LocalService],
        }
    }

    /// Whether a cluster with that config exports it.
    pub(super) fn is_in(self, config: &ClusterConfig) -> bool {
        match (self, &config.export_mode) {
            (Self::Services, mode) => *mode != ExportMode::EndpointSlicesOnly,
            (Self::Slices, mode) => *mode != ExportMode::Services,
            (Self::Local, _) => true,
        }
    }
}
