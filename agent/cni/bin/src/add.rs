//! ADD: a pod is attached.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use mesh_cni::{Add, Attachment, CniError};

use crate::{
    agent::{self, Answer},
    netns, registry,
};

/// Keeps the attachment for the agent and asks the agent for the pod's identity. Returns the result for the runtime.
///
/// The file is authoritative. An agent that is away, or that does not know the pod in time, binds it later, and the pod
/// starts all the same (`docs/adr/0008`).
pub(crate) fn run(add: &Add) -> Result<String, CniError> {
    let Add { configuration, key, netns, pod, uid, addresses, reply } = add;
    let attachment = Attachment {
        key: key.clone(),
        pod: pod.clone(),
        uid: uid.clone(),
        netns: netns::identify(netns)?,
        addresses: addresses.clone(),
        // Where the boot is not known, the namespace alone decides.
        boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default(),
        attached_unix_seconds: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    };
    registry::write(&configuration.pods_dir, &attachment)?;
    match agent::bind(&configuration.agent_socket, key) {
        Ok(Answer::Bound(identity)) => tracing::info!(%pod, %key, identity, "bound"),
        Ok(Answer::Waiting | Answer::Nothing) => {
            tracing::warn!(%pod, %key, "not known yet; bound as soon as it is");
        }
        Err(error) => {
            tracing::warn!(%pod, %key, %error, "bound as soon as the agent is there");
        }
    }
    Ok(reply.clone())
}
