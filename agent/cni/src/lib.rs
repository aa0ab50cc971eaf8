//! The protocol between a container runtime and a chained CNI plugin (CNI specification 1.0.0), and the file that the
//! plugin writes for the agent.
//!
//! A runtime calls a plugin with variables and a configuration on standard input: [`Request::read`] turns them into one
//! of four [`Request`]s. The answer is [`Request::Add`]'s `prevResult` unchanged, [`version_reply`], or a [`CniError`]
//! with the specification's code. An [`Attachment`] is a pod's network as far as the agent needs it, and its form on
//! disk.
//!
//! Architecture invariant: text in, values out, and back. No IO, no environment, no time.

mod attachment;
mod configuration;
mod environment;
mod error;
mod excerpt;
mod json;
mod reply;
mod request;
mod result;
mod version;

pub use attachment::{Attachment, AttachmentError, AttachmentKey, Netns, PodName, Remembered};
pub use configuration::Configuration;
pub use environment::{Variables, VariablesOf};
pub use error::CniError;
pub use reply::version_reply;
pub use request::{Add, Check, Delete, MAX_INPUT, Request};
pub use result::PrevResult;
pub use version::CniVersion;
