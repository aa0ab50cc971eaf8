//! What policies mean for the pods of a node: allowed or denied, by which rule (`docs/policy.md`).
//!
//! Architecture invariant: no IO, no clock, no async. The agent writes what [`mesh`] and its parts compile into the
//! kernel's maps; `clustermesh policy verdict` asks the same code.

mod cidrs;
mod class;
mod compiler;
mod matcher;
mod mesh;
mod options;
mod row;
mod set;
mod unions;

pub use class::Class;
pub use compiler::{Changes, Compiler, Direction, MAX_RULES, MAX_SELECTORS};
pub use mesh::{
    Answer, Decision, DecisionKind, Directed, End, External, Judge, Known, Mesh, Node, Pod,
    PodName, Service, Subject, Traffic, View,
};
pub use options::{AllowLocalhost, CidrMatch, Enforcement, Options};
pub use row::{Number, Row};
pub use set::{Peer, Set, SetPort, SetRule};
