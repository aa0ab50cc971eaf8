//! The pods of this node: which addresses each has, and who it is.
//!
//! A pod's network is known from what the CNI plugin left ([`Attachment`]), who it is from what the own cluster says
//! ([`LocalPods`]), and either may come first. [`Pods`] joins the two by the pod's name, and [`staleness`] says which of the
//! plugin's files are of containers that no longer are.
//!
//! Architecture invariant: no IO, no time. Who a pod was stays until it is somebody else or is detached.

mod pods;
mod staleness;

pub use mesh_cni::{Attachment, AttachmentKey, PodName};
pub use pods::{Bound, Counts, Detached, LocalPods, Pods, State, Told};
pub use staleness::{NetnsSeen, Stale, staleness};
