//! A second answer to what policies decide, for tests.
//!
//! It is written from Kubernetes' and Cilium's documents, shares no code with the compiler, and has no index and no state:
//! for each flow it reads all policies again, as JSON. What it does not know it refuses.
//!
//! [`generate`] makes worlds, flows and changes, over which both are compared.
//!
//! Architecture invariant: none of the mesh's crates.

mod cilium;
pub mod generate;
mod json;
mod judge;
mod labels;
mod network_policy;
mod peer;
mod port;
mod supported;
mod unsupported;
mod world;

pub use judge::{Answer, Decision, Kind, State};
pub use unsupported::Unsupported;
pub use world::World;
