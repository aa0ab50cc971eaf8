//! CHECK: is a pod still attached as it was?

use mesh_cni::{Check, CniError};

use crate::{
    agent::{self, Answer},
    netns, registry,
};

/// Looks at the pod's interface, at the attachment's file, and at what the agent knows. An agent that is away knows
/// nothing, and takes nothing from the pod: then the file decides.
pub(crate) fn run(check: &Check) -> Result<(), CniError> {
    let Check { configuration, key, netns, addresses } = check;
    let found = netns::interfaces(netns)?;
    let interface = key.interface();
    if !found.iter().any(|(name, _)| name == interface) {
        return Err(CniError::InterfaceMissing(interface.into()));
    }
    for address in addresses {
        if !found.iter().any(|(name, has)| name == interface && *has == Some(*address)) {
            return Err(CniError::AddressMissing {
                interface: interface.into(),
                address: address.to_string(),
            });
        }
    }
    if registry::read(&configuration.pods_dir, key)?.is_none() {
        return Err(CniError::NotAttached(key.to_string()));
    }
    match agent::look(&configuration.agent_socket, key) {
        Ok(Answer::Bound(_)) => Ok(()),
        Ok(Answer::Waiting) => Err(CniError::TryAgain(format!(
            "the cluster has not yet reported the identity of {key}"
        ))),
        Ok(Answer::Nothing) => Err(CniError::NotBound(key.to_string())),
        Err(error) => {
            tracing::warn!(%key, %error, "only the attachment is looked at");
            Ok(())
        }
    }
}
