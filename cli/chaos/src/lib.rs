//! Judges of a lab: whether the kernels hold what the manifests say ([`history`]), and campaigns of random faults that
//! must not make a difference ([`campaign`]). And of etcds: whether their watches keep what etcd promises
//! ([`guarantees`], [`record`]).
//!
//! Architecture invariant: what is expected follows from manifests and a rule written here. No daemon is asked, and no
//! crate of a stage is used.

mod error;
pub mod etcdctl;
mod expected;
pub mod faults;
pub mod guarantees;
pub mod history;
mod located;
mod mesh;
pub mod record;
pub mod run;

pub use error::ChaosError;
