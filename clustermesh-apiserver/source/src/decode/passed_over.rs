//! What a manifest holds that is no object of the mesh.

use std::fmt;

use mesh_model::{
    excerpt,
    object::{Kind, Object},
};
use serde_json::Value;

use crate::{annotation_names::unknown, kubernetes::SOCKET_LB_ANNOTATION};

/// What is passed over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PassedOver {
    /// Objects of a kind that is not read.
    Kind(String),
    /// Endpoint slices of names (`addressType: FQDN`).
    Names,
    /// Annotations of a kind of which there are many alike, and what is wrong with them.
    Annotation(Kind, String),
}

/// Kinds that say what others may use of a cluster, and that the mesh does not read.
const EXPORTS: [&str; 2] = ["ServiceExport", "ServiceImport"];

// === impl PassedOver ===

impl PassedOver {
    /// What of an object is passed over although its kind is read. Annotations of kinds that the exporter reads them of are
    /// named there, each with its object.
    pub(super) fn of(object: &Object, value: &Value) -> Vec<Self> {
        let mut all = Vec::new();
        let kind = match object {
            Object::Service(_) | Object::Node(_) | Object::Namespace(_) | Object::CiliumNode(_) => {
                return all;
            }
            Object::EndpointSlice(slice) => {
                all.extend((slice.address_type == "FQDN").then_some(Self::Names));
                Kind::EndpointSlice
            }
            other => other.key().kind,
        };
        let annotations = value.pointer("/metadata/annotations").and_then(Value::as_object);
        for (name, value) in annotations.into_iter().flatten() {
            let problem = unknown(kind, name).or_else(|| misspelt_word(kind, name, value));
            all.extend(problem.map(|problem| Self::Annotation(kind, problem)));
        }
        all
    }

    /// Whether its author wanted something of the mesh: a Deployment beside a Service is no mistake.
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::Kind(kind) => EXPORTS.contains(&kind.as_str()),
            // It stops nothing, as on a Service.
            Self::Names | Self::Annotation(..) => false,
        }
    }

    /// Whether the status of a running cluster names it.
    pub(crate) fn is_reported(&self) -> bool {
        self.is_mistake() || matches!(self, Self::Annotation(..))
    }
}

/// What is wrong with an annotation that a kind has.
fn misspelt_word(kind: Kind, name: &str, value: &Value) -> Option<String> {
    let is_known = |word: &str| ["on", "off"].iter().any(|known| word.eq_ignore_ascii_case(known));
    let found = value.as_str().filter(|word| !is_known(word))?;
    let shown = excerpt(found, 60);
    (kind == Kind::Pod && name == SOCKET_LB_ANNOTATION)
        .then(|| format!("{name}: {shown:?} is neither on nor off"))
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) if EXPORTS.contains(&kind.as_str()) => write!(
                f,
                "kind {kind} is not read: a Service is exported by its annotation service.cilium.io/global: \"true\""
            ),
            Self::Kind(kind) => write!(f, "kind {kind} is not read"),
            Self::Annotation(kind, problem) => write!(f, "{kind}: {problem}"),
            Self::Names => f.write_str(
                "EndpointSlices of addressType FQDN are not exported: no reader takes names",
            ),
        }
    }
}
