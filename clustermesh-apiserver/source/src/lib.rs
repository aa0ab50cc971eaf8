//! Where a cluster's objects come from, behind one interface.
//!
//! A source reports [`SourceEvent`]s: what is there, when all of a kind was reported, what changes. That is Kubernetes'
//! own protocol of list and watch (`docs/adr/0004-one-source-interface.md` shows how each of its messages maps), so the
//! exporter need not know whether a folder of manifests or an API server is behind it.

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
pub use decode::{DecodeProblem, Decoded, Format, PassedOver, Places, decode};
pub use derived::derived_slices;
pub use drain::{Drain, DrainError};
pub use endpoints::picks;
pub use event::{ResourceVersion, SourceEvent};
pub use kubernetes::NAMESPACE_NAME_LABEL;
pub use manifests::{MAX_FILE, ManifestsSource, ScanError, read_text};
pub use problem::Problem;
