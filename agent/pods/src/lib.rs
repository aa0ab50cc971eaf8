//! The pods of this node: their addresses and identities.
//!
//! A pod's network is known from the CNI plugin's file ([`Attachment`]), its identity from the local cluster
//! ([`LocalPods`]), and either may come first. [`Pods`] joins the two by the pod's name, and [`staleness`] finds the
//! plugin's files of containers that no longer exist.
//!
//! Architecture invariant: no time, and no IO but in [`Attachments`], which reads the plugin's folder, and in
//! [`AttachmentsTask`], which runs that. A pod keeps its identity until it gets another or is detached.

mod attachments_task;
mod folder;
mod pods;
mod staleness;

pub use attachments_task::{AttachmentsRead, AttachmentsTask, Look, PodAnswer};
pub use folder::{AttachmentFound, Attachments};
pub use mesh_cni::{Attachment, AttachmentKey, PodName, Remembered};
pub use pods::{Bound, Counts, Detached, LocalPod, LocalPods, Pods, State};
pub use staleness::{NetnsSeen, Stale, staleness};
