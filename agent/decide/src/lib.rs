//! Which backends a frontend leads to, and whether the nodes they are on can be reached.
//!
//! Today every backend of a service is used, of whatever cluster; affinity, weights and tiers will choose here.
//!
//! Architecture invariant: no IO and no clock: time is an argument, and what is known of the services is asked for.

mod backends;
mod budget;
mod probes;

pub use backends::{Services, decide};
pub use budget::{Budget, ChangeRate, Excess, WINDOW};
pub use probes::{PathHealth, Probe, Probes};
