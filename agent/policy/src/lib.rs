//! What policies mean for the pods of a node: allowed or denied, by which rule (`docs/policy.md`).
//!
//! Architecture invariant: no IO, no clock, no async. The agent writes what [`mesh`] and its parts compile into the
//! kernel's maps; `clustermesh policy verdict` asks the same code.

mod mesh;
mod options;

pub use mesh::{
    Answer, Decision, DecisionKind, Directed, End, External, Mesh, Node, Pod, PodName, Service,
    Traffic,
};
pub use options::{AllowLocalhost, CidrMatch, Enforcement, Options};
