//! The pods of this node: which addresses each has, and who it is.
//!
//! A pod's network is known from what the CNI plugin left ([`Attachment`]), who it is from what the local cluster
//! reports ([`LocalPods`]), and either may come first. [`Pods`] joins the two by the pod's name, and [`staleness`] says
//! which of the plugin's files are of containers that no longer are.
//!
//! Architecture invariant: no time, and no IO but in [`Attachments`], which reads the plugin's folder, and in [`AttachmentsTask`], which has that done. A pod keeps its identity
//! until it gets another or is detached.

mod attachments_task;
mod folder;
mod pods;
mod staleness;

pub use attachments_task::{AttachmentsRead, AttachmentsTask, Look, PodAnswer};
pub use folder::{AttachmentFound, Attachments};
pub use mesh_cni::{Attachment, AttachmentKey, PodName, Remembered};
pub use pods::{Bound, Counts, Detached, LocalPod, LocalPods, Pods, State};
pub use staleness::{NetnsSeen, Stale, staleness};
