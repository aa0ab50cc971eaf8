//! What is ignored in manifests.

use std::fmt;

use mesh_model::{
    excerpt,
    object::{Kind, Object},
};
use serde_json::Value;

use crate::{annotation_names::unknown, kubernetes::SOCKET_LB_ANNOTATION};

/// Something that is ignored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PassedOver {
    /// Objects of a kind that is not supported.
    Kind(String),
    /// Endpoint slices of host names (`addressType: FQDN`).
    Names,
    /// A wrong annotation, with the kind of object and a message. Objects of these kinds often have the same annotations,
    /// so they are counted.
    Annotation(Kind, String),
}

/// Kinds of the MCS-API, which is not supported.
const EXPORTS: [&str; 2] = ["ServiceExport", "ServiceImport"];

// === impl PassedOver ===

impl PassedOver {
    /// What is ignored in an object of a supported kind. The exporter reports wrong annotations of Services, Nodes and
    /// Namespaces.
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

    /// Whether it is probably a mistake. A Deployment beside a Service, for example, is not.
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::Kind(kind) => EXPORTS.contains(&kind.as_str()),
            // A wrong annotation does not stop the export, as on a Service.
            Self::Names | Self::Annotation(..) => false,
        }
    }

    /// Whether the status of an apiserver reports it.
    pub(crate) fn is_reported(&self) -> bool {
        self.is_mistake() || matches!(self, Self::Annotation(..))
    }
}

/// A message if a known annotation has an invalid value.
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
                "EndpointSlices of addressType FQDN are not exported: readers do not support host names",
            ),
        }
    }
}
