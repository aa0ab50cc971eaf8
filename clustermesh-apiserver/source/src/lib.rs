//! The source of a cluster's objects.
//!
//! A source reports [`SourceEvent`]s, which correspond to Kubernetes' list and watch protocol
//! (`docs/adr/0004-one-source-interface.md`). So the exporter does not depend on whether the objects come from a folder of
//! manifests or from an API server.

mod admitted;
mod annotation_names;
pub mod cluster_directory;
mod copies;
mod decode;
mod derived;
mod drain;
mod endpoints;
mod event;
mod kubernetes;
mod manifests;
mod problem;

pub use admitted::{Admitted, admit};
pub use annotation_names::unknown_annotations;
pub use copies::Copies;
pub use decode::{
    DecodeProblem, Decoded, Format, PassedOver, Places, Unreadable, decode, decode_in_pieces,
    decode_object, documents_of, key_of,
};
pub use derived::derived_slices;
pub use drain::{Drain, DrainError};
pub use endpoints::picks;
pub use event::{ResourceVersion, SourceEvent};
pub use kubernetes::NAMESPACE_NAME_LABEL;
pub use manifests::{MAX_FILE, ManifestsSource, ScanError, read_text};
pub use problem::Problem;
