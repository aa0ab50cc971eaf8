//! Policies of the own cluster, enforced on this node's pods.
//!
//! [`Enforcer`] is told what changed of policies, identities, addresses, ranges and pods, compiles it, and keeps the tables
//! of the judging programs. [`Interfaces`] is a thread that finds pods' interfaces and attaches the programs there, since
//! either takes longer than a core may wait.
//!
//! Architecture invariant: the enforcer writes elements of tables and nothing else; all other system calls are the thread's.

mod enforcer;
mod identities;
mod interfaces;
mod pods;

pub use enforcer::{Change, Enforcer, RefusedPolicies};
pub use interfaces::{Interfaces, Wanted};
