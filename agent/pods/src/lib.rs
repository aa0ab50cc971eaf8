//! The pods of this node: their addresses and identities.
//!
//! A pod's network is known from the CNI plugin's file ([`Attachment`]), its identity from the local cluster
//! ([`LocalPods`]), and either may come first. [`Pods`] joins the two by the pod's name, and [`staleness`] finds the
//! plugin's files of containers that no longer exist.
//!
//! Pods that the plugin did not report are known from their network namespaces and addresses ([`PodNetns`]).
//!
//! Architecture invariant: no time, and no IO but in [`Attachments`], which reads the plugin's folder, in `Namespaces`, which
//! looks into network namespaces, and in [`AttachmentsTask`], which runs both. A pod keeps its identity until it gets another or is detached.

mod attachments_task;
mod folder;
mod namespaces;
mod pods;
mod staleness;

pub use attachments_task::{AttachmentsRead, AttachmentsTask, Look, PodAnswer};
pub use folder::{AttachmentFound, Attachments};
pub use mesh_cni::{Attachment, AttachmentKey, Netns, PodName, Remembered};
pub use namespaces::PodNetns;
pub use pods::{Bound, Counts, Detached, LocalPod, LocalPods, Pods, State};
pub use staleness::{NetnsSeen, Stale, staleness};
