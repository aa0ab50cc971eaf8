//! Checks of a lab: whether the kernels hold what the manifests specify ([`history`]), whether random faults change that or
//! fail requests ([`run`]), and whether the watches of its etcds keep etcd's guarantees ([`guarantees`], [`record`]).
//!
//! Architecture invariant: what is expected follows from manifests and from a rule in this crate. It asks no daemon, and
//! uses no crate of a daemon's stages.

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
