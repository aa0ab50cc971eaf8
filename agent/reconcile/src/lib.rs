//! Brings state outside the agent (tables, routes, rule sets, files) to what is wanted, once for all writers.
//!
//! [`Reconciler`] is the logic, without IO and without a clock: changes by key go in, and the key to write next comes
//! out. It keeps only what is pending or failing; it asks the caller for what was written ([`Wanted`]), so that a
//! quarter of a million backends are not stored twice.
//!
//! * Two changes of one key are one write, and the last wanted value is what is written.
//! * A key that fails is retried after pauses of its own. They start again at the shortest when its wanted value
//!   changes, or when the kernel reported something about this very key ([`Reconciler::relevant`]).
//! * An audit compares what is really there with what is wanted, in slices, repairs and counts ([`Reconciler::audit`]).
//! * Each operation costs no more than the logarithm of the number of pending and failing keys.
//!
//! Two drivers: [`Reconciler::run_for`] for a target that is written in the caller's own loop, such as mapped tables,
//! and [`Writer`], a task, for a [`Target`] that has to be awaited: netlink, files.
//!
//! Architecture invariant: nothing here knows what a key means.

mod announce;
mod blocking;
mod failure;
mod order;
mod reconciler;
mod status;
mod target;
mod writer;

pub use blocking::{Blocking, CallError};
pub use failure::{Class, Failure};
pub use order::{Arrival, Order, Verb};
pub use reconciler::{
    Action, Apply, Job, Left, Outcome, Reconciler, Relevance, Repair, Settings, Turn, Wanted,
};
pub use status::{AuditPass, Reason, Status};
pub use target::{Listed, Report, Target};
pub use writer::{Options, Writer};
