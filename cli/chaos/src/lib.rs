//! Judges of a lab: whether the kernels hold what the manifests say ([`history`]), and campaigns of random faults that
//! must not make a difference ([`campaign`]).
//!
//! Architecture invariant: what is expected follows from manifests and a rule written here. No daemon is asked, and no
//! crate of a stage is used.

pub mod campaign;
mod error;
mod expected;
pub mod faults;
pub mod history;
mod mesh;

pub use error::ChaosError;
