//! What a manifest holds that is no object of the mesh.

use std::fmt;

use mesh_model::object::Object;

/// What is passed over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PassedOver {
    /// Objects of a kind that is not read.
    Kind(String),
    /// Endpoint slices of names (`addressType: FQDN`).
    Names,
}

/// Kinds that say what others may use of a cluster, and that the mesh does not read.
const EXPORTS: [&str; 2] = ["ServiceExport", "ServiceImport"];

// === impl PassedOver ===

impl PassedOver {
    /// What of an object is passed over although its kind is read.
    pub(super) fn of(object: &Object) -> Option<Self> {
        match object {
            Object::EndpointSlice(slice) if slice.address_type == "FQDN" => Some(Self::Names),
            _ => None,
        }
    }

    /// Whether its author wanted something of the mesh: a Deployment beside a Service is no mistake.
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::Kind(kind) => EXPORTS.contains(&kind.as_str()),
            Self::Names => false,
        }
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) if EXPORTS.contains(&kind.as_str()) => write!(
                f,
                "kind {kind} is not read: a Service is exported by its annotation service.cilium.io/global: \"true\""
            ),
            Self::Kind(kind) => write!(f, "kind {kind} is not read"),
            Self::Names => f.write_str(
                "EndpointSlices of addressType FQDN are not exported: no reader takes names",
            ),
        }
    }
}
